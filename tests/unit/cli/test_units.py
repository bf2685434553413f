"""Units are strings: what people write is read, what we show is short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr import units


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64MiB", 64 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("200kB", 200_000),
        ("7", 7),
        ("7B", 7),
        ("2K", 2048),
        (12, 12),
    ],
)
def test_sizes(text: str | int, count: int) -> None:
    assert units.parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300ms", 0.3),
        ("30s", 30),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1m30s", 90),
        ("0.5", 0.5),
        (3, 3),
        ("10min", 600),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert units.parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "MiB", "12 parsecs", "1.2.3", "-5", "64 QiB", "1h 30x"])
def test_nonsense_is_refused_by_name(text: str) -> None:
    with pytest.raises(units.BadUnit, match="is not a size"):
        units.parse_bytes(text)
    with pytest.raises(units.BadUnit, match="is not a duration"):
        units.parse_seconds(text)


@given(st.integers(0, 2**50))
def test_a_spelt_size_reads_back(count: int) -> None:
    assert units.parse_bytes(units.spell_size(count)) == count


@given(st.integers(0, 10**10))
def test_a_spelt_duration_reads_back(milliseconds: int) -> None:
    assert round(units.parse_seconds(units.spell_duration(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (units.size(0), "0 B"),
        (units.size(1228), "1.2 KiB"),
        (units.size(28_346_784_154), "26.4 GiB"),
        (units.size(212 * 2**20), "212 MiB"),
        (units.duration(0.0042), "4 ms"),
        (units.duration(1.42), "1.4 s"),
        (units.duration(221), "3m41s"),
        (units.duration(518400), "6d0h"),
        (units.duration(3600), "1h00m"),
        (units.number(912004113), "912,004,113"),
        (units.plural(1, "file"), "1 file"),
        (units.plural(0, "finished task"), "0 finished tasks"),
    ],
)
def test_what_people_read(shown: str, text: str) -> None:
    assert shown == text
