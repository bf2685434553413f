"""Formats: from splits to records, from records to files. One small class each, and one line in a registry (P-05).

    inputs    text    a record is a line: key its byte offset, value the line as str
              jsonl   a line of JSON; blank lines are skipped; key the byte offset
              csv     a row as a list of str, or a dict with `header`; blank lines are skipped; key the byte offset.
                      A row is one line unless `multiline`, which reads files whole
              kv      a line cut at the first TAB (`separator`): key and value as str, "" if there is no TAB
    outputs   tsv     key TAB value; str with \\\\ \\t \\n \\r written as those two characters, anything else as JSON
              text    the same without escapes: for people, not to be read back
              jsonl   {"key": ..., "value": ...}, the value alone where the key is None
              csv     a row: the key, then the value, or its elements if it is a list or tuple
    both      pairs   keys and values exactly, in checksummed blocks: between the steps of a job

Text is UTF-8; what is not UTF-8 comes in as lone surrogates ("surrogateescape") and goes out as the very same
bytes. A UTF-8 BOM at the beginning of a file is dropped. In output a None key or value leaves no field
behind.

More formats come from the entry point group `mr.formats`: a class with `reads` or `writes`, made with the
options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mr.options import converted
from mr.readers import Batch, CsvInput, InputFormat, JsonlInput, KvInput, PairsInput, TextInput
from mr.writers import CsvOutput, JsonlOutput, OutputFormat, PairsOutput, Sink, TextOutput, TsvOutput

__all__ = ["FORMATS", "Batch", "InputFormat", "OutputFormat", "Sink", "input_format", "output_format"]

# name -> (class that reads, class that writes). A class is made with its options, named in its `options`.
FORMATS: dict[str, tuple[Any, Any]] = {
    "text": (TextInput, TextOutput),
    "jsonl": (JsonlInput, JsonlOutput),
    "csv": (CsvInput, CsvOutput),
    "kv": (KvInput, None),
    "tsv": (None, TsvOutput),
    "pairs": (PairsInput, PairsOutput),
}
ENTRY_POINTS = "mr.formats"


def input_format(name: str, options: Mapping[str, str] | None = None) -> InputFormat:
    """The input format `name`. Raises ValueError for an unknown name or option, or a bad value."""
    made: InputFormat = _made(0, name, options or {})
    return made


def output_format(name: str, options: Mapping[str, str] | None = None) -> OutputFormat:
    """The output format `name`. Raises ValueError for an unknown name or option, or a bad value."""
    made: OutputFormat = _made(1, name, options or {})
    return made


def _made(direction: int, name: str, options: Mapping[str, str]) -> Any:
    kind = FORMATS[name][direction] if name in FORMATS else _from_entry_point(direction, name)
    if kind is None:
        known = ", ".join(sorted(n for n, both in FORMATS.items() if both[direction]))
        raise ValueError(f"no {('input', 'output')[direction]} format {name!r}; known are {known}")
    return kind(converted(f"format {name}", options, kind.options))


def _from_entry_point(direction: int, name: str) -> Any:
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS, name=name):
        return getattr(point.load(), ("reads", "writes")[direction], None)
    return None
