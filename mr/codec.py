"""Keys and values as bytes.

Keys. `encode_key` preserves order: comparing encodings as bytes is comparing keys by the total order below,
so everything after the mapper sorts, merges and groups raw bytes. **Two keys are one if and only if their
encodings are equal.** That makes 1, 1.0 and True three keys, where Python's `==` sees one.

    None < bool < int < float < str < bytes < tuple < list < dict        a kind comes before any value
    bool    False < True
    int     by value, any size
    float   by value; -0.0 is 0.0; every NaN is one key, above infinity
    str     by code point (lone surrogates included: "surrogatepass"), never by locale, never normalized
    bytes   by unsigned byte
    tuple, list   element by element; a prefix comes first
    dict    as the list of its (key, value) pairs in key order, so that insertion order does not matter

Values. Exactly the same kinds come back as went in (True is no 1, a tuple is no list, -0.0 and NaN payloads
survive). Anything else is `Unencodable`, unless the job allows pickle; then it travels pickled, and is
unpickled only in task processes of that job. A bytearray or memoryview inside a container comes back as
bytes.

Encoding of keys, for other languages: one tag byte, then
    str, bytes   at the top: the raw bytes to the end; inside a container: 00 as 00 FF, then 00 at the end
    int          tag 38+n and the n bytes of the value, big-endian, n <= 8, none for 0; beyond: tag 41, u32 n,
                 n bytes; below zero: m = -1-value, tag 37-n (2E, FFFFFFFF-n), every byte of m inverted
    float        IEEE 754 double, big-endian; sign bit flipped, or all bits if negative
    tuple, list, dict   the elements (of a dict: key, value, ...), then 00
"""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Callable
from typing import Any

import msgpack

from mr.causes import Cause

_INT_ZERO = 0x38
_INT_BIG, _INT_BIG_NEGATIVE = 0x41, 0x2E
_STR, _BYTES, _TUPLE, _DICT = 0x50, 0x58, 0x60, 0x70
STR_TAG = b"\x50"
_END = 0x00

# Every kind that has an encoding. Exactly these: a subclass (an IntEnum, a namedtuple) would come back as its
# base, and a silent change of type is worse than an error.
KINDS = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict})
# Immutable and free of containers: may be held by reference instead of being serialized at once.
SCALARS = frozenset({type(None), bool, int, float, str, bytes})

_KIND_NAMES = "None, bool, int, float, str, bytes, tuple, list or dict"

_U32 = struct.Struct(">I")
_DOUBLE = struct.Struct(">d")
_BITS = struct.Struct(">Q")
_SIGN = 1 << 63
_ALL_BITS = (1 << 64) - 1
_NAN_BITS = 0xFFF8_0000_0000_0000


class Unencodable(TypeError):
    """A key or value of a kind that has no encoding. The message is one line that says what to do."""

    cause = Cause.BAD_TYPE


class NotAPair(TypeError):
    """User code yielded something that is no (key, value)."""

    cause = Cause.BAD_TYPE


# --- keys -----------------------------------------------------------------------------------------


def encode_key(key: Any) -> bytes:
    """The order-preserving encoding of `key`. Raises Unencodable."""
    kind = type(key)
    if kind is str:
        text: str = key
        return STR_TAG + text.encode("utf-8", "surrogatepass")
    if kind is int:
        return _SMALL_INTS.get(key) or _int(key)
    if kind is bytes:
        data: bytes = key
        return b"\x58" + data
    encode = _NESTED.get(kind)
    if encode is None:
        raise _no_key(key)
    try:
        return encode(key)
    except RecursionError:
        raise Unencodable(f"a {kind.__name__} nested this deep can't be a key") from None


def decode_key(data: bytes) -> Any:
    """The key that `encode_key` made `data` from. Raises ValueError if nothing did."""
    tag = data[0]
    if tag == _STR:
        return data[1:].decode("utf-8", "surrogatepass")
    if _INT_ZERO <= tag < _INT_BIG and len(data) == tag - _INT_ZERO + 1:
        return int.from_bytes(data[1:], "big")
    if tag == _BYTES:
        return data[1:]
    key, end = _decode(data, 0)
    if end != len(data):
        raise ValueError("bytes left behind the end of a key")
    return key


def _no_key(key: Any) -> Unencodable:
    kind = type(key)
    hints = {"set": "use tuple(sorted(...))", "frozenset": "use tuple(sorted(...))", "bytearray": "use bytes"}
    hint = hints.get(kind.__name__, "")
    if not hint:
        base = next((b.__name__ for b in kind.__mro__[1:] if b in KINDS), "")
        hint = f"convert it with {base}(...)" if base else f"use {_KIND_NAMES}"
    return Unencodable(f"a {kind.__name__} can't be a key: {hint}")


