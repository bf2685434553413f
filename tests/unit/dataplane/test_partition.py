"""The partition of a key is the same everywhere and for ever (S2-03, S2-04, FD19)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mr.codec import encode_key
from mr.partition import hash_partition

# The vectors for implementations in other languages: key, its encoding, R = 7, R = 1000. Never change a row.
VECTORS: list[tuple[Any, str, int, int]] = [
    ("", "50", 5, 777),
    ("a", "5061", 3, 565),
    ("the", "50746865", 2, 354),
    ("\xe9", "50c3a9", 0, 43),
    ("\udcff", "50edb3bf", 1, 165),
    (0, "38", 3, 447),
    (1, "3901", 5, 828),
    (-1, "37", 3, 462),
    (256, "3a0100", 3, 480),
    (18446744073709551616, "4100000009010000000000000000", 4, 644),
    (-18446744073709551616, "2f0000000000000000", 3, 445),
    (True, "12", 4, 699),
    (None, "10", 2, 421),
    (0.0, "488000000000000000", 2, 386),
    (-1.5, "484007ffffffffffff", 3, 439),
    (b"a", "5861", 2, 315),
    ((1, "x"), "60390150780000", 4, 709),
    (["a\x00"], "68506100ff0000", 0, 53),
    ({"k": 2}, "70506b00390200", 5, 806),
]


@pytest.mark.parametrize(("key", "encoded", "of_7", "of_1000"), VECTORS)
def test_vectors(key: Any, encoded: str, of_7: int, of_1000: int) -> None:
    assert encode_key(key).hex() == encoded
    assert hash_partition(bytes.fromhex(encoded), 7) == of_7
    assert hash_partition(bytes.fromhex(encoded), 1000) == of_1000


def _crc32_bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("row", VECTORS)
def test_the_formula_is_the_documented_one(row: tuple[Any, str, int, int]) -> None:
    h = _crc32_bit_by_bit(bytes.fromhex(row[1])) * 0x9E3779B1 % 2**32
    assert (h * 7 // 2**32, h * 1000 // 2**32) == row[2:]


def test_no_hash_seed_changes_it() -> None:
    program = (
        "from mr.codec import encode_key; from mr.partition import hash_partition;"
        "print([hash_partition(encode_key(k), 97) for k in ('a', 'b', 1, (1, 'x'), 2.5)])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(answers) == 1


@pytest.mark.parametrize("reduces", [2, 3, 8, 16, 64, 100])
@pytest.mark.parametrize(
    "key",
    [
        lambda i: i,
        lambda i: i * 1024,
        lambda i: f"user{i:06d}",
        lambda i: f"http://example.org/{i}/index.html",
        lambda i: (i % 100, i // 100),
        lambda i: i / 2,
    ],
    ids=["ints", "multiples of 1024", "numbered", "urls", "tuples", "floats"],
)
def test_structured_keys_spread_evenly(key: Callable[[int], Any], reduces: int) -> None:
    count = 20_000
    sizes = Counter(hash_partition(encode_key(key(i)), reduces) for i in range(count))
    assert set(sizes) <= set(range(reduces))
    assert max(sizes.values()) < 1.35 * count / reduces
    assert len(sizes) == reduces
