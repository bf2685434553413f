"""Content-addressed blobs on this master's disk: code bundles and split plans, outside the log.

The law: a file under its final name is complete, on disk and hashes to its name. It is written aside, hashed
on the way, fsynced and renamed, and the folder is fsynced too; what a crash leaves aside is swept at start.
The sum of all blobs is bounded. No network here: `copies.py` brings blobs to a majority of masters.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from io import BufferedWriter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mr.errors import NotFound, Rejected, Unavailable, Usage

T = TypeVar("T")
CHUNK = 1 << 20  # bytes of one message; well below gRPC's limit of 4 MiB


class BlobStore:
    """A folder of blobs. Every method may be called from the loop; disk work is done in threads.

    `limit_bytes` bounds all blobs together and `each_bytes` a single one. Blobs younger than `grace_s` are
    never swept: their submit may still be on its way.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int,
        each_bytes: int,
        grace_s: float = 900.0,
        failed: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._failed = failed
        self._lock: int | None = None
        self._aside = folder / "aside"
        self._limit = limit_bytes
        self._each = each_bytes
        self._grace_s = grace_s
        self._sizes: dict[bytes, int] = {}
        self._serial = itertools.count()
        self._writing = 0  # bytes being written aside

    def open(self) -> None:
        """Makes the folder, sweeps what a crash left aside, and lists what is there. Raises Usage if another process
        uses it.
        """
        self._aside.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        for made in (self._folder, self._folder.parent):  # else all blobs go with their folder in a power cut
            _sync(made)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise Usage(
                f"another master uses {self._folder.parent}", next="give each its own --data-dir"
            ) from None
        for left in self._aside.iterdir():
            left.unlink()
        for path in self._folder.iterdir():
            if path.is_file() and len(path.name) == 64:
                self._sizes[bytes.fromhex(path.name)] = path.stat().st_size

    def close(self) -> None:
        """Gives the folder free. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def total_bytes(self) -> int:
        """Of all blobs, those being written included."""
        return sum(self._sizes.values()) + self._writing

    def has(self, digest: bytes) -> bool:
        """Whether the blob is here, complete and on disk."""
        return digest in self._sizes

    def digests(self) -> set[bytes]:
        """Everything that is here."""
        return set(self._sizes)

    def size(self, digest: bytes) -> int:
        """Bytes. Raises NotFound."""
        try:
            return self._sizes[digest]
        except KeyError:
            raise NotFound(f"no blob {digest.hex()[:12]} here") from None

    def path(self, digest: bytes) -> Path:
        """Where the blob lies. Raises NotFound."""
        self.size(digest)
        return self._folder / digest.hex()

    async def put(self, digest: bytes, chunks: AsyncIterator[bytes]) -> None:
        """Keeps what `chunks` give, if it hashes to `digest`; returns when it is on disk. Raises Usage on a
        wrong digest, Rejected (QUOTA) beyond a limit.
        """
        if len(digest) != 32:
            raise Usage("a digest is the 32 bytes of a SHA-256")
        aside = self._aside / f"{digest.hex()}.{next(self._serial)}"
        written, sha = 0, hashlib.sha256()
        file = await self._on_disk(aside.open, "wb")
        try:
            async for data in chunks:
                self._admit(written + len(data), len(data))
                self._writing += len(data)
                written += len(data)
                sha.update(data)
                await self._on_disk(file.write, data)
            if sha.digest() != digest:
                raise Usage(f"blob {digest.hex()[:12]}: what arrived ({written} bytes) has another SHA-256")
            await self._on_disk(_settle, file, aside, self._folder / digest.hex())
            self._sizes[digest] = written
        finally:
            self._writing -= written
            with contextlib.suppress(OSError):  # what its buffer still holds is of no use
                file.close()
            with contextlib.suppress(OSError):  # a disk that takes no write removes nothing; `open` sweeps it
                aside.unlink(missing_ok=True)

    async def put_bytes(self, data: bytes) -> bytes:
        """Keeps `data`; returns its digest."""
        digest = hashlib.sha256(data).digest()
        if not self.has(digest):
            await self.put(digest, _pieces(data))
        return digest

    async def read(self, digest: bytes, offset: int = 0) -> AsyncIterator[bytes]:
        """The blob from `offset`, in chunks of at most 1 MiB. Raises NotFound."""
        with await self._on_disk(_open, self.path(digest), of=digest) as file:
            file.seek(offset)
            while data := await self._on_disk(file.read, CHUNK):
                yield data

    async def read_all(self, digest: bytes) -> bytes:
        """The whole blob, checked against its name. Raises NotFound; a damaged one is dropped, so that it is
        fetched again.
        """
        data = await self._on_disk(self.path(digest).read_bytes, of=digest)
        if hashlib.sha256(data).digest() != digest:
            self._drop(digest)
            raise NotFound(f"blob {digest.hex()[:12]} was damaged on disk and is dropped")
        return data

    def sweep(self, wanted: Iterable[bytes], now: float | None = None) -> list[bytes]:
        """Deletes what is not `wanted` and older than the grace; returns it."""
        now = time.time() if now is None else now
        unwanted = self.digests() - set(wanted)
        old = [digest for digest in sorted(unwanted) if now - self._written_at(digest, now) > self._grace_s]
        for digest in old:
            self._drop(digest)
        return old

    async def touch(self, digest: bytes) -> bool:
        """Starts the grace again: somebody is about to submit a job that names it. False if it is not here."""
        if digest not in self._sizes:
            return False
        try:
            await self._on_disk(os.utime, self.path(digest), of=digest)
        except NotFound:
            return False
        return True

    async def _on_disk(self, work: Callable[..., T], *args: Any, of: bytes = b"") -> T:
        """What `work` returns. A blob `of` that somebody has removed is no failure of the disk: it is fetched again."""
        try:
            return await asyncio.to_thread(work, *args)
        except OSError as error:
            if of and isinstance(error, FileNotFoundError):
                self._drop(of)
                raise NotFound(f"blob {of.hex()[:12]} is gone from this disk") from None
            self._failed(error)
            raise Unavailable(f"the disk of this master fails: {error.strerror}") from error

    def _written_at(self, digest: bytes, now: float) -> float:
        try:
            return (self._folder / digest.hex()).stat().st_mtime
        except FileNotFoundError:
            return now - self._grace_s - 1  # vanished: forget it as well

    def _drop(self, digest: bytes) -> None:
        (self._folder / digest.hex()).unlink(missing_ok=True)
        self._sizes.pop(digest, None)

    def _admit(self, size: int, more: int) -> None:
        if size > self._each:
            raise Rejected(
                f"a blob may have {self._each >> 20} MiB", code="QUOTA", next="ship less code with the job"
            )
        if self.total_bytes + more > self._limit:
            raise Rejected(
                "the masters' blob store is full",
                code="QUOTA",
                next="wait until jobs end, or raise its limit",
            )


def _settle(file: BufferedWriter, aside: Path, final: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    aside.rename(final)
    _sync(final.parent)


def _sync(folder: Path) -> None:
    """The names in it survive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]
