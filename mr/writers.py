"""Output formats: pairs become a file, and come back for `results`. mr/formats.py says what each format means."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

from mr.codec import NotAPair, Unencodable, Values, decode_key, encode_key
from mr.lines import read_blocks
from mr.options import Converters, Options, flag, one_char
from mr.readers import PAIRS_OWNER
from mr.shuffle.blocks import RegionReader, RegionWriter, Writable, seal

_WRITE_BYTES = 64 << 10
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class Sink(Protocol):
    """Writes records to one file."""

    def extend(self, pairs: Iterable[Any]) -> int:
        """Write pairs; how many. Raises NotAPair, Unencodable, OSError."""
        ...

    def close(self) -> None:
        """Write what is pending. The file stays open."""
        ...


class OutputFormat(Protocol):
    """Writes parts, and reads them back for `results`."""

    def sink(self, file: Writable) -> Sink:
        """A sink that appends to `file`."""
        ...

    def results(self, path: str) -> Iterator[tuple[Any, Any]]:
        """The pairs of a published part, as far as the format keeps them."""
        ...


def as_pair(pair: Any) -> tuple[Any, Any]:
    """Check what user code yielded. Raises NotAPair."""
    if type(pair) is not tuple or len(pair) != 2:
        raise NotAPair(f"yield (key, value) pairs, not {pair!r:.100}")
    return pair


def to_json(value: Any) -> str:
    """Compact JSON; a tuple is an array. Raises Unencodable."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise Unencodable(f"this can't be written as JSON: {error}") from None


def to_bytes(text: str) -> bytes:
    """UTF-8; surrogates that stand for bytes become those bytes, any other surrogate three bytes of its own."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return b"".join(
            char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")
            for char in text
        )


class TextSink:
    """Collects encoded records and writes them in large pieces."""

    def __init__(self, file: Writable, encode: Callable[[Any, Any], str]) -> None:
        self._file = file
        self._encode = encode
        self._pending: list[str] = []
        self._size = 0

    def extend(self, pairs: Iterable[Any]) -> int:
        """Write pairs; how many. Raises NotAPair, Unencodable, OSError."""
        count, encode, pending = 0, self._encode, self._pending
        for pair in pairs:
            if type(pair) is not tuple or len(pair) != 2:
                as_pair(pair)
            text = encode(pair[0], pair[1])
            pending.append(text)
            self._size += len(text)
            count += 1
            if self._size >= _WRITE_BYTES:
                self.close()
        return count

    def close(self) -> None:
        """Write what is pending. The file stays open."""
        self._file.write(to_bytes("".join(self._pending)))
        self._pending.clear()
        self._size = 0


class TextOutput:
    """Fields as they are, TAB between them."""

    options: ClassVar[Converters] = {}

    def __init__(self, options: Options) -> None:
        del options

    def sink(self, file: Writable) -> TextSink:
        """A sink that appends to `file`."""
        return TextSink(file, self.encode)

    def encode(self, key: Any, value: Any) -> str:
        """One line."""
        if key is None:
            return (value if type(value) is str else plain(value)) + "\n"
        if value is None:
            return (key if type(key) is str else plain(key)) + "\n"
        return f"{key if type(key) is str else plain(key)}\t{value if type(value) is str else plain(value)}\n"

    def results(self, path: str) -> Iterator[tuple[Any, Any]]:
        """Lines, under the key None."""
        for line in _lines(path):
            yield None, line


def plain(value: Any) -> str:
    """A field that is no str: bytes as text, anything else as JSON."""
    return value.decode("utf-8", "surrogateescape") if type(value) is bytes else to_json(value)


class TsvOutput:
    """Key TAB value, escaped so that a record is one line and a line two fields.

    Read back, a value is what its JSON says, or else text: the str "12" comes back as a number. jsonl keeps
    them apart.
    """

    options: ClassVar[Converters] = {}

    def __init__(self, options: Options) -> None:
        del options

    def sink(self, file: Writable) -> TextSink:
        """A sink that appends to `file`."""
        return TextSink(file, self.encode)

    def encode(self, key: Any, value: Any) -> str:
        """One line."""
        if key is None:
            return self._field(value) + "\n"
        if value is None:
            return self._field(key) + "\n"
        return f"{self._field(key)}\t{value if type(value) is int else self._field(value)}\n"

    @staticmethod
    def _field(value: Any) -> str:
        text = value if type(value) is str else plain(value)
        # A cheap test that lets nearly every field pass: control characters are not printable.
        return text if text.isprintable() and "\\" not in text else text.translate(_ESCAPES)

    def results(self, path: str) -> Iterator[tuple[Any, Any]]:
        """Pairs: the key as text, the value as its JSON says, or else as text."""
        for line in _lines(path):
            key, tab, value = line.partition("\t")
            yield unescape(key), (from_json(unescape(value)) if tab else None)


_UNESCAPED = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}


def unescape(text: str) -> str:
    """The inverse of the escapes of tsv."""
    if "\\" not in text:
        return text
    parts = iter(text)
    return "".join(_UNESCAPED.get(next(parts, ""), "\\") if char == "\\" else char for char in parts)


def from_json(text: str) -> Any:
    """What a field means if it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class JsonlOutput:
    """A JSON document on every line."""

    options: ClassVar[Converters] = {}

    def __init__(self, options: Options) -> None:
        del options

    def sink(self, file: Writable) -> TextSink:
        """A sink that appends to `file`."""
        return TextSink(file, self.encode)

    def encode(self, key: Any, value: Any) -> str:
        """One line. What is no valid Unicode is escaped, so that the line is."""
        record = value if key is None else {"key": key, "value": value}
        text = to_json(record)
        try:
            text.encode()
        except UnicodeEncodeError:
            text = json.dumps(record, separators=(",", ":"))
        return text + "\n"

    def results(self, path: str) -> Iterator[tuple[Any, Any]]:
        """Pairs; a line that is none of them is a value under the key None."""
        for line in _lines(path):
            record = json.loads(line)
            if type(record) is dict and record.keys() == {"key", "value"}:
                yield record["key"], record["value"]
            else:
                yield None, record


