"""Which running tasks deserve a backup attempt, by robust statistics of those that are done (P-01).

Pure. Median and median absolute deviation, so that one outlier neither hides nor makes a straggler. Near the end of a
phase only: while tasks of the kind are idle, a free slot serves them better.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping

from master.ids import AttemptKey

SAMPLES = 1001  # durations kept a kind; older ones give way
ENOUGH = 3  # finished tasks before anything can be said
NOISE = 3 * 1.4826  # three standard deviations, if durations were normal


class Durations:
    """How long finished attempts of one kind took, in seconds."""

    __slots__ = ("_arrived", "_sorted")

    def __init__(self) -> None:
        self._sorted: list[float] = []
        self._arrived: list[float] = []

    def add(self, seconds: float) -> None:
        """One more; beyond SAMPLES the oldest goes."""
        bisect.insort(self._sorted, seconds)
        self._arrived.append(seconds)
        if len(self._arrived) > SAMPLES:
            oldest = self._arrived.pop(0)
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]

    def __len__(self) -> int:
        return len(self._sorted)

    @property
    def median(self) -> float:
        """The middle one; 0 when there is none."""
        return self._sorted[len(self._sorted) // 2] if self._sorted else 0.0

    @property
    def longest(self) -> float:
        """Of those kept; 0 when there is none."""
        return self._sorted[-1] if self._sorted else 0.0

    def deviation(self) -> float:
        """Median absolute deviation from the median."""
        middle = self.median
        return sorted(abs(seconds - middle) for seconds in self._sorted)[len(self._sorted) // 2]


def slow(
    elapsed: Mapping[AttemptKey, float],
    fractions: Mapping[AttemptKey, float],
    durations: Durations,
    *,
    factor: float,
    least_s: float,
) -> list[AttemptKey]:
    """Attempts that run far longer than their kind does and won't be done soon; the slowest first.

    `elapsed` holds seconds, `fractions` the progress 0..1 where it is known.
    """
    if len(durations) < ENOUGH:
        return []
    limit = max(least_s, factor * durations.median, durations.median + NOISE * durations.deviation())
    found = []
    for key, seconds in elapsed.items():
        if seconds <= limit:
            continue
        fraction = fractions.get(key, 0.0)
        left = seconds * (1 - fraction) / fraction if fraction > 0 else float("inf")
        if left > durations.median:  # else it is done before a backup could be
            found.append((-left, -seconds, key))
    return [key for _, _, key in sorted(found)]


def adaptive_deadline_ms(durations: Durations | None) -> int:
    """When an attempt is given up, if its job names no time: twenty times the longest so far, ten minutes at least;
    0 = never, while too little is known."""
    if durations is None or len(durations) < 20:
        return 0
    return int(1000 * max(600.0, 20 * durations.longest))


def may_back_up(running: int, backed_up: int, share: float) -> int:
    """How many more backups a kind may have."""
    return max(0, max(1, int(running * share)) - backed_up)


def without_backup(
    keys: Iterable[AttemptKey], attempts_of: Mapping[int, tuple[object, ...]]
) -> list[AttemptKey]:
    """Those whose task has no second attempt yet."""
    return [key for key in keys if len(attempts_of.get(key.index, ())) == 1]
