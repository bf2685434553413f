"""Records belong to the split in which they begin, and come in and go out as documented (S3-11..13, FD16, P-05)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mr.causes import Cause
from mr.codec import NotAPair, Unencodable
from mr.formats import FORMATS, input_format, output_format
from mr.inputs import InputError
from mr.lines import Block, decode_lines, offsets, read_blocks
from mr.rpc.job_pb2 import Piece, Split

PROPERTY = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Everything that a line may be made of, ends of lines more often than elsewhere.
BYTES = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\n",
            b"\r\n",
            b"\r",
            b"a",
            b"word",
            "é".encode(),
            "😀".encode(),
            b"\0",
            b"\xff",
            b"\xef\xbb\xbf",
        ]
    )
).map(b"".join)


def lines_by_rule(data: bytes) -> list[tuple[int, bytes]]:
    """The rule once more: an LF ends a line, with a CR right before it; the last may lack it."""
    found, at = [], 0
    while at < len(data):
        end = data.find(b"\n", at)
        line, after = (data[at:], len(data)) if end < 0 else (data[at:end], end + 1)
        found.append((at, line[:-1] if end >= 0 and line.endswith(b"\r") else line))
        at = after
    return found


def read(path: Path, format: str, cuts: list[int] = [], codec: str = "", **options: str) -> list[Any]:  # noqa: B006  never written
    """(offset, key, value) of every record, by splits cut at `cuts`."""
    size = path.stat().st_size
    edges = [0, *sorted({c for c in cuts if 0 < c < size}), size]
    found = []
    for start, end in pairwise(edges):
        split = Split(pieces=[Piece(path=str(path), start=start, end=end, size=size, codec=codec)])
        for batch in input_format(format, options).read(split):
            assert not batch.bad, batch.bad
            keys = batch.keys()
            found += [(batch.offset(i), keys[i], value) for i, value in enumerate(batch.values)]
    return found


@PROPERTY
@given(BYTES, st.lists(st.integers(0, 60), max_size=6))
def test_each_line_has_one_owner_for_any_cuts(tmp_path: Path, data: bytes, cuts: list[int]) -> None:  # S3-13
    (tmp_path / "f").write_bytes(data)
    wanted = lines_by_rule(data)
    if data.startswith(b"\xef\xbb\xbf"):
        wanted[0] = (0, wanted[0][1][3:])
        wanted = wanted if data != b"\xef\xbb\xbf" else []
    text = [(at, at, line.decode("utf-8", "surrogateescape")) for at, line in wanted]
    assert read(tmp_path / "f", "text", cuts) == text


@PROPERTY
@given(BYTES, st.integers(0, 60), st.integers(0, 60), st.integers(1, 7))
def test_blocks_are_whole_lines_however_the_file_is_read(
    data: bytes, start: int, end: int, piece: int
) -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or piece, piece))

    blocks = list(read_blocks(Trickle(data), start, end))
    got = [row for b in blocks for row in zip(offsets(b), decode_lines(b.data), strict=True)]
    wanted = [
        (at, line.decode("utf-8", "surrogateescape")) for at, line in lines_by_rule(data) if start <= at < end
    ]
    assert got == wanted
    for block in blocks:
        assert data[block.offset :].startswith(block.data)


def test_long_lines_are_bounded_and_the_rest_goes_on(tmp_path: Path) -> None:  # FD16
    data = b"first\n" + b"x" * 500_000 + b"\nlast\n"
    blocks = list(read_blocks(io.BytesIO(data), 0, len(data), line_bytes_max=100_000))
    assert [(b.offset, len(b.data), b.too_long) for b in blocks] == [
        (0, 6, False),
        (6, 200, True),
        (500_007, 5, False),
    ]
    inside = list(read_blocks(io.BytesIO(data), 300_000, len(data), line_bytes_max=100_000))
    assert inside == [Block(500_007, b"last\n")]
    (tmp_path / "f").write_bytes(data)
    split = Split(pieces=[Piece(path=str(tmp_path / "f"), end=len(data), size=len(data))])
    batches = list(input_format("text", {"max_record": "100kB"}).read(split))
    assert [len(b.bad) for b in batches] == [0, 1, 0]
    assert "100000 bytes" in batches[1].bad[0]
    assert batches[1].offset(0) == 6


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,  # as the command does
}


@pytest.mark.parametrize("codec", sorted(COMPRESS))
def test_compressed_files_are_read_whole(tmp_path: Path, codec: str) -> None:
    content = b"".join(b"line %d\n" % i for i in range(30_000))
    path = tmp_path / f"f.{codec}"
    half = len(content) // 2
    path.write_bytes(COMPRESS[codec](content[:half]) + COMPRESS[codec](content[half:]))  # several members
    assert [value for _, _, value in read(path, "text", codec=codec)] == content.decode().splitlines()


@pytest.mark.parametrize("codec", sorted(COMPRESS))
@pytest.mark.parametrize("cut", ["truncated", "flipped", "not compressed at all"])
def test_a_damaged_archive_is_an_unreadable_input(tmp_path: Path, codec: str, cut: str) -> None:  # FD16
    data = bytearray(COMPRESS[codec](bytes(i * i % 251 for i in range(50_000))))
    if cut == "flipped":
        data[len(data) // 2] ^= 0x55
    path = tmp_path / f"f.{codec}"
    path.write_bytes(
        {"truncated": data[:-9], "flipped": data}.get(cut, b"plain text, and not a little\n" * 9)
    )
    with pytest.raises(InputError) as caught:
        read(path, "text", codec=codec)
    assert caught.value.cause == Cause.INPUT_UNREADABLE
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("promise", "format", "options", "data", "values"),
    [
        ("a text record is a line", "text", {}, b"a b\n\nc", ["a b", "", "c"]),
        ("a NUL is data", "text", {}, b"a\0b\n", ["a\0b"]),
        ("a lone CR is data", "text", {}, b"a\rb\r\n", ["a\rb"]),
        ("other line ends of Unicode are data", "text", {}, "a\u2028b\x85c\x0bd\n".encode(), ["a\u2028b\x85c\x0bd"]),
        ("a BOM is dropped", "text", {}, b"\xef\xbb\xbfa\n", ["a"]),
        ("an empty file has no records", "text", {}, b"", []),
        ("json by line", "jsonl", {}, b'{"a": 1}\n\n [2, "\\u00e9"]\n', [{"a": 1}, [2, "é"]]),
        ("a row of csv is a list", "csv", {}, b'a,"b,c",""\r\n\r\n"x ""y"" z"\n', [["a", "b,c", ""], ['x "y" z']]),
        ("a header names columns", "csv", {"header": "true"}, b"n,m\n1,2\n\n", [{"n": "1", "m": "2"}]),
        ("another separator", "csv", {"separator": "tab"}, b"a\tb\n", [["a", "b"]]),
        ("rows over several lines", "csv", {"multiline": "true"}, b'a,"b\nc"\nd,e\n', [["a", "b\nc"], ["d", "e"]]),
        ("key TAB value", "kv", {}, b"k\tv\tw\nx\n", ["v\tw", ""]),
    ],
)  # fmt: skip
def test_inputs(
    tmp_path: Path, promise: str, format: str, options: dict[str, str], data: bytes, values: list[Any]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    whole = read(path, format, **options)
    assert [value for _, _, value in whole] == values, promise
    if input_format(format, options).splittable:
        for cut in range(1, len(data)):
            assert read(path, format, [cut], **options) == whole, (promise, cut)


def test_kv_has_keys_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"k\tv\nx\n")
    assert read(tmp_path / "f", "kv") == [(0, "k", "v"), (4, "x", "")]
    assert [input_format(name).pairs for name in ("kv", "pairs", "text")] == [True, True, False]


@pytest.mark.parametrize(
    ("format", "options", "data", "good", "bad"),
    [
        ("jsonl", {}, b'{"a": 1}\nnonsense\n\n2\n', [{"a": 1}, 2], {1: "nonsense"}),
        ("csv", {}, b'a,b\n"open\nc,d\n', [["a", "b"], ["c", "d"]], {1: '"open'}),
        ("csv", {"header": "1"}, b"a,b\n1,2\n3\n", [{"a": "1", "b": "2"}], {1: "3"}),
    ],
)
def test_a_bad_record_is_marked_and_the_others_stand(
    tmp_path: Path, format: str, options: dict[str, str], data: bytes, good: list[Any], bad: dict[int, str]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    split = Split(pieces=[Piece(path=str(path), end=len(data), size=len(data))])
    (batch,) = input_format(format, options).read(split)
    assert [value for i, value in enumerate(batch.values) if i not in batch.bad] == good
    assert {i: batch.values[i] for i in batch.bad} == bad
    assert all(data[batch.offset(i) :].startswith(text.encode()) for i, text in bad.items())


@pytest.mark.parametrize(
    ("promise", "format", "pair", "line"),
    [
        ("a str is written as it is, an int as a number", "tsv", ("the", 3), b"the\t3\n"),
        ("TAB, LF, CR and backslash are escaped", "tsv", ("a\tb\\", "c\nd\r"), b"a\\tb\\\\\tc\\nd\\r\n"),
        (
            "all else is JSON",
            "tsv",
            ((1, "x"), {"a": [None, True, 1.5]}),
            b'[1,"x"]\t{"a":[null,true,1.5]}\n',
        ),
        ("bytes are text", "tsv", (b"\xff", "é"), b"\xff\t\xc3\xa9\n"),
        ("None leaves no field", "tsv", (None, "v"), b"v\n"),
        ("None leaves no field behind", "tsv", ("k", None), b"k\n"),
        ("bytes of the input survive", "tsv", ("\udcff", 1), b"\xff\t1\n"),
        ("other surrogates as well", "tsv", ("\ud800", 1), b"\xed\xa0\x80\t1\n"),
        ("text is not escaped", "text", ("a\\", "b\tc"), b"a\\\tb\tc\n"),
        ("text of a value alone", "text", (None, (1, 2)), b"[1,2]\n"),
        ("jsonl keeps both", "jsonl", ("é", [1]), '{"key":"é","value":[1]}\n'.encode()),
        ("jsonl writes a value without a key alone", "jsonl", (None, {"a": 1}), b'{"a":1}\n'),
        ("jsonl is always valid Unicode", "jsonl", ("\udcff", 1), b'{"key":"\\udcff","value":1}\n'),
        ("csv spreads a tuple", "csv", ("a,b", (1, 'q"')), b'"a,b",1,"q"""\n'),
        ("csv of one value", "csv", (None, "x"), b"x\n"),
    ],
)
def test_outputs(promise: str, format: str, pair: tuple[Any, Any], line: bytes) -> None:
    file = io.BytesIO()
    sink = output_format(format).sink(file)
    assert sink.extend([pair]) == 1
    sink.close()
    assert file.getvalue() == line, promise


