"""Small tools for user functions: a byte range of a file, and words of a text (S3-23)."""

from __future__ import annotations

import os
import re

_SEPARATORS = re.compile(r"\W+")


def read_range(path: str | os.PathLike[str], start: int, end: int) -> bytes:
    """The bytes [start, end) of a file; fewer where the file ends before. Raises OSError, ValueError."""
    if not 0 <= start <= end:
        raise ValueError(f"no range: {start} to {end}")
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def tokenize(text: str, separators: str | None = None) -> list[str]:
    """The non-empty tokens between any of the characters `separators`; by default, words (letters, digits, _)."""
    pattern = _SEPARATORS if separators is None else re.compile(f"[{re.escape(separators)}]+")
    return [token for token in pattern.split(text) if token]
