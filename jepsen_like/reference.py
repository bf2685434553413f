"""What a job must answer, found without the cluster: an interpreter of fifteen lines that shares no code with `mr`.

It holds everything in memory. What it takes from the documents: a line ends with LF or CRLF; keys ascend; the values
of a key come in (file, line) order; a key's part is the hash that is specified for other languages; a line of output
is key TAB value with the escapes of tsv.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Mapper = Callable[[str], Iterable[tuple[Any, Any]]]
Reducer = Callable[[Any, Iterable[Any]], Iterable[tuple[Any, Any]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of every part, and what the counters must be."""

    parts: list[bytes]
    records_in: int  # lines
    records_out: int  # pairs that reduces wrote
    emitted: int  # pairs that maps emitted, before any combiner
    groups: int  # keys


def run(mapper: Mapper, reducer: Reducer, files: Sequence[Path], reduces: int) -> Answer:
    """Runs the job on `files`, in the order given. Keys are text."""
    lines = [line for file in files for line in _lines(file.read_bytes())]
    groups: dict[str, list[Any]] = {}
    for key, value in (pair for line in lines for pair in mapper(line)):
        groups.setdefault(key, []).append(value)
    parts, written = [b""] * reduces, 0
    for key in sorted(groups):
        hashed = zlib.crc32(b"P" + key.encode("utf-8", "surrogatepass")) * 0x9E3779B1 % 2**32
        for pair in reducer(key, iter(groups[key])):
            row = "\t".join(_field(one) for one in pair) + "\n"
            parts[hashed * reduces >> 32] += row.encode("utf-8", "surrogateescape")
            written += 1
    return Answer(parts, len(lines), written, sum(map(len, groups.values())), len(groups))


def _lines(data: bytes) -> list[str]:
    rows = data.split(b"\n")
    rows = rows[:-1] if rows[-1] == b"" else rows
    return [row.removesuffix(b"\r").decode("utf-8", "surrogateescape") for row in rows]


def _field(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
