"""A region: groups of one partition in key order, as a chain of checksummed blocks. The only file that knows a block.

    region   block... END          self-verifying, never empty: without its END a region is damaged
    block    header, payload       header: magic, kind, flags, groups, records, raw size, stored size, CRC-32
    payload  msgpack of [keys, value lists], lz4 when that is smaller; about 64 KiB raw, more only for one big record
    END      a block of kind 0 whose payload is the totals of records and raw bytes

The CRC of a block covers its header and stored payload and continues the CRC of the block before it; the
chain begins with the region's owner (job, step, map, attempt) and partition. So a flipped bit, a missing,
doubled or moved block, a cut region, and the intact region of another attempt, map, partition or job are all
`Damaged` (D7). No size is believed before its checksum held.

Keys ascend; equal keys may stand in several groups one behind the other, with their values in order.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import lz4.block

from mr.causes import Cause
from mr.codec import Unencodable, Values
from mr.errors import TaskFailure

_HEADER = struct.Struct(">BBHIIIII")
_TOTALS = struct.Struct(">QQ")
_CRC = struct.Struct(">I")
_MAGIC = 0xB7
_END, _PLAIN, _EXACT = 0, 1, 2
_LZ4 = 1
HEADER_BYTES = _HEADER.size
END_BYTES = _HEADER.size + _TOTALS.size

RAW_TARGET = 64 << 10  # a merge holds one decoded block for each run: this bounds its memory
WEIGHT_MAX = 8192  # groups plus values in one block: tiny records cost far more decoded than packed
RECORD_BYTES_MAX = 1 << 30  # so that sizes fit their fields and lz4 its limit
_LZ4_RATIO_MAX = 256  # lz4 can't do better: more is a lie
_READ_BYTES = 96 << 10

Groups = tuple[Sequence[bytes], Sequence[Sequence[Any]]]  # keys, and the values of each


class Damaged(TaskFailure):
    """Stored data that is not what was written. Names the file, the partition and the offset within the region."""

    def __init__(self, path: object, partition: int | None, offset: int, reason: str) -> None:
        where = f"segment {path}" if partition is None else f"segment {path} partition {partition}"
        super().__init__(Cause.CORRUPT_DATA, f"{where} offset {offset}: {reason}")
        self.path = str(path)
        self.partition = partition
        self.offset = offset
        self.reason = reason


class Writable(Protocol):
    """What a region is written to."""

    def write(self, data: bytes, /) -> int:
        """Write all of `data`."""
        ...


def seal(owner: bytes, partition: int) -> int:
    """Where the chain of checksums of a region begins."""
    return crc32(_CRC.pack(partition), crc32(owner))


class Header(NamedTuple):
    """One block's header as stored: nothing in it is verified yet."""

    magic: int
    kind: int
    flags: int
    groups: int
    records: int
    raw: int
    stored: int
    crc: int

    @property
    def ends(self) -> bool:
        """This block is the END of its region."""
        return self.kind == _END


def parse_header(data: bytes, at: int, room: int) -> Header:
    """The header at `at`, if a block can begin there with `room` bytes left in the region. Raises ValueError."""
    header = Header._make(_HEADER.unpack_from(data, at))
    if header.magic != _MAGIC or header.kind > _EXACT:
        raise ValueError("no block begins here")
    if header.stored > room - HEADER_BYTES:
        raise ValueError("the block is longer than its region")
    return header


def chained(chain: int, header: bytes) -> int:
    """The checksum after `header` (as stored); continue it over the payload."""
    return crc32(header[: HEADER_BYTES - _CRC.size], chain)