class CsvOutput:
    """Rows, quoted where needed."""

    options: ClassVar[Converters] = {"separator": one_char}

    def __init__(self, options: Options) -> None:
        self._separator: str = options.get("separator", ",")

    def sink(self, file: Writable) -> TextSink:
        """A sink that appends to `file`."""
        row = io.StringIO(newline="")
        writer = csv.writer(row, delimiter=self._separator, lineterminator="\n")

        def encode(key: Any, value: Any) -> str:
            fields = [] if key is None else [key]
            fields += value if type(value) in (list, tuple) else [] if value is None else [value]
            writer.writerow([field if type(field) is str else plain(field) for field in fields])
            text = row.getvalue()
            row.seek(0)
            row.truncate()
            return text

        return TextSink(file, encode)

    def results(self, path: str) -> Iterator[tuple[Any, Any]]:
        """The first field, and the others: one as text, several as a list."""
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.reader(file, delimiter=self._separator):
                if row:
                    yield row[0], (row[1] if len(row) == 2 else row[1:])


class PairsSink:
    """Keys and values exactly, in the order given."""

    def __init__(self, file: Writable, values: Values) -> None:
        self._values = values
        self._region = RegionWriter(file, seal(PAIRS_OWNER, 0), values)

    def extend(self, pairs: Iterable[Any]) -> int:
        """Write pairs; how many. Raises NotAPair, Unencodable, OSError."""
        count = 0
        for pair in pairs:
            key, value = as_pair(pair)
            value, size, is_plain = self._values.freeze(value)
            self._region.add(encode_key(key), [value], is_plain, size)
            count += 1
        return count

    def close(self) -> None:
        """End the region: nothing can follow."""
        self._region.close()


class PairsOutput:
    """What a step writes for the next one."""

    options: ClassVar[Converters] = {"allow_pickle": flag}

    def __init__(self, options: Options) -> None:
        self._values = Values(allow_pickle=options.get("allow_pickle", False))

    def sink(self, file: Writable) -> PairsSink:
        """A sink that writes all of `file`."""
        return PairsSink(file, self._values)

    def results(self, path: str) -> Iterator[tuple[Any, Any]]:
        """The pairs as they were. Raises Damaged."""
        reader = RegionReader(path, 0, os.path.getsize(path), seal(PAIRS_OWNER, 0), self._values, 0)
        while (block := reader.next_block()) is not None:
            for name, held in zip(*block, strict=True):
                for value in held:
                    yield decode_key(name), value


def _lines(path: str) -> Iterator[str]:
    with open(path, "rb", buffering=0) as file:
        for block in read_blocks(file, line_bytes_max=1 << 40):
            # A lone CR before LF is data of ours, not the end of a line of Windows.
            yield from block.data.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
