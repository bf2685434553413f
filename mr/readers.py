"""Input formats: a split becomes batches of records. mr/formats.py says what each format means.

A record that can't be parsed is no end: it comes marked as bad, and the job decides whether to skip it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mr.codec import Values, decode_key
from mr.inputs import open_piece
from mr.lines import LINE_BYTES_MAX, Block, decode_lines, offsets, read_blocks
from mr.options import Converters, Options, flag, one_char, size
from mr.shuffle.blocks import RegionReader, seal

if TYPE_CHECKING:
    from mr.rpc.job_pb2 import Piece, Split

PAIRS_OWNER = b"pairs"  # of a file of the format "pairs": one region, partition 0
_BOM = b"\xef\xbb\xbf"
_ROWS = 512  # in a batch of a format without blocks of lines


class Batch:
    """Some records of one file, decoded at once.

    `values[i]` is a record's value; where `bad` has i, it is the raw text and `bad[i]` says why it is no record.
    `keys` and `offset` are worked out only when asked. `bytes` is how much input it covers.
    """

    __slots__ = ("_keys", "_offsets", "bad", "bytes", "path", "values")

    def __init__(
        self,
        path: str,
        values: Sequence[Any],
        size: int,
        *,
        offsets: Callable[[], Sequence[int]],
        keys: Sequence[Any] | None = None,
        bad: Mapping[int, str] | None = None,
    ) -> None:
        self.path = path
        self.values = values
        self.bytes = size
        self.bad: Mapping[int, str] = bad or {}
        self._keys = keys
        self._offsets: Callable[[], Sequence[int]] | Sequence[int] = offsets

    def keys(self) -> Sequence[Any]:
        """The key of each record: of its own, or its byte offset."""
        return self._where() if self._keys is None else self._keys

    def offset(self, i: int) -> int:
        """The byte of the (decompressed) file where record i begins; its ordinal where there are no bytes."""
        return self._where()[i]

    def _where(self) -> Sequence[int]:
        if callable(self._offsets):
            self._offsets = self._offsets()
        return self._offsets


class InputFormat(Protocol):
    """Reads splits. `splittable`: may begin inside a file. `pairs`: records have keys of their own."""

    splittable: bool
    pairs: bool

    def read(self, split: Split) -> Iterator[Batch]:
        """The records of a split, in order. Raises InputError, OSError."""
        ...


class _Lines:
    """What the formats made of lines share: blocks of whole lines, each parsed at once."""

    splittable = True
    pairs = False
    options: ClassVar[Converters] = {"max_record": size}

    def __init__(self, options: Options) -> None:
        self._line_bytes_max: int = options.get("max_record", LINE_BYTES_MAX)

    def read(self, split: Split) -> Iterator[Batch]:
        """The records of a split, in order. Raises InputError, OSError."""
        for piece in split.pieces:
            with open_piece(piece) as stream:
                begin, end = (0, None) if piece.codec else (piece.start, piece.end)
                for block in read_blocks(stream, begin, end, line_bytes_max=self._line_bytes_max):
                    yield self._batch(piece, block)

    def _batch(self, piece: Piece, block: Block) -> Batch:
        data = block.data
        if block.offset == 0 and data.startswith(_BOM):
            data = data[len(_BOM) :]
        lines = decode_lines(data)
        if block.too_long:
            why = {0: f"a record of more than {self._line_bytes_max} bytes (option max_record)"}
            return Batch(piece.path, lines[:1], len(block.data), offsets=lambda: [block.offset], bad=why)
        return self.parse(piece, block, lines)

    def parse(self, piece: Piece, block: Block, lines: list[str]) -> Batch:
        """The records of one block."""
        return Batch(piece.path, lines, len(block.data), offsets=lambda: offsets(block))


class TextInput(_Lines):
    """Lines of text."""


class KvInput(_Lines):
    """Key and value with a separator between them."""

    pairs = True
    options: ClassVar[Converters] = {**_Lines.options, "separator": one_char}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._separator: str = options.get("separator", "\t")

    def parse(self, piece: Piece, block: Block, lines: list[str]) -> Batch:
        """Every line is a record; without a separator it is all key."""
        parts = [line.partition(self._separator) for line in lines]
        keys = [key for key, _, _ in parts]
        return Batch(
            piece.path,
            [value for _, _, value in parts],
            len(block.data),
            offsets=lambda: offsets(block),
            keys=keys,
        )


class _SomeLines(_Lines):
    """Formats in which a line may be no record."""

    header_line = False  # the first line of a file is none of its records

    def parse(self, piece: Piece, block: Block, lines: list[str]) -> Batch:
        """Blank lines are skipped, so offsets are picked from those of all lines."""
        first = 1 if self.header_line and block.offset == 0 else 0
        taken = [i for i, line in enumerate(lines) if i >= first and line.strip()]
        values: list[Any] = [None] * len(taken)
        bad: dict[int, str] = {}
        for at, i in enumerate(taken):
            try:
                values[at] = self.record(lines[i])
            except (ValueError, RecursionError, csv.Error) as error:
                values[at], bad[at] = lines[i], str(error)

        def where() -> list[int]:
            all_lines = offsets(block)
            return [all_lines[i] for i in taken]

        return Batch(piece.path, values, len(block.data), offsets=where, bad=bad)

    def record(self, line: str) -> Any:
        """One line. Raises ValueError, csv.Error."""
        raise NotImplementedError


class JsonlInput(_SomeLines):
    """A JSON document on every line."""

    def record(self, line: str) -> Any:
        """One document. Raises ValueError."""
        return json.loads(line)


class CsvInput(_SomeLines):
    """Comma-separated rows."""

    options: ClassVar[Converters] = {
        **_Lines.options,
        "separator": one_char,
        "header": flag,
        "multiline": flag,
    }

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._header = self.header_line = options.get("header", False)
        self._separator: str = options.get("separator", ",")
        self.splittable = not options.get("multiline", False)
        self._columns: list[str] = []
        csv.field_size_limit(max(self._line_bytes_max, csv.field_size_limit()))

    def read(self, split: Split) -> Iterator[Batch]:
        """The rows of a split, in order. Raises InputError, OSError."""
        for piece in split.pieces:
            if self.splittable:
                yield from self._rows_of_lines(piece, split)
            else:
                yield from self._rows_of_file(piece)

    def _rows_of_lines(self, piece: Piece, split: Split) -> Iterator[Batch]:
        only = type(split)(pieces=[piece])
        if not self._header:
            yield from super().read(only)
            return
        with open_piece(piece) as stream:
            first = next(read_blocks(stream, 0, 1, line_bytes_max=self._line_bytes_max), None)
        if first is None:
            return
        lines = decode_lines(first.data.removeprefix(_BOM))
        self._columns = next(csv.reader(lines[:1], delimiter=self._separator))
        yield from super().read(only)

    def _rows_of_file(self, piece: Piece) -> Iterator[Batch]:
        with open_piece(piece) as stream:
            feed = _LineFeed(read_blocks(stream, line_bytes_max=self._line_bytes_max))
            rows = csv.reader(feed, delimiter=self._separator, strict=True)
            self._columns = next(rows, []) if self._header else []
            while True:
                batch = self._next_rows(piece, feed, rows)
                if not batch.values:
                    return
                yield batch

    def _next_rows(self, piece: Piece, feed: _LineFeed, rows: Iterator[list[str]]) -> Batch:
        values: list[Any] = []
        where: list[int] = []
        bad: dict[int, str] = {}
        begin = feed.at
        while len(values) < _ROWS:
            at = feed.at
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                bad[len(values)] = str(error)
                values.append(feed.line)
                where.append(at)
                continue
            if row:
                try:
                    values.append(self._named(row))
                except ValueError as error:
                    bad[len(values)] = str(error)
                    values.append(self._separator.join(row))
                where.append(at)
        return Batch(piece.path, values, feed.at - begin, offsets=lambda: where, bad=bad)

    def record(self, line: str) -> Any:
        """One row. Raises ValueError, csv.Error."""
        (row,) = csv.reader((line,), delimiter=self._separator, strict=True)
        return self._named(row)

    def _named(self, row: list[str]) -> Any:
        if not self._header:
            return row
        if len(row) != len(self._columns):
            raise ValueError(f"{len(row)} fields, but the header names {len(self._columns)}")
        return dict(zip(self._columns, row, strict=True))


class _LineFeed:
    """Lines for the csv module, with the place of the next one in the file."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._lines: Iterator[tuple[str, int]] = iter(())
        self.at = 0
        self.line = ""

    def __iter__(self) -> _LineFeed:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is not None:
            self.line = line[0]
            self.at += line[1]
            return self.line
        block = next(self._blocks)
        data = block.data.removeprefix(_BOM) if block.offset == 0 else block.data
        self.at = block.offset + len(block.data) - len(data)
        raw = data.split(b"\n")
        ended = [line + b"\n" for line in raw[:-1]] + ([raw[-1]] if raw[-1] else [])
        self._lines = iter([(line.decode("utf-8", "surrogateescape"), len(line)) for line in ended])
        return next(self)


class PairsInput:
    """What a step writes for the next one: keys and values exactly as they were emitted."""

    splittable = False
    pairs = True
    options: ClassVar[Converters] = {"allow_pickle": flag}

    def __init__(self, options: Options) -> None:
        self._values = Values(allow_pickle=options.get("allow_pickle", False))

    def read(self, split: Split) -> Iterator[Batch]:
        """The pairs of a split, in order. Raises InputError, Damaged, OSError."""
        for piece in split.pieces:
            with open_piece(piece):
                reader = RegionReader(piece.path, 0, piece.end, seal(PAIRS_OWNER, 0), self._values, 0)
                ordinal = 0
                while (block := reader.next_block()) is not None:
                    keys, values = list[Any](), list[Any]()
                    for name, held in zip(*block, strict=True):
                        keys += [decode_key(name)] * len(held)
                        values += held
                    numbers = range(ordinal, ordinal + len(keys))
                    ordinal += len(keys)
                    size_ = reader.record_bytes * len(keys)
                    yield Batch(piece.path, values, size_, offsets=partial(_same, numbers), keys=keys)


def _same(numbers: Sequence[int]) -> Sequence[int]:
    return numbers
