"""Runs simulated histories by seed, on as many processes as wanted, and shrinks the one that fails."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from tests.simulation.consensus.plan import Fault, Profile, draw, profile
from tests.simulation.consensus.world import World

CHUNK = 20  # histories handed to a process at a time


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in a history, and what led to it."""

    seed: int
    theme: str
    error: str
    faults: tuple[Fault, ...]
    trace: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The invariant, or the kind of exception: what shrinking must keep."""
        return self.error.split(" ")[0]

    def __str__(self) -> str:
        told = "\n".join(f"    {line}" for line in self.trace[-60:])
        faults = "\n".join(f"    {fault}" for fault in self.faults)
        head = f"seed {self.seed} ({self.theme}): {self.error}"
        return f"{head}\n  faults left after shrinking:\n{faults}\n  trace:\n{told}"


@dataclass(slots=True)
class Result:
    """Of some histories: what was counted, and the failures."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Takes another result in."""
        self.seeds += other.seeds
        self.counts += other.counts
        self.failures += other.failures


def play(
    seed: int, kind: Profile, faults: list[Fault], **options: object
) -> tuple[Counter[str], Failure | None]:
    """One history. Whatever escapes is a failure: an assertion of the product as much as a broken
    invariant."""
    world = World(seed, kind, faults, **options)  # type: ignore[arg-type]  # options are World's own
    try:
        world.run()
    except Exception as error:
        text = f"{type(error).__name__} {error}" if type(error).__name__ != "Violation" else str(error)
        return world.counts, Failure(seed, kind.theme, text, tuple(faults), tuple(world.trace))
    return world.counts, None


def run(seeds: Iterable[int], theme: str | None = None) -> Result:
    """Plays the histories of `seeds`, each of its own theme or of the one named; failing ones are shrunk."""
    logging.disable(logging.CRITICAL)
    result = Result()
    for seed in seeds:
        kind = profile(seed, theme)
        counts, failure = play(seed, kind, draw(seed, kind))
        result.seeds += 1
        result.counts += counts
        result.counts[f"theme {kind.theme}"] += 1
        if failure is not None:
            result.failures.append(shrink(failure, kind))
    return result


def shrink(failure: Failure, kind: Profile) -> Failure:
    """Leaves out faults, and time, as long as the same invariant breaks."""
    best = failure
    seconds = max((f.at for f in failure.faults), default=0.5) + 0.5

    def try_with(faults: list[Fault], until: float) -> bool:
        nonlocal best
        _, again = play(failure.seed, replace(kind, seconds=until), faults)
        if again is not None and again.kind == failure.kind:
            best = again
            return True
        return False

    if try_with(list(failure.faults), seconds):
        kind = replace(kind, seconds=seconds)
    size = max(1, len(best.faults) // 2)
    while size >= 1:
        position = 0
        while position < len(best.faults):
            left = [*best.faults[:position], *best.faults[position + size :]]
            if not try_with(left, kind.seconds):
                position += size
        size //= 2
    return best


def parallel(
    first: int, last: int, processes: int, stop_at: int = 1, theme: str | None = None
) -> Iterator[Result]:
    """Results as they come, for seeds first..last; ends after `stop_at` failures."""
    chunks = [range(s, min(s + CHUNK, last + 1)) for s in range(first, last + 1, CHUNK)]
    failed = 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for result in pool.imap_unordered(partial(run, theme=theme), chunks):
            yield result
            failed += len(result.failures)
            if failed >= stop_at:
                pool.terminate()
                return


def total(results: Iterable[Result], progress: Callable[[Result], None] = lambda _: None) -> Result:
    """All of them together."""
    whole = Result()
    for result in results:
        whole.add(result)
        progress(whole)
    return whole
