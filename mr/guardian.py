"""Outlives the process that started a local cluster, just long enough to leave nothing of it behind.

It reads lines from stdin: `+PID` (a server to watch), `-PID` (gone by itself), `rm PATH` (a folder to
remove). When stdin ends, which also a SIGKILL of the owner brings about, it kills those servers with all
their descendants and removes the folders. A pipe and not PR_SET_PDEATHSIG: that one fires when the
*thread* that started a child ends.

Runs as a plain script on the standard library alone, so that it starts in milliseconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path


def started(pid: int) -> str:
    """The start time of `pid` in clock ticks, as the kernel writes it; "" when it is gone. Tells reused
    pids."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def tree(pid: int) -> list[int]:
    """`pid` and every living descendant of it, parents first."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(fields[1])].append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children[parent]
    return found


def kill_tree(pid: int) -> None:
    """SIGKILLs `pid` and its descendants. Stops the parent first, so that it can start no more."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return
    for member in tree(pid):
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            pass


def remove(folder: Path, patience_s: float = 5.0) -> None:
    """Removes `folder`; dying processes may still write to it for a moment."""
    deadline = time.monotonic() + patience_s
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def main() -> None:
    """Watches until stdin ends, then cleans up."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    servers: dict[int, str] = {}
    folders: list[Path] = []
    for line in sys.stdin:
        word = line.rstrip("\n")
        if word.startswith("+"):
            servers[int(word[1:])] = started(int(word[1:]))
        elif word.startswith("-"):
            servers.pop(int(word[1:]), None)
        elif word.startswith("rm "):
            folders.append(Path(word[3:]))
    for pid, birth in servers.items():
        if birth and started(pid) == birth:
            kill_tree(pid)
    for folder in folders:
        remove(folder)


if __name__ == "__main__":
    main()