def written(path: Path, format: str, pairs: list[Any], **options: str) -> Path:
    with open(path, "wb") as file:
        sink = output_format(format, options).sink(file)
        assert sink.extend(pairs) == len(pairs)
        sink.close()
    return path


@PROPERTY
@given(st.lists(st.tuples(st.text(), st.one_of(st.integers(), st.lists(st.text()), st.booleans()))))
def test_tsv_comes_back(tmp_path: Path, pairs: list[Any]) -> None:
    path = written(tmp_path / "f", "tsv", pairs)
    assert list(output_format("tsv").results(str(path))) == pairs
    assert path.read_bytes().count(b"\n") == len(pairs)


@PROPERTY
@given(st.lists(st.tuples(st.text(), st.one_of(st.integers(), st.text(), st.lists(st.text())))))
def test_jsonl_comes_back(tmp_path: Path, pairs: list[Any]) -> None:
    path = written(tmp_path / "f", "jsonl", pairs)
    assert list(output_format("jsonl").results(str(path))) == pairs


def test_pairs_come_back_exactly_and_damage_is_found(tmp_path: Path) -> None:
    pairs = [(i, (i, [b"x", True])) for i in range(5000)] + [("k", None), ("k", 2**80), ((1,), {"a": (1,)})]
    path = written(tmp_path / "f", "pairs", pairs)
    got = [(key, value) for _, key, value in read(path, "pairs")]
    assert got == pairs == list(output_format("pairs").results(str(path)))
    assert [type(value) for _, value in got] == [type(value) for _, value in pairs]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Exception, match="checksum mismatch"):
        read(path, "pairs")


