"""How answers look: a table with stable columns, or JSON. Knows nothing of jobs or workers.

Numbers stand right, words left, columns are two blanks apart, and the header is always there, so that
both eyes and `awk` can rely on it. Colour only on a terminal, never with NO_COLOR.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TextIO

Form = Literal["table", "wide", "json", "jsonl"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its header, the text of a row's cell, whether only `wide` shows it, and where it stands."""

    title: str
    cell: Callable[[Any], str]
    wide: bool = False
    right: bool = False


def rows(
    items: Sequence[Any],
    columns: Sequence[Column],
    shape: Callable[[Any], dict[str, Any]],
    form: Form,
    *,
    out: TextIO | None = None,
) -> None:
    """Prints `items` as a table of `columns`, or each as the JSON object that `shape` makes of it."""
    stream = out or sys.stdout
    match form:
        case "json":
            print(dump([shape(item) for item in items]), file=stream)
        case "jsonl":
            for item in items:
                print(line(shape(item)), file=stream)
        case _:
            shown = [column for column in columns if form == "wide" or not column.wide]
            for text in table([[c.cell(item) for c in shown] for item in items], shown):
                print(text, file=stream)


def table(cells: Iterable[Sequence[str]], columns: Sequence[Column]) -> list[str]:
    """Header and rows, as lines without trailing blanks."""
    everything = [[column.title for column in columns], *([cell or "-" for cell in row] for row in cells)]
    widths = [max(len(row[n]) for row in everything) for n in range(len(columns))]
    return ["  ".join(_aligned(row, widths, columns)).rstrip() for row in everything]


def one(item: Any, shape: Callable[[Any], dict[str, Any]], form: Form, text: Callable[[Any], str]) -> None:
    """Prints a single thing: `text` for people, the object for programs."""
    match form:
        case "json":
            print(dump(shape(item)))
        case "jsonl":
            print(line(shape(item)))
        case _:
            print(text(item))


def dump(value: Any) -> str:
    """JSON over several lines, for reading."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def line(value: Any) -> str:
    """JSON in one line, for programs."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _aligned(row: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> list[str]:
    return [
        text.rjust(width) if column.right else text.ljust(width)
        for text, width, column in zip(row, widths, columns, strict=True)
    ]
