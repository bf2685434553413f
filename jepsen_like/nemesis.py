"""When which fault hurts, for how long: a pure function of a seed.

A schedule is a list of steps; the same seed, faults and length give the same schedule, so a run can be played again.
Faults of one group (two ways to cut the same network) never overlap; faults of different groups do. Every schedule ends
with a calm in which nothing hurts: safety is judged in the storm, liveness after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the schedule must know of a fault: its name, what it excludes, and how long it may hurt, in seconds."""

    name: str
    group: str
    hurt_s: tuple[float, float]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One fault: begins `at_s` after the storm's start, is healed `hurt_s` later, draws its victims from `seed`."""

    at_s: float
    fault: str
    hurt_s: float
    seed: int

    @property
    def until_s(self) -> float:
        """When it is healed, seconds after the storm's start."""
        return self.at_s + self.hurt_s


def schedule(
    seed: int, kinds: Sequence[Kind], duration_s: float, *, every_s: float = 4.0, at_least_once: bool = False
) -> list[Step]:
    """Steps within `duration_s`, one every `every_s` on average. What has come already is less likely to come again: a
    short storm shows many kinds. With `at_least_once`, every kind occurs: a storm too short for that is made longer.
    Raises ValueError when two kinds share a name."""
    names = [kind.name for kind in kinds]
    if len(set(names)) != len(names):
        raise ValueError(f"two faults of one name among {', '.join(sorted(names))}")
    rng = Random(seed)
    queue = list(kinds) if at_least_once else []
    rng.shuffle(queue)
    steps: list[Step] = []
    busy_until: dict[str, float] = {}
    came: Counter[str] = Counter()
    at_s = 0.0
    while kinds:
        at_s += rng.uniform(0.4, 1.6) * every_s
        if at_s >= duration_s and not queue:
            break
        free = [kind for kind in (queue or kinds) if busy_until.get(kind.group, 0.0) <= at_s]
        if not free:
            continue
        kind = queue[0] if queue and queue[0] in free else _draw(rng, free, came)
        came[kind.name] += 1
        if kind in queue:
            queue.remove(kind)
        hurt_s = rng.uniform(*kind.hurt_s)
        steps.append(
            Step(at_s=round(at_s, 3), fault=kind.name, hurt_s=round(hurt_s, 3), seed=rng.getrandbits(32))
        )
        busy_until[kind.group] = at_s + hurt_s + 0.5
    return steps


def _draw(rng: Random, kinds: Sequence[Kind], came: Mapping[str, int]) -> Kind:
    weights = [kind.weight / (1 + came.get(kind.name, 0)) ** 2 for kind in kinds]
    return rng.choices(kinds, weights=weights)[0]


def fixed(script: Iterable[tuple[float, str, float]], seed: int = 0) -> list[Step]:
    """A schedule written down: (at_s, fault, hurt_s) each, for the short tests. Victims still come from the seed."""
    rng = Random(seed)
    return [Step(at_s=at, fault=name, hurt_s=hurt, seed=rng.getrandbits(32)) for at, name, hurt in script]


def read_script(text: str, known: Collection[str]) -> tuple[tuple[float, str, float], ...]:
    """A schedule as a person writes it: a line each, `AT FAULT SECONDS`, in seconds after the start; `#` begins a
    remark. Raises ValueError, which names the line."""
    steps = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3:
            raise ValueError(
                f"line {number} has {len(words)} words, not three: when, which fault, for how long"
            )
        at, name, hurt = words
        if name not in known:
            raise ValueError(f"line {number}: there is no fault {name}")
        try:
            begin, lasts = float(at), float(hurt)
        except ValueError:
            raise ValueError(f"line {number}: {at} and {hurt} are to be seconds") from None
        if not (0 <= begin < float("inf") and 0 <= lasts < float("inf")):
            raise ValueError(f"line {number}: {at} and {hurt} are no times")
        steps.append((begin, name, lasts))
    if not steps:
        raise ValueError("it names no fault")
    return tuple(sorted(steps))


def length_s(steps: Sequence[Step]) -> float:
    """When the last fault is healed."""
    return max((step.until_s for step in steps), default=0.0)
