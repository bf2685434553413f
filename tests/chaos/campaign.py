"""Which runs make a campaign: every fault at least once, or random ones until the time is over. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from jepsen_like.fault import Fault
from jepsen_like.run import RunConfig

CHUNK = 15  # faults in one run: about two minutes of storm
STORM_S = 60.0  # at least, so that jobs keep coming
_FIVE = 5
# A long campaign turns to these now and then, so that what matters most happens often.
_WHO = ("leader", "follower", "worker", "burst", "all-masters", "all-workers")
_POWER = ("power-cut", "power-cut-all", "power-cut-vote")
DEATHS = ",".join([*(f"kill-{who}" for who in _WHO), "cold-restart", *_POWER])


def every_fault(seed: int, catalogue: Sequence[type[Fault]]) -> Iterator[RunConfig]:
    """Runs in which each fault occurs: those that need five masters together, the others in mixed parts; and one
    behind proxies, as on a laptop without root."""
    rng = Random(seed)
    few = [fault.name for fault in catalogue if fault.masters < _FIVE]
    rng.shuffle(few)
    for start in range(0, len(few), CHUNK):
        part = ",".join(few[start : start + CHUNK])
        yield RunConfig(seed=rng.randrange(1 << 30), seconds=STORM_S, faults=part, each=True, every_s=3.0)
    large = [fault.name for fault in catalogue if fault.masters >= _FIVE]
    five = ",".join([*large, "kill-leader", "power-cut-all", "leader-from-masters", "kill-worker"])
    yield RunConfig(
        seed=rng.randrange(1 << 30), seconds=STORM_S, faults=five, each=True, masters=_FIVE, every_s=3.0
    )
    laptop = "kill-leader,leader-alone,delay,bit-flips,black-hole,cut-after-bytes,pause-leader"
    yield RunConfig(
        seed=rng.randrange(1 << 30), seconds=STORM_S, faults=laptop, each=True, kind="proxy", every_s=3.0
    )


def again(seed: int, missing: Sequence[str], masters: int) -> RunConfig:
    """Another chance for faults that found nobody to hurt."""
    return RunConfig(
        seed=seed, seconds=STORM_S, faults=",".join(sorted(missing)), each=True, masters=masters, every_s=3.0
    )


def at_random(seed: int) -> Iterator[RunConfig]:
    """One after the other, for ever; a function of the seed."""
    rng = Random(seed)
    while True:
        faults = rng.choice(["all", DEATHS])
        yield RunConfig(
            seed=rng.randrange(1 << 30),
            seconds=rng.choice([60.0, 120.0, 240.0]) if faults == "all" else STORM_S,
            masters=rng.choice([3, 3, _FIVE]),
            workers=rng.randint(2, 5),
            faults=faults,
            every_s=rng.choice([1.5, 3.0, 6.0]) if faults == "all" else 1.5,
        )


def deaths(seed: int) -> Iterator[RunConfig]:
    """Runs in which processes die and disks lose power, and nothing else happens."""
    return (config for config in at_random(seed) if config.faults == DEATHS)
