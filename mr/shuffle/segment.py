"""A segment: the output of one map attempt, R regions in one file, with its index beside it (S1-05, S3-26, S4-16).

    0.m-00007.a1.seg   magic, then region 0, region 1, ... region R-1     (mr/shuffle/blocks.py)
    0.m-00007.a1.idx   magic, owner, R, size of the segment; for each region its offset, length, records and raw
                       bytes; CRC-32 of it all

Both are written aside and renamed, the index last: a segment with an index is whole. Nothing is fsynced,
since a worker's crash costs its map outputs anyway (they run again), and checksums tell a torn file from a
good one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

from mr.codec import Values
from mr.shuffle.blocks import Damaged, RegionReader, RegionWriter, region_records, seal
from mr.shuffle.checker import Checker, verify

__all__ = [
    "Checker",
    "Damaged",
    "Index",
    "SegmentWriter",
    "index_digest",
    "index_path",
    "open_index",
    "owner",
    "read_region",
    "region_records",
    "verify",
]

_SEGMENT_MAGIC = b"mrseg\x01\0\0"
_INDEX_MAGIC = b"mridx\x01\0\0"
_INDEX_HEAD = struct.Struct(">HIQ")  # length of the owner, R, size of the segment
_REGION = struct.Struct(">QQQQ")
_CRC = struct.Struct(">I")
_WRITE_BYTES = 256 << 10
PIECE_BYTES = 256 << 10


def owner(job: str, step: int, map: int, attempt: int) -> bytes:
    """Whom a map's segment belongs to: part of every checksum in it."""
    return f"{job}/{step}.m-{map:05d}.a{attempt}".encode()


@dataclass(frozen=True, slots=True)
class Index:
    """Where the regions of a segment lie: one entry for each partition in every list."""

    owner: bytes
    size: int  # of the segment file, bytes
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]  # as stored, END included
    records: tuple[int, ...]
    raw_bytes: tuple[int, ...]

    @property
    def reduces(self) -> int:
        """R, the number of regions."""
        return len(self.offsets)

    def encode(self) -> bytes:
        """The content of the index file."""
        rows = zip(self.offsets, self.lengths, self.records, self.raw_bytes, strict=True)
        body = b"".join(
            (
                _INDEX_MAGIC,
                _INDEX_HEAD.pack(len(self.owner), self.reduces, self.size),
                self.owner,
                *(_REGION.pack(*row) for row in rows),
            )
        )
        return body + _CRC.pack(crc32(body))


def index_path(segment: str | os.PathLike[str]) -> Path:
    """The index beside a segment."""
    return Path(segment).with_suffix(".idx")


def open_index(path: str | os.PathLike[str]) -> Index:
    """Read and verify an index; `path` is the index's or its segment's. Raises Damaged, OSError."""
    path = index_path(path)
    data = path.read_bytes()
    body, crc = data[: -_CRC.size], data[-_CRC.size :]
    if not body.startswith(_INDEX_MAGIC) or _CRC.pack(crc32(body)) != crc:
        raise Damaged(path, None, 0, "checksum mismatch in the index")
    at = len(_INDEX_MAGIC)
    owner_bytes, reduces, size = _INDEX_HEAD.unpack_from(body, at)
    at += _INDEX_HEAD.size
    if len(body) != at + owner_bytes + reduces * _REGION.size:
        raise Damaged(path, None, 0, "the index has a wrong length")
    rows = list(_REGION.iter_unpack(body[at + owner_bytes :]))
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return Index(body[at : at + owner_bytes], size, *columns)


def index_digest(path: str | os.PathLike[str]) -> bytes:
    """SHA-256 of the index file: what a map reports about its output."""
    return hashlib.sha256(index_path(path).read_bytes()).digest()


def read_region(
    path: str | os.PathLike[str],
    index: Index,
    partition: int,
    offset: int = 0,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[bytes]:
    """The stored bytes of a region from `offset` on, in pieces, to be served as they are.

    Raises Damaged when the file is shorter than its index says, ValueError for a partition or offset that is
    not there, OSError. Blocks are verified by whoever reads them, not here.
    """
    if not 0 <= partition < index.reduces or not 0 <= offset <= index.lengths[partition]:
        raise ValueError(f"no offset {offset} in partition {partition} of {path}")
    left = index.lengths[partition] - offset
    with open(path, "rb", buffering=0) as file:
        file.seek(index.offsets[partition] + offset)
        while left > 0:
            piece = file.read(min(left, piece_bytes))
            if not piece:
                raise Damaged(path, partition, index.lengths[partition] - left, "the file ends early")
            left -= len(piece)
            yield piece


class SegmentWriter:
    """Writes a segment region by region, in order: `with SegmentWriter(...) as s: for ...: s.begin(); ...; s.end()`.

    Leaving the block in peace puts both files in place; leaving it with an exception leaves nothing behind.
    """

    def __init__(self, path: Path, owner: bytes, values: Values) -> None:
        self.path = path
        self.index: Index | None = None
        self._owner = owner
        self._values = values
        self._aside = path.with_name(path.name + ".tmp")
        self._file = open(self._aside, "wb", buffering=_WRITE_BYTES)  # noqa: SIM115  closed by __exit__
        self._file.write(_SEGMENT_MAGIC)
        self._at = len(_SEGMENT_MAGIC)
        self._rows: list[tuple[int, int, int, int]] = []
        self._region: RegionWriter | None = None

    def begin(self) -> RegionWriter:
        """Begin the next region."""
        self._region = RegionWriter(self._file, seal(self._owner, len(self._rows)), self._values)
        return self._region

    def end(self) -> None:
        """End the region that was begun."""
        assert self._region is not None
        region, self._region = self._region, None
        region.close()
        self._rows.append((self._at, region.stored, region.records, region.raw))
        self._at += region.stored

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._publish()
        finally:
            self._aside.unlink(missing_ok=True)

    def _publish(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [(), (), (), ()]
        self.index = Index(self._owner, self._at, *columns)
        aside = self._aside.with_suffix(".idx-tmp")
        try:
            aside.write_bytes(self.index.encode())
            os.replace(self._aside, self.path)
            os.replace(aside, index_path(self.path))
        finally:
            aside.unlink(missing_ok=True)

    def reader(self, partition: int) -> RegionReader:
        """Read one region back, once the segment is in place."""
        assert self.index is not None
        offset, length = self.index.offsets[partition], self.index.lengths[partition]
        return RegionReader(self.path, offset, length, seal(self._owner, partition), self._values, partition)