@pytest.mark.parametrize(
    ("format", "pair", "error"),
    [
        ("tsv", "no", NotAPair),
        ("tsv", ("k", {1}), Unencodable),
        ("jsonl", ("k", b"bytes"), Unencodable),
        ("jsonl", ("k", {(1, 2): 3}), Unencodable),
        ("pairs", ("k", {1}), Unencodable),
        ("pairs", ("k", 1, 2), NotAPair),
    ],
)
def test_what_a_format_can_not_write_is_an_error(format: str, pair: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        output_format(format).sink(io.BytesIO()).extend([pair])


def test_not_a_number_goes_out_and_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path / "f", "tsv", [("k", math.inf), ("n", math.nan)])
    (_, infinite), (_, nan) = output_format("tsv").results(str(path))
    assert infinite == math.inf
    assert math.isnan(nan)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: input_format("txt"), "no input format 'txt'; known are csv, jsonl, kv, pairs, text"),
        (lambda: output_format("kv"), "no output format 'kv'; known are csv, jsonl, pairs, text, tsv"),
        (lambda: input_format("csv", {"heading": "1"}), "format csv has no option 'heading'; it has header"),
        (lambda: input_format("csv", {"header": "maybe"}), "neither true nor false"),
        (lambda: input_format("text", {"max_record": "long"}), "option 'max_record'"),
        (lambda: input_format("csv", {"separator": "::"}), "not one character"),
    ],
)
def test_a_wrong_name_or_option_is_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=r"format|option") as caught:
        call()
    assert says in str(caught.value)


def test_every_format_can_be_made() -> None:
    for name, (reads, writes) in FORMATS.items():
        assert reads is None or input_format(name)
        assert writes is None or output_format(name)
