"""Snapshots as files: what a state machine was at one index, complete and verified, or not there at all.

The law: a snapshot appears under its name only when all of it, and the name itself, is on disk; whatever
reads it verifies length and checksum first. So the log may be trimmed as soon as `write` or `install`
returns, and not before (hazards 3, 4, 7, 12, 14).

    MAGIC  u32 header length  header  meta  data  SHA-256 of all before it

Pieces for the network are cut out of the file as it is, by offset, and put together again in a file aside: a
piece that comes twice, late or after a reconnect changes nothing, and the whole is verified before it is
installed. The file stays readable for who has it open while a newer one takes its place.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from consensus.journal import damaged, disk_failed

MAGIC = b"MAPRAFT-SNAPSHOT-1\n"
_HEADER = struct.Struct("<QQQQ")  # index, term, length of meta, length of data
_DIGEST = 32
_NAME = re.compile(r"snapshot-(\d{20})-(\d+)\.snap")
_CHUNK = 1 << 20


class BadSnapshot(Exception):
    """The bytes are no snapshot, or not all of one, or were altered."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state machine's bytes after entry `index` of `term`; `meta` is the consensus layer's own."""

    index: int
    term: int
    meta: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """A snapshot that a peer sends in pieces: where it ends, the size of the file, and its checksum."""

    index: int
    term: int
    size: int
    checksum: bytes


