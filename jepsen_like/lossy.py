"""Power cuts: a directory on a file system that forgets, on command, whatever was not synced (see lossyfs.c)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from jepsen_like.leftovers import Marker

SOURCE = Path(__file__).with_name("lossyfs.c")
_INCLUDE = Path("/usr/include/fuse3/fuse.h")
_CONTROL = ".lossy"


def possible(folder: Path) -> str:
    """Why this machine cannot have one below `folder`; "" when it can. Compiles it."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no access to /dev/fuse"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "no fusermount3 here (package fuse3)"
    if not _INCLUDE.exists() or shutil.which("gcc") is None:
        return "no gcc or no libfuse3-dev here"
    try:
        build(folder)
    except subprocess.CalledProcessError as error:
        return f"lossyfs.c does not compile: {error.stderr.decode(errors='replace')[-200:]}"
    return ""


def build(folder: Path) -> Path:
    """Compiles the file system into `folder`. Raises CalledProcessError."""
    program = folder / "lossyfs"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-D_FILE_OFFSET_BITS=64", "-I/usr/include/fuse3"]
    command = ["gcc", *flags, "-o", str(program), str(SOURCE), "-lfuse3", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return program


class LossyDisk:
    """The file system of one node. `backing` holds the bytes, `mount` is where the node sees them."""

    def __init__(self, marker: Marker, program: Path, backing: Path, mount: Path) -> None:
        self.backing, self.mount = backing, mount
        backing.mkdir(parents=True, exist_ok=True)
        mount.mkdir(parents=True, exist_ok=True)
        marker.add("mount", mount)
        env = {**os.environ, "MR_CHAOS": marker.prefix}
        argv = [str(program), "-f", "-o", "default_permissions", str(mount)]
        env["LOSSYFS_BACKING"] = str(backing)
        with backing.with_name(f"{backing.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, env=env, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while not os.path.ismount(mount):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"lossyfs does not mount {mount}")
            time.sleep(0.01)

    def lose(self, torn: int = 0) -> dict[str, int]:
        """The power is cut: what was not synced is gone. Its processes must be dead. With `torn`, a seed, files that
        only grew keep a part of what was appended, as disks do. Returns what was lost: "bytes", "names" (entries of
        directories), "files" (that lost bytes)."""
        self._control.write_text(f"lose {torn}")
        return self.lost()

    def lost(self) -> dict[str, int]:
        """In all power cuts so far."""
        words = self._control.read_text().split()
        return {name: int(count) for name, count in zip(words[::2], words[1::2], strict=True)}

    def read_only(self, on: bool) -> None:
        """From now on every change is refused with EROFS; "refused" counts them."""
        self._control.write_text("readonly" if on else "writable")

    def close(self) -> None:
        """Waits for the file system's process, which ends when it is unmounted. Idempotent."""
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _control(self) -> Path:
        return self.mount / _CONTROL