def _int(value: int) -> bytes:
    if value >= 0:
        size = (value.bit_length() + 7) >> 3
        if size <= 8:
            return _POSITIVE[size] + value.to_bytes(size, "big")
        return b"\x41" + _U32.pack(size) + value.to_bytes(size, "big")
    size = ((-1 - value).bit_length() + 7) >> 3
    inverted = (value + (1 << (8 * size))).to_bytes(size, "big")  # two's complement inverts -1-value
    if size <= 8:
        return _NEGATIVE[size] + inverted
    return b"\x2e" + _U32.pack(0xFFFF_FFFF - size) + inverted


_POSITIVE = [bytes([_INT_ZERO + size]) for size in range(9)]
_NEGATIVE = [bytes([_INT_ZERO - 1 - size]) for size in range(9)]
_SMALL_INTS = {value: _int(value) for value in range(-256, 4096)}


def _float(value: float) -> bytes:
    if math.isnan(value):
        return b"\x48" + _BITS.pack(_NAN_BITS)
    (bits,) = _BITS.unpack(_DOUBLE.pack(value + 0.0))  # -0.0 + 0.0 is 0.0
    return b"\x48" + _BITS.pack(bits ^ _SIGN if bits < _SIGN else bits ^ _ALL_BITS)


def _escaped(data: bytes) -> bytes:
    return (data.replace(b"\x00", b"\x00\xff") if 0 in data else data) + b"\x00"


def _element(item: Any) -> bytes:
    encode = _NESTED.get(type(item))
    if encode is None:
        raise _no_key(item)
    return encode(item)


def _dict(value: dict[Any, Any]) -> bytes:
    pairs = sorted((_element(name), _element(item)) for name, item in value.items())
    return b"\x70" + b"".join(name + item for name, item in pairs) + b"\x00"


# How a kind is encoded inside a container; all but str and bytes are the same at the top.
_NESTED: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"\x10",
    bool: lambda value: b"\x12" if value else b"\x11",
    int: _int,
    float: _float,
    str: lambda value: b"\x50" + _escaped(value.encode("utf-8", "surrogatepass")),
    bytes: lambda value: b"\x58" + _escaped(value),
    tuple: lambda value: b"\x60" + b"".join(map(_element, value)) + b"\x00",
    list: lambda value: b"\x68" + b"".join(map(_element, value)) + b"\x00",
    dict: _dict,
}


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    """The element that begins at `at`, and where it ends."""
    tag = data[at]
    at += 1
    if _INT_BIG_NEGATIVE <= tag <= _INT_BIG:
        return _decode_int(data, tag, at)
    match tag:
        case 0x10:
            return None, at
        case 0x11 | 0x12:
            return tag == 0x12, at
        case 0x48:
            (bits,) = _BITS.unpack_from(data, at)
            (value,) = _DOUBLE.unpack(_BITS.pack(bits ^ (_SIGN if bits >= _SIGN else _ALL_BITS)))
            return value, at + 8
        case 0x50 | 0x58:
            raw, at = _unescaped(data, at)
            return raw.decode("utf-8", "surrogatepass") if tag == _STR else raw, at
        case 0x60 | 0x68 | 0x70:
            items = []
            while data[at] != _END:
                item, at = _decode(data, at)
                items.append(item)
            at += 1
            if tag == _DICT:
                return dict(zip(items[::2], items[1::2], strict=True)), at
            return tuple(items) if tag == _TUPLE else items, at
        case _:
            raise ValueError(f"no key begins with {tag:#04x}")


def _decode_int(data: bytes, tag: int, at: int) -> tuple[int, int]:
    negative = tag < _INT_ZERO
    if tag in (_INT_BIG, _INT_BIG_NEGATIVE):
        (size,) = _U32.unpack_from(data, at)
        size, at = (0xFFFF_FFFF - size if negative else size), at + 4
    else:
        size = _INT_ZERO - 1 - tag if negative else tag - _INT_ZERO
    if at + size > len(data):
        raise ValueError("an int key ends early")
    value = int.from_bytes(data[at : at + size], "big")
    return value - (1 << (8 * size)) if negative else value, at + size


