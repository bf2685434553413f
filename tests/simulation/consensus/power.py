"""A file system under the real code that forgets, when the power goes, what was not synced.

It looks over the shoulder of one process: what of each file and of each directory was synced, and in which order. At
a chosen moment the power goes: from then on nothing counts, and what is left is put together elsewhere. Of what was not
synced chance keeps all, some or nothing; a name may outlive the content that it was given to.

RocksDB is trusted with its own files, as far as it was told to sync them.
"""

from __future__ import annotations

import fcntl
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rocksdict import Rdict

ROCKS = "rocks"  # the name of a directory that is RocksDB's own


@dataclass(slots=True, eq=False)
class File:
    """What of a file's content is on disk; None: nothing yet."""

    synced: bytes | None = None


class PowerDisk:
    """One life of a process on the files under `root`, until the event number `goes_at`."""

    def __init__(self, root: Path, after: Path, rng: random.Random, goes_at: int) -> None:
        self.root, self.after, self.rng, self.goes_at = root, after, rng, goes_at
        self.off = False
        self.events = 0
        self._files: dict[int, File] = {}  # by inode
        self._names: dict[str, dict[str, File | None]] = {}  # of each directory, as synced; None: a directory
        self._rocks: dict[str, int] = {}  # the length of each of RocksDB's files, as synced
        self._keep = rng.choice(
            (0.0, 0.0, 0.5, 1.0)
        )  # the share of what was not synced that survives all the same
        for directory, _, files in os.walk(root):
            for name in files:
                path = Path(directory, name)
                self._file(path.stat().st_ino).synced = path.read_bytes()
            self._names[directory] = self._listing(directory)
            if Path(directory).name == ROCKS:
                self.rocks_synced(Path(directory))

    # -- what the process does

    def event(self) -> None:
        """Something reaches the disk next. The power may go first."""
        self.events += 1
        if self.events == self.goes_at and not self.off:
            self.off = True
            self._salvage(str(self.root), self.after)

    def cut(self) -> None:
        """The power goes now, if it did not before."""
        if not self.off:
            self.goes_at = self.events + 1
            self.event()

    def fsync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        path = f"/proc/self/fd/{descriptor}"
        if not Path(os.readlink(path)).is_relative_to(self.root):
            return  # a directory above: it was there before
        self.event()
        if stat.S_ISDIR(found.st_mode):
            self._names[os.readlink(path)] = self._listing(path)
        else:
            self._file(found.st_ino).synced = Path(path).read_bytes()

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        self.event()
        written = _pwrite(descriptor, data, offset)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC:
            content = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            self._file(os.fstat(descriptor).st_ino).synced = content
        return written

    def rename(self, source: Any, target: Any, **more: Any) -> None:
        self.event()
        self._gone(target, more.get("dst_dir_fd"))
        _rename(source, target, **more)

    def unlink(self, path: Any, **more: Any) -> None:
        self.event()
        self._gone(path, more.get("dir_fd"))
        _unlink(path, **more)

    def rocks_synced(self, directory: Path) -> None:
        """All that RocksDB has written so far is on disk."""
        for entry in os.scandir(directory):
            self._rocks[entry.path] = entry.stat().st_size

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside the block the process runs on this disk."""
        disk = self

        class Watched:
            """RocksDB, watched."""

            def __init__(self, path: str, **options: Any) -> None:
                self._db, self._path = Rdict(path, **options), Path(path)
                disk.rocks_synced(self._path)

            def write(self, *arguments: Any) -> None:
                disk.event()
                self._db.write(*arguments)

            def flush_wal(self, sync: bool) -> None:
                disk.event()
                if sync:
                    disk.rocks_synced(self._path)

            def close(self) -> None:
                self._db.close()  # moves what is in memory to a file, and syncs that
                disk.rocks_synced(self._path)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._db, name)

        with (
            mock.patch("os.fsync", self.fsync),
            mock.patch("os.pwrite", self.pwrite),
            mock.patch("os.rename", self.rename),
            mock.patch("os.unlink", self.unlink),
            mock.patch("consensus.rocks.Rdict", Watched),
        ):
            yield

    # -- what is left

    def _file(self, inode: int) -> File:
        return self._files.setdefault(inode, File())

    def _gone(self, path: Any, directory: int | None) -> None:
        """The inode may be given to another file; what it was is still what the directory on disk names."""
        try:
            self._files.pop(os.stat(path, dir_fd=directory).st_ino, None)
        except FileNotFoundError:
            pass

    def _listing(self, directory: str) -> dict[str, File | None]:
        return {
            e.name: None if e.is_dir() else self._file(e.inode())
            for e in sorted(os.scandir(directory), key=lambda e: e.name)
        }

    def _salvage(self, directory: str, target: Path) -> None:
        target.mkdir(mode=0o700)
        if Path(directory).name == ROCKS:
            self._salvage_rocks(Path(directory), target)
            return
        now, synced = self._listing(directory), self._names.get(directory, {})
        for name, file in (now if self._chance() else synced).items():
            path = f"{directory}/{name}"
            if file is None:
                self._salvage(path, target / name)
                continue
            content = file.synced
            if now.get(name) is file and (content is None or self._chance()):
                written = Path(path).read_bytes()
                kept = content is not None or self._chance()
                content = written if kept else written[: int(self.rng.random() * len(written))]
            aside = os.open(target / name, os.O_WRONLY | os.O_CREAT, 0o600)
            with open(aside, "wb") as copy:
                copy.write(content or b"")

    def _salvage_rocks(self, directory: Path, target: Path) -> None:
        whole = self._chance()
        for path in sorted(directory.iterdir()):
            if whole or str(path) in self._rocks:
                content = path.read_bytes()
                (target / path.name).write_bytes(content if whole else content[: self._rocks[str(path)]])

    def _chance(self) -> bool:
        return self.rng.random() < self._keep


_pwrite, _rename, _unlink = os.pwrite, os.rename, os.unlink
