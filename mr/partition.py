"""Which reduce gets a key: a pure function of the encoded key and R, the same in every process and language.

The interpreter's own hash is randomized for each process and would send one key to two reduces. This one has
no seed: CRC-32 (the one of zlib, gzip and PNG) of the key's encoding (mr/codec.py), spread by Fibonacci
hashing so that structured keys fall evenly into any R, reduced by multiplication instead of division:

    C      uint32_t h = (uint32_t) crc32(0, key, n) * 0x9E3779B1u;  return (uint64_t) h * R >> 32;
    Rust   let h = crc32fast::hash(key).wrapping_mul(0x9E3779B1);   ((h as u64 * r as u64) >> 32) as u32

Vectors to test an implementation with: key "a", encoded 50 61, is in partition 3 of 7 and 565 of 1000; key (1, "x"),
encoded 60 39 01 50 78 00 00, in 4 and 709; more in tests/unit/dataplane/test_partition.py.
"""

from __future__ import annotations

from zlib import crc32

_FIBONACCI = 0x9E3779B1


def hash_partition(encoded_key: bytes, reduces: int) -> int:
    """The partition of a key, 0 <= result < reduces."""
    return ((crc32(encoded_key) * _FIBONACCI & 0xFFFF_FFFF) * reduces) >> 32
