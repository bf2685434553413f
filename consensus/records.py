"""Log entries and hard state as keys and values, each with a checksum. Pure.

An entry's checksum covers its key too, so that a value under another key is noticed. Keys sort as indexes do.
"""

from __future__ import annotations

import struct
import zlib

from consensus.journal import Entry, Hard

_KEY = struct.Struct(">cQ")
_RECORD = struct.Struct("<IQ")  # checksum of key and rest, term
_HARD = struct.Struct("<IQQ?")  # checksum of the rest, term, commit, voter; then the vote
HARD_KEY = b"h"
FIRST_KEY, PAST_KEY = _KEY.pack(b"e", 0), _KEY.pack(b"f", 0)
"""Every entry's key is between them."""


def entry_key(index: int) -> bytes:
    """The key of the entry at `index`."""
    return _KEY.pack(b"e", index)


def entry_index(key: bytes) -> int:
    """Its inverse."""
    return int(_KEY.unpack(key)[1])


def pack_entry(entry: Entry) -> tuple[bytes, bytes]:
    """Key and value of an entry."""
    command, index, term = entry
    key = entry_key(index)
    rest = _RECORD.pack(0, term)[4:] + command
    return key, struct.pack("<I", zlib.crc32(rest, zlib.crc32(key))) + rest


def read_entry(key: bytes, value: bytes) -> Entry:
    """The entry of a key and a value. Raises ValueError or struct.error when either was altered."""
    checksum, term = _RECORD.unpack_from(value)
    if zlib.crc32(memoryview(value)[4:], zlib.crc32(key)) != checksum:
        raise ValueError("wrong checksum")
    return value[_RECORD.size :], entry_index(key), term


def pack_hard(hard: Hard) -> bytes:
    """The value under `HARD_KEY`."""
    rest = _HARD.pack(0, hard.term, hard.commit, hard.voter)[4:] + (
        b"" if hard.vote is None else b"=" + hard.vote.encode()
    )
    return struct.pack("<I", zlib.crc32(rest)) + rest


def read_hard(value: bytes) -> Hard:
    """Its inverse. Raises ValueError or struct.error when it was altered."""
    checksum, term, commit, voter = _HARD.unpack_from(value)
    if zlib.crc32(value[4:]) != checksum:
        raise ValueError("wrong checksum")
    vote = value[_HARD.size :]
    return Hard(term, vote[1:].decode() if vote else None, commit, voter)
