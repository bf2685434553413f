"""Nothing that a harness made outlives it: not after Ctrl-C, not after kill -9 of the harness.

Everything that needs removing is written into a marker file before it is made. A janitor process waits for the harness
to end and then removes what the marker names; should the janitor be killed too, the next harness that starts does it
(`sweep_dead`). Processes need no line of their own: all carry the prefix of their harness in the environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from mr.guardian import kill_tree, remove, started

ENVIRONMENT = "MR_CHAOS"  # = prefix of the harness, in every process that it starts
NODE = "MR_CHAOS_NODE"  # = id of the node
_KINDS = ("netns", "link", "mount", "folder", "cgroup")


def folder() -> Path:
    """Where this user's marker files are."""
    return Path(tempfile.gettempdir()) / f"mr-chaos-{os.getuid()}"


class Marker:
    """What one place has made. `prefix` is unique among all harnesses that run on this machine."""

    def __init__(self) -> None:
        folder().mkdir(mode=0o700, exist_ok=True)
        pid, number = os.getpid(), 0
        while True:
            self.prefix = f"mrch-{pid}-{number}"
            self.path = folder() / self.prefix
            try:
                self._file: IO[str] = self.path.open("x")
                break
            except FileExistsError:
                number += 1
        self._write({"pid": pid, "born": started(pid)})
        self._janitor = self._start_janitor()

    def add(self, kind: str, name: str | Path) -> None:
        """`name` is about to be made: a "netns", "link", "mount", "folder" or "cgroup"."""
        assert kind in _KINDS, kind
        self._write({kind: str(name)})

    def sweep(self) -> None:
        """Removes everything now. Idempotent."""
        if not self._file.closed:
            self._file.close()
            sweep(self.path)
            assert self._janitor.stdin is not None  # a pipe was asked for
            self._janitor.stdin.close()
            self._janitor.wait()

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _start_janitor(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-P", "-m", "jepsen_like.leftovers", str(self.path)]
        clean = {key: value for key, value in os.environ.items() if key != ENVIRONMENT}
        return subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True, env=clean)


def carriers(prefix: str) -> list[int]:
    """The living processes that carry `prefix` in their environment."""
    wanted = f"{ENVIRONMENT}={prefix}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue  # gone, or another user's
    return found


def sweep(marker: Path) -> list[str]:
    """Removes what `marker` names, then the marker. Returns what it found still there."""
    lines = _read(marker)
    found = []
    for pid in carriers(marker.name):
        found.append(f"process {pid}")
        kill_tree(pid)
    for line in reversed(lines):
        for kind, name in line.items():
            if kind in _KINDS and _remove(kind, name):
                found.append(f"{kind} {name}")
    marker.unlink(missing_ok=True)
    return found


def sweep_dead() -> list[str]:
    """Removes what harnesses left that are no more. Returns what was found."""
    found = []
    for marker in folder().glob("mrch-*") if folder().exists() else ():
        head = (_read(marker) or [{}])[0]
        pid = int(head.get("pid", 0))
        if not pid or started(pid) != head.get("born"):
            found += sweep(marker)
    return found


def _read(marker: Path) -> list[dict[str, str]]:
    """The lines of a marker; the last may be cut short."""
    lines = []
    try:
        for line in marker.read_text().splitlines():
            lines.append(json.loads(line))
    except (OSError, json.JSONDecodeError):
        pass
    return lines


def _remove(kind: str, name: str) -> bool:
    if kind == "folder":
        there = Path(name).exists()
        if there:
            remove(Path(name))
        return there
    if kind == "cgroup":
        return _remove_group(Path(name))
    if kind == "mount":
        if not _mounted(name):
            return False
        for _ in range(20):
            if _quiet("umount", name) or (_quiet("umount", "-l", name) and not _mounted(name)):
                break
            time.sleep(0.1)
        return True
    if kind == "netns":
        if not Path("/run/netns", name).exists():
            return False
        text = subprocess.run(
            ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
        ).stdout
        for pid in text.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        return _quiet("ip", "netns", "del", name)
    return Path("/sys/class/net", name).exists() and _quiet("ip", "link", "del", name)


def _remove_group(folder: Path) -> bool:
    """Its processes have been killed, and may take a moment to go."""
    there = folder.exists()
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            break
        except OSError:
            time.sleep(0.1)
    return there


def _mounted(path: str) -> bool:
    return any(line.split()[1] == path for line in Path("/proc/mounts").read_text().splitlines())


def _quiet(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def main() -> None:
    """The janitor: waits for the end of stdin, which is the end of the harness, then sweeps its marker."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    sweep(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
