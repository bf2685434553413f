"""Sizes, durations and counts: as people write them, and as we show them. Pure.

Bytes are ints, durations are seconds as floats. `64MiB` is 2**20 based, `64MB` is 10**6 based.
"""

from __future__ import annotations

import re

from mr.errors import Usage


class BadUnit(Usage, ValueError):
    """A text that is no size or no duration."""


_SIZE = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE |= {f"{p}iB": 2 ** (10 * (i + 1)) for i, p in enumerate("KMGT")}
_SIZE |= {f"{p}B": 10 ** (3 * (i + 1)) for i, p in enumerate("KMGT")} | {"kB": 1000, "k": 2**10}
_DURATION = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_bytes(text: str | int) -> int:
    """`"64MiB"` -> bytes. A bare number is bytes. Raises BadUnit, a ValueError."""
    match = _PART.fullmatch(str(text).strip())
    if not match or match[2] not in _SIZE:
        raise BadUnit(f"{text!r} is not a size", next='write sizes like "64MiB", "1.5GiB" or "200kB"')
    return int(float(match[1]) * _SIZE[match[2]])


def parse_seconds(text: str | float) -> float:
    """`"30s"`, `"300ms"`, `"1h30m"` -> seconds. A bare number is seconds. Raises BadUnit, a ValueError."""
    whole = str(text).strip()
    parts = _PART.findall(whole)
    if not parts or "".join(n + u for n, u in parts) != whole.replace(" ", ""):
        raise BadUnit(f"{text!r} is not a duration", next='write durations like "30s", "300ms" or "1h30m"')
    if any(unit not in _DURATION for _, unit in parts):
        raise BadUnit(f"{text!r} is not a duration", next='units are ms, s, m, h and d: "30s", "1h30m"')
    return sum(float(number) * _DURATION[unit] for number, unit in parts)


def size(count: float) -> str:
    """1288490188 -> `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """0.0042 -> `4 ms`, 1.42 -> `1.4 s`, 221 -> `3m41s`, 90061 -> `1d1h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def spell_duration(seconds: float) -> str:
    """The shortest text that `parse_seconds` reads back exactly: 0.3 -> `300ms`, 600 -> `10m`."""
    milliseconds = round(seconds * 1000)
    for unit, each in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % each == 0:
            return f"{milliseconds // each}{unit}"
    return f"{milliseconds}ms"


def spell_size(count: int) -> str:
    """The shortest text that `parse_bytes` reads back exactly: 67108864 -> `64MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if count and count % _SIZE[unit] == 0:
            return f"{count // _SIZE[unit]}{unit}"
    return str(count)


def number(count: int) -> str:
    """912004113 -> `912,004,113`."""
    return f"{count:,}"


def plural(count: int, noun: str, many: str = "") -> str:
    """`1 file`, `3 files`, `0 files`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"