def _unescaped(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.index(_END, at)
    while data[end : end + 2] == b"\x00\xff":
        end = data.index(_END, end + 2)
    return data[at:end].replace(b"\x00\xff", b"\x00"), end + 1


def encode_sort_key(key: Any, value: Any) -> bytes:
    """Orders by key and then by value: what runs are sorted by when a step sorts values. Raises Unencodable."""
    return _element(key) + encode_key(value)


def split_sort_key(data: bytes) -> tuple[Any, bytes]:
    """The key inside an `encode_sort_key`, and its prefix for `has_key`."""
    key, end = _decode(data, 0)
    return key, data[:end]


def has_key(sort_key: bytes, prefix: bytes) -> bool:
    """Whether `sort_key` is of the key that `prefix` was split from."""
    # 00 FF behind it is no end of the key, but a NUL inside a longer one; no value begins with FF.
    return sort_key.startswith(prefix) and sort_key[len(prefix)] != 0xFF


# --- values ---------------------------------------------------------------------------------------

_EXT_TUPLE, _EXT_INT, _EXT_PICKLE = 1, 2, 3
_INT64_MIN, _UINT64_MAX = -(1 << 63), (1 << 64) - 1


class Values:
    """Packs and unpacks what blocks hold: lists of values, in one call for all of them.

    Two packings. *Plain* holds scalars and flat tuples of scalars, with every array a tuple: no Python code
    runs for a value. *Exact* holds everything: tuples, big integers and pickles are msgpack extensions. Who
    packs must know that all is plain (`freeze` says so); the block remembers which it was.
    """

    def __init__(self, *, allow_pickle: bool = False) -> None:
        self.allow_pickle = allow_pickle
        self._plain = msgpack.Packer(unicode_errors="surrogatepass", autoreset=True)

    def pack_plain(self, values: Any) -> bytes:
        """Pack what `freeze` called plain."""
        packed: bytes = self._plain.pack(values)
        return packed

    def unpack_plain(self, data: bytes) -> Any:
        """The inverse of `pack_plain`: every array is a tuple."""
        return msgpack.unpackb(data, use_list=False, strict_map_key=False, unicode_errors="surrogatepass")

    def pack(self, values: Any) -> bytes:
        """Pack anything that is allowed, exactly. Raises Unencodable."""
        try:
            # A Packer is not re-entrant and `_extension` packs what is inside: hence a fresh one.
            packed: bytes = msgpack.packb(
                values, default=self._extension, strict_types=True, unicode_errors="surrogatepass"
            )
        except (RecursionError, ValueError) as error:
            raise Unencodable(f"this value can't be serialized: {error}") from None
        return packed

    def unpack(self, data: bytes) -> Any:
        """The inverse of `pack`. Raises ValueError for damage, and for a pickle where none is allowed."""
        return msgpack.unpackb(
            data, ext_hook=self._restore, strict_map_key=False, unicode_errors="surrogatepass"
        )

    def freeze(self, value: Any) -> tuple[Any, int, bool]:
        """`value` as it is now, whatever its owner does to it later; its size in bytes; whether it is plain.

        The size is a function of the value alone: about its serialized length. Raises Unencodable.
        """
        kind = type(value)
        if kind is int:
            if _INT64_MIN <= value <= _UINT64_MAX:
                return value, 8, True
            return value, value.bit_length() >> 3, False
        if kind is str or kind is bytes:
            return value, len(value), True
        if kind in SCALARS:
            return value, 8, True
        if kind is tuple and SCALARS.issuperset(map(type, value)):
            try:
                return value, len(self._plain.pack(value)), True
            except OverflowError:
                self._plain.reset()
        packed = self.pack(((value,),) if kind is tuple else [[value]])
        copy = self.unpack(packed)[0][0]
        return copy, len(packed), False

    def _extension(self, value: Any) -> msgpack.ExtType:
        kind = type(value)
        if kind is tuple:
            return msgpack.ExtType(_EXT_TUPLE, self.pack(list(value)))
        if kind is int:
            size = (value.bit_length() + 8) >> 3
            return msgpack.ExtType(_EXT_INT, value.to_bytes(size, "big", signed=True))
        if self.allow_pickle:
            try:
                return msgpack.ExtType(_EXT_PICKLE, pickle.dumps(value, protocol=5))
            except Exception as error:
                raise Unencodable(f"a {kind.__name__} can't be pickled: {error}") from None
        base = next((b.__name__ for b in kind.__mro__[1:] if b in KINDS), "")
        hint = (
            f"convert it with {base}(...)" if base else f"use {_KIND_NAMES}, or allow_pickle=True in the step"
        )
        raise Unencodable(f"a {kind.__name__} can't be a value: {hint}")

    def _restore(self, code: int, data: bytes) -> Any:
        if code == _EXT_TUPLE:
            return tuple(self.unpack(data))
        if code == _EXT_INT:
            return int.from_bytes(data, "big", signed=True)
        if code == _EXT_PICKLE and self.allow_pickle:
            return pickle.loads(data)  # noqa: S301  written by this very job, whose owner allowed it
        raise ValueError(f"a value of extension {code} is not allowed here")


def encode_value(value: Any, allow_pickle: bool = False) -> bytes:
    """One value, exactly. Raises Unencodable."""
    return Values(allow_pickle=allow_pickle).pack(value)


def decode_value(data: bytes, allow_pickle: bool = False) -> Any:
    """The inverse of `encode_value`. Raises ValueError."""
    return Values(allow_pickle=allow_pickle).unpack(data)