class SnapshotFile:
    """A snapshot on disk, verified. Holds the file open, so that it can be sent while it is superseded."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(self._file).st_size
            self.index, self.term, meta, _, self.checksum = _verify(self._file, self.size)
        except BaseException:
            os.close(self._file)
            raise
        self.meta = meta

    @property
    def offer(self) -> Offer:
        """What a receiver must know beforehand."""
        return Offer(self.index, self.term, self.size, self.checksum)

    def read(self, offset: int, length: int) -> bytes:
        """A piece of the file."""
        return os.pread(self._file, length, offset)

    def load(self) -> Snapshot:
        """The whole, verified again. Raises BadSnapshot."""
        content = b"".join(_chunks(self._file, self.size))
        return parse(content)

    def close(self) -> None:
        """Lets the file go. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Receiver:
    """Puts a snapshot together that comes in pieces, in a file aside."""

    def __init__(self, offer: Offer, aside: Path, install: Callable[[Path], SnapshotFile]) -> None:
        self.offer = offer
        self.held = 0
        """Bytes held without a hole: the offset of the next piece wanted."""
        self._aside = aside
        self._install = install
        self._file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    @property
    def complete(self) -> bool:
        """Whether every byte is here."""
        return self.held == self.offer.size

    @property
    def done(self) -> bool:
        """Installed or abandoned: of no more use."""
        return self._file < 0

    def write(self, offset: int, data: bytes) -> int:
        """Takes a piece; one that does not begin where it should changes nothing. Returns `held`."""
        if offset == self.held and offset + len(data) <= self.offer.size:
            view = memoryview(data)
            while view:
                written = os.pwrite(self._file, view, self.held)
                self.held += written
                view = view[written:]
        return self.held

    def install(self) -> SnapshotFile:
        """Verifies the whole and makes it the newest, unless a newer one is there: returns the newest.

        Raises BadSnapshot (start again from nothing) and JournalFailed.
        """
        assert self.complete, "a snapshot with a hole is never installed"
        try:
            index, term, _, _, checksum = _verify(self._file, self.offer.size)
            if (index, term, checksum) != (self.offer.index, self.offer.term, self.offer.checksum):
                raise BadSnapshot(f"it ends at {index}/{term}, not at {self.offer.index}/{self.offer.term}")
            os.fsync(self._file)
        except BadSnapshot:
            self.abandon()
            raise
        self._close()
        return self._install(self._aside)

    def abandon(self) -> None:
        """Forgets what has come. Idempotent."""
        self._close()
        self._aside.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class SnapshotStore:
    """The snapshots of one member, in a directory of their own; only the newest is kept."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._receiver: Receiver | None = None
        for path in directory.glob("aside-*"):  # what a crash left
            path.unlink()

    def latest(self) -> SnapshotFile | None:
        """The newest snapshot, verified. Raises RefusedToStart when it is damaged: its log is gone."""
        newest = self._newest()
        if newest is None:
            return None
        try:
            return SnapshotFile(newest)
        except (BadSnapshot, OSError) as error:
            raise damaged("snapshot", f"{newest}: {error}") from error

    def write(self, snapshot: Snapshot) -> SnapshotFile:
        """Makes `snapshot` the newest, unless a newer one is there: returns the newest. Any thread, but
        `write` and `install` one at a time. Raises JournalFailed."""
        aside = self._directory / f"aside-write-{snapshot.index}"
        try:
            with open(aside, "wb", opener=_private) as file:
                digest = hashlib.sha256()
                for part in _parts(snapshot):
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise disk_failed(error, "cannot write a snapshot: ") from error
        return self._install(aside)

    def receive(self, offer: Offer) -> Receiver:
        """Begins to take a snapshot in pieces, or goes on with the same; what came of another is lost."""
        receiver = self._receiver
        if receiver is None or receiver.offer != offer or receiver.done:
            if receiver is not None:
                receiver.abandon()
            self._receiver = receiver = Receiver(offer, self._directory / "aside-receive", self._install)
        return receiver

    def _newest(self) -> Path | None:
        names = (path for path in self._directory.iterdir() if _NAME.fullmatch(path.name))
        return max(names, key=lambda path: path.name, default=None)

    def _install(self, aside: Path) -> SnapshotFile:
        file = SnapshotFile(aside)
        newest = self._newest()
        if (
            newest is not None and int(newest.name[9:29]) >= file.index
        ):  # one written, one received: they crossed
            file.close()
            aside.unlink()
            return SnapshotFile(newest)
        path = self._directory / f"snapshot-{file.index:020d}-{file.term}.snap"
        try:
            aside.rename(path)
            sync_directory(self._directory)
        except OSError as error:
            raise disk_failed(error, "cannot write a snapshot: ") from error
        for old in self._directory.iterdir():
            if _NAME.fullmatch(old.name) and old.name < path.name:
                old.unlink()
        return file


def serialise(snapshot: Snapshot) -> bytes:
    """The file of a snapshot as bytes; `parse` is its inverse."""
    content = b"".join(_parts(snapshot))
    return content + hashlib.sha256(content).digest()


def parse(content: bytes) -> Snapshot:
    """The snapshot in a file's bytes, verified. Raises BadSnapshot."""
    index, term, meta, data = _read_header(content[: len(MAGIC) + 4 + _HEADER.size], len(content))
    if hashlib.sha256(memoryview(content)[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise BadSnapshot("wrong checksum")
    start = len(MAGIC) + 4 + _HEADER.size
    return Snapshot(index, term, content[start : start + meta], content[start + meta : start + meta + data])


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parts(snapshot: Snapshot) -> tuple[bytes, bytes, bytes]:
    header = _HEADER.pack(snapshot.index, snapshot.term, len(snapshot.meta), len(snapshot.data))
    return MAGIC + struct.pack("<I", len(header)) + header, snapshot.meta, snapshot.data


def _read_header(start: bytes, size: int) -> tuple[int, int, int, int]:
    if not start.startswith(MAGIC):
        newer = start.startswith(MAGIC[:-2])
        raise BadSnapshot(
            "its format is of a newer release" if newer else "it does not begin like a snapshot"
        )
    if len(start) < len(MAGIC) + 4 + _HEADER.size:
        raise BadSnapshot(f"it ends after {size} bytes")
    index, term, meta, data = _HEADER.unpack_from(start, len(MAGIC) + 4)
    expected = len(start) + meta + data + _DIGEST
    if size != expected:
        raise BadSnapshot(f"it has {size} bytes instead of {expected}")
    return index, term, meta, data


def _verify(file: int, size: int) -> tuple[int, int, bytes, int, bytes]:
    """(index, term, meta, length of data, checksum) of an open file. Raises BadSnapshot."""
    start = len(MAGIC) + 4 + _HEADER.size
    index, term, meta, data = _read_header(os.pread(file, start, 0), size)
    digest = hashlib.sha256()
    for chunk in _chunks(file, size - _DIGEST):
        digest.update(chunk)
    checksum = os.pread(file, _DIGEST, size - _DIGEST)
    if digest.digest() != checksum:
        raise BadSnapshot("wrong checksum")
    return index, term, os.pread(file, meta, start), data, checksum


def _chunks(file: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        chunk = os.pread(file, min(_CHUNK, size - offset), offset)
        if not chunk:
            raise BadSnapshot(f"it ends after {offset} bytes")
        yield chunk
        offset += len(chunk)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
