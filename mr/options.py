"""Options of formats: text in the job's spec, checked and converted in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Options = Mapping[str, Any]
Converters = Mapping[str, Callable[[str], Any]]


def flag(text: str) -> bool:
    """True for "true", "yes" or "1", False for "false", "no" or "0". Raises ValueError."""
    lower = text.lower()
    if lower in ("true", "yes", "1"):
        return True
    if lower in ("false", "no", "0", ""):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def one_char(text: str) -> str:
    """A single character; "\\t" for a TAB. Raises ValueError."""
    char = "\t" if text in ("\\t", "tab") else text
    if len(char) != 1 or char in "\r\n":
        raise ValueError(f"{text!r} is not one character")
    return char


def size(text: str) -> int:
    """Bytes, as a number or as "64MiB". Raises ValueError."""
    from mr.units import parse_bytes

    return parse_bytes(text)


def converted(what: str, given: Mapping[str, str], known: Converters) -> Options:
    """`given` with every value converted. Raises ValueError that names the option."""
    result = {}
    for name, text in given.items():
        if name not in known:
            raise ValueError(f"{what} has no option {name!r}; it has {', '.join(sorted(known)) or 'none'}")
        try:
            result[name] = known[name](text)
        except ValueError as error:
            raise ValueError(f"option {name!r} of {what}: {error}") from None
    return result
