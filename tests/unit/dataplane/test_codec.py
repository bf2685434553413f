"""Keys keep the documented order as bytes, and everything comes back as it went in (D11, FD18, P-03)."""

from __future__ import annotations

import functools
import math
import struct
from collections import namedtuple
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mr.codec import (
    Unencodable,
    Values,
    decode_key,
    decode_value,
    encode_key,
    encode_sort_key,
    encode_value,
    has_key,
    split_sort_key,
)

TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(), TEXT, st.binary()
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=3),
    ),
    max_leaves=10,
)

RANK = {kind: i for i, kind in enumerate((type(None), bool, int, float, str, bytes, tuple, list, dict))}


def compare(a: Any, b: Any) -> int:
    """The documented order, written a second time and knowing nothing of encodings."""
    if type(a) is not type(b):
        return -1 if RANK[type(a)] < RANK[type(b)] else 1
    if isinstance(a, dict):
        ordered = functools.cmp_to_key(compare)
        rows = [sorted(d.items(), key=lambda pair: ordered(pair[0])) for d in (a, b)]
        return compare([x for row in rows[0] for x in row], [x for row in rows[1] for x in row])
    if isinstance(a, tuple | list):
        for x, y in zip(a, b, strict=False):
            if order := compare(x, y):
                return order
        return (len(a) > len(b)) - (len(a) < len(b))
    if isinstance(a, float):
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) - math.isnan(b)
        return (a > b) - (a < b)
    if a is None:
        return 0
    return (a > b) - (a < b)


def same(a: Any, b: Any) -> bool:
    """Equal with the same kinds all the way down, to the bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same([x for row in a.items() for x in row], [x for row in b.items() for x in row])
    return bool(a == b)


@settings(deadline=None, max_examples=100)
@given(st.lists(ANYTHING, max_size=8))
def test_the_order_of_encodings_is_the_documented_order(keys: list[Any]) -> None:
    by_bytes = sorted(keys, key=encode_key)
    by_order = sorted(keys, key=functools.cmp_to_key(compare))
    assert [encode_key(k) for k in by_bytes] == [encode_key(k) for k in by_order]


@settings(deadline=None, max_examples=100)
@given(ANYTHING, ANYTHING)
def test_two_keys_are_one_exactly_when_their_encodings_are_equal(a: Any, b: Any) -> None:
    assert (encode_key(a) == encode_key(b)) == (compare(a, b) == 0)


@settings(deadline=None, max_examples=100)
@given(ANYTHING)
def test_a_key_comes_back(key: Any) -> None:
    encoded = encode_key(key)
    back = decode_key(encoded)
    assert compare(back, key) == 0
    assert encode_key(back) == encoded


@settings(deadline=None, max_examples=100)
@given(ANYTHING)
def test_a_value_comes_back_to_the_bit(value: Any) -> None:
    assert same(decode_value(encode_value(value)), value)


@settings(deadline=None, max_examples=100)
@given(st.lists(ANYTHING, max_size=5))
def test_what_freeze_calls_plain_survives_the_plain_packing(values: list[Any]) -> None:
    codec = Values()
    frozen = [codec.freeze(value) for value in values]
    assert same([row[0] for row in frozen], values)
    plain = [row[0] for row in frozen if row[2]]
    assert same(list(codec.unpack_plain(codec.pack_plain(plain))), plain)


@settings(deadline=None, max_examples=100)
@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
@example("", 0, "\0", 0)
@example(b"a", 0, b"a\0", 0)
@example(("",), 0, ("\0",), 0)
def test_sort_keys_order_by_key_then_value_and_tell_their_key(k1: Any, v1: Any, k2: Any, v2: Any) -> None:
    a, b = encode_sort_key(k1, v1), encode_sort_key(k2, v2)
    assert ((a > b) - (a < b)) == (compare(k1, k2) or compare(v1, v2))
    key, prefix = split_sort_key(a)
    assert compare(key, k1) == 0
    assert has_key(b, prefix) == (compare(k1, k2) == 0)


@pytest.mark.parametrize(
    ("promise", "a", "b", "one"),
    [
        ("1 is no 1.0", 1, 1.0, False),
        ("1 is no True", 1, True, False),
        ("-0.0 is 0.0", -0.0, 0.0, True),
        ("every NaN is one key", math.nan, struct.unpack(">d", b"\xff\xf8\0\0\0\0\0\1")[0], True),
        ("a str is no bytes", "a", b"a", False),
        ("a tuple is no list", (1,), [1], False),
        ("no normal form is applied", "\u00e9", "e\u0301", False),
        ("insertion order of a dict does not matter", {"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ("a NUL is data", ("a", ""), ("a\0",), False),
        ("nesting is part of a key", ((1,), 2), ((1, 2),), False),
    ],
)
def test_when_two_keys_are_one(promise: str, a: Any, b: Any, one: bool) -> None:
    assert (encode_key(a) == encode_key(b)) is one, promise


class Color(IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ({1}, "a set can't be a key: use tuple(sorted(...))"),
        ((1, {2}), "a set can't be a key"),
        (Color.RED, "convert it with int(...)"),
        (Point(1, 2), "convert it with tuple(...)"),
        (object(), "use None, bool, int"),
        (1j, "a complex can't be a key"),
    ],
)
def test_what_can_be_no_key_says_what_to_do(key: Any, says: str) -> None:
    with pytest.raises(Unencodable) as caught:
        encode_key(key)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [{1}, Color.RED, [Color.RED], Point(1, 2), (Point(1, 2),), object(), 1j])
def test_other_values_need_pickle_and_then_come_back(value: Any) -> None:
    with pytest.raises(Unencodable):
        Values().freeze(value)
    codec = Values(allow_pickle=True)
    if type(value) is not object:
        assert codec.freeze(value)[0] == value
        assert type(codec.freeze(value)[0]) is type(value)
    with pytest.raises(ValueError, match="not allowed here"):
        Values().unpack(codec.pack(value))


def test_a_frozen_value_does_not_follow_its_owner() -> None:
    value = [1, {"a": [2]}]
    frozen, _, _ = Values().freeze(value)
    value[1]["a"].append(3)  # type: ignore[index]  # the test's own list
    assert frozen == [1, {"a": [2]}]


def test_a_value_too_deep_is_refused_by_name() -> None:
    deep: Any = ()
    for _ in range(5000):
        deep = (deep,)
    with pytest.raises(Unencodable):
        Values().freeze(deep)
    with pytest.raises(Unencodable):
        encode_key(deep)


@pytest.mark.parametrize(
    "data", [b"\x00", b"\x39", b"\x60\x10", b"\x10\x10", b"\xff", b"\x41\xff\xff\xff\xff\x01"]
)
def test_bytes_that_are_no_key_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        decode_key(data)