class RegionWriter:
    """Appends one region to `file`. `add` groups in key order, then `close`; counters are final after that.

    `records` and `raw` (bytes before compression) count what was added, `stored` what the region takes on disk.
    """

    def __init__(self, file: Writable, chain: int, values: Values) -> None:
        self._file = file
        self._chain = chain
        self._values = values
        self._keys: list[bytes] = []
        self._lists: list[Sequence[Any]] = []
        self._weight = self._pending = 0
        self._groups = (
            WEIGHT_MAX // 8
        )  # in a block: learned from those written, so it depends on the data alone
        self._plain = True
        self.records = self.raw = self.stored = self.blocks = 0

    def add(self, key: bytes, values: Sequence[Any], plain: bool, size: int = 0) -> None:
        """Append a group. Raises Unencodable, OSError.

        `plain`: every value is, as `Values.freeze` says. `size`: about how many bytes the values are, where that
        may be much; it keeps what is pending small.
        """
        self._keys.append(key)
        self._lists.append(values)
        self._plain = self._plain and plain
        self._pending += len(key) + size
        self._weight += 1 + len(values)
        if self._weight >= WEIGHT_MAX or self._pending >= 2 * RAW_TARGET:
            self._flush()

    def add_all(
        self, keys: Sequence[bytes], lists: Sequence[Sequence[Any]], plain: bool, size: int = 0
    ) -> None:
        """Append many groups at once, far faster than one by one. Raises as `add`.

        `size`: about how many bytes one group is, where that may be much.
        """
        self._flush()
        at = 0
        while at < len(keys):
            count = min(self._groups, max(RAW_TARGET // size, 1)) if size else self._groups
            self._plain = plain
            self._keys, self._lists = list(keys[at : at + count]), list(lists[at : at + count])
            at += count
            self._flush()

    def close(self) -> None:
        """Write what is pending, then END."""
        self._flush()
        self._put(_END, 0, 0, 0, _TOTALS.pack(self.records, self.raw))

    def _flush(self) -> None:
        keys, lists, plain = self._keys, self._lists, self._plain
        self._keys, self._lists, self._plain, self._weight, self._pending = [], [], True, 0, 0
        if keys:
            size = self._write(keys, lists, plain)
            self._groups = min(max(len(keys) * RAW_TARGET // size, 1), WEIGHT_MAX)

    def _write(self, keys: list[bytes], lists: list[Sequence[Any]], plain: bool) -> int:
        """Write blocks of a bounded size, halving as long as one is too large. Returns the raw size."""
        records = sum(map(len, lists))
        if len(keys) + records <= 2 * WEIGHT_MAX:
            raw = (self._values.pack_plain if plain else self._values.pack)([keys, lists])
            if len(raw) <= 2 * RAW_TARGET or records == 1:
                self._put_groups(raw, len(keys), records, plain)
                return len(raw)
        if len(keys) > 1:
            half = len(keys) // 2
            return self._write(keys[:half], lists[:half], plain) + self._write(
                keys[half:], lists[half:], plain
            )
        values, half = lists[0], records // 2
        return self._write(keys, [values[:half]], plain) + self._write(keys, [values[half:]], plain)

    def _put_groups(self, raw: bytes, groups: int, records: int, plain: bool) -> None:
        if len(raw) > RECORD_BYTES_MAX:
            raise Unencodable(f"a record of {len(raw)} bytes is over the limit of {RECORD_BYTES_MAX}")
        self._put(_PLAIN if plain else _EXACT, groups, records, len(raw), raw)

    def _put(self, kind: int, groups: int, records: int, raw: int, payload: bytes) -> None:
        flags = 0
        if kind != _END:
            packed = lz4.block.compress(payload, store_size=False)
            if len(packed) < len(payload):
                payload, flags = packed, _LZ4
        header = _HEADER.pack(_MAGIC, kind, flags, groups, records, raw, len(payload), 0)
        self._chain = crc32(payload, chained(self._chain, header))
        self._file.write(header[: -_CRC.size] + _CRC.pack(self._chain))
        self._file.write(payload)
        self.records += records
        self.raw += raw
        self.stored += len(header) + len(payload)
        self.blocks += 1


class RegionReader:
    """Reads a region block by block, verifying; one decoded block is in memory at a time.

    No file stays open between reads, so a merge of any number of runs needs one descriptor (FD23).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        offset: int,
        length: int,
        chain: int,
        values: Values,
        partition: int,
    ) -> None:
        self.path = path
        self.partition = partition
        self._offset = offset
        self._length = length
        self._chain = chain
        self._values = values
        self._at = 0  # of the next block, within the region
        self._buffer = b""
        self._buffer_at = 0
        self._records = self._raw = 0
        self._ended = False
        self.plain = True  # the block last read holds plain values only
        self.record_bytes = 0  # of that block, on average

    @property
    def last(self) -> bool:
        """No block but END is left."""
        return self._length - self._at <= END_BYTES

    def next_block(self) -> Groups | None:
        """The groups of the next block; None at the END. Raises Damaged, OSError."""
        if self._ended:
            return None
        try:
            header, payload = self._take()
            if header.ends:
                self._finish(payload)
                return None
            self.plain = header.kind == _PLAIN
            self.record_bytes = header.raw // max(header.records, 1)
            self._records += header.records
            self._raw += header.raw
            return self._decode(header, payload)
        except ValueError as error:
            raise Damaged(self.path, self.partition, self._at, str(error)) from None

    def _take(self) -> tuple[Header, bytes]:
        head = self._read(self._at, HEADER_BYTES)
        header = parse_header(head, 0, self._length - self._at)
        payload = self._read(self._at + HEADER_BYTES, header.stored)
        chain = crc32(payload, chained(self._chain, head))
        if chain != header.crc:
            raise ValueError("checksum mismatch")
        self._chain = chain
        if header.flags & _LZ4 and header.raw > header.stored * _LZ4_RATIO_MAX:
            raise ValueError("impossible size")
        self._at += HEADER_BYTES + header.stored
        return header, payload

    def _decode(self, header: Header, payload: bytes) -> Groups:
        if header.flags & _LZ4:
            try:
                payload = lz4.block.decompress(payload, uncompressed_size=header.raw)
            except lz4.block.LZ4BlockError as error:
                raise ValueError(f"can't be decompressed: {error}") from None
        keys, lists = (self._values.unpack_plain if self.plain else self._values.unpack)(payload)
        return keys, lists

    def _finish(self, totals: bytes) -> None:
        if self._at != self._length:
            raise ValueError("data behind the end of the region")
        if _TOTALS.unpack(totals) != (self._records, self._raw):
            raise ValueError("totals do not match")
        self._ended = True
        self._buffer = b""

    def _read(self, at: int, size: int) -> bytes:
        begin = at - self._buffer_at
        if begin < 0 or begin + size > len(self._buffer):
            if at + size > self._length:
                raise ValueError("the region ends early")
            self._buffer = self._load(at, min(max(size, _READ_BYTES), self._length - at))
            self._buffer_at, begin = at, 0
            if len(self._buffer) < size:
                raise ValueError("the file ends early")
        return self._buffer[begin : begin + size]

    def _load(self, at: int, size: int) -> bytes:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self._offset + at)
            parts = []
            while size > 0 and (part := file.read(size)):
                parts.append(part)
                size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def region_records(path: str | os.PathLike[str], offset: int, length: int) -> int:
    """How many records a region holds, from its END. Believe it only after the region has been verified."""
    with open(path, "rb") as file:
        file.seek(offset + length - _TOTALS.size)
        records: int = _TOTALS.unpack(file.read(_TOTALS.size))[0]
    return records
