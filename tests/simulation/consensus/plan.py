"""What goes wrong in one history: data, drawn from a seed before it begins, so that it can be shrunk."""

from __future__ import annotations

import random
from dataclasses import dataclass

from consensus.wire import ANSWER, VOTE, VOTED
from tests.simulation.consensus.network import MODES


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens at a time: `kind` is a method of the world, called with `arguments`."""

    at: float
    kind: str
    arguments: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.at:6.3f} {self.kind}{self.arguments}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The kind of history a seed gives."""

    members: int
    network: str
    snapshots: bool
    small_appends: bool
    disk_losses: bool
    seconds: float = 7.0


def profile(seed: int) -> Profile:
    """Every kind of history has its share of the seeds: two thirds with 3 members, one third with 5."""
    rng = random.Random(f"profile-{seed}")
    network = rng.choice(("tcp", "tcp", *MODES))
    return Profile(
        members=rng.choice((3, 3, 5)),
        network=network,
        snapshots=rng.random() < 0.6,
        small_appends=rng.random() < 0.5,
        # A frame of a lost disk's former life must not arrive after its rebirth: the transport promises that.
        disk_losses=network == "tcp" and rng.random() < 0.5,
    )


def draw(seed: int, kind: Profile) -> list[Fault]:
    """The faults of a history, in time order."""
    rng = random.Random(f"plan-{seed}")
    members = [chr(ord("a") + i) for i in range(kind.members)]
    faults: list[Fault] = []
    now = rng.uniform(0.6, 1.2)
    while now < kind.seconds:
        faults.append(Fault(now, *_fault(rng, members, kind)))
        now += rng.uniform(0.1, 1.2)
    return faults


def _fault(rng: random.Random, members: list[str], kind: Profile) -> tuple[str, tuple[object, ...]]:
    member = rng.choice(members)
    other = rng.choice([m for m in members if m != member])
    lasts = rng.choice((0.3, 1.0, 2.5, 4.0)) * rng.uniform(0.5, 1.5)
    draw = rng.random()
    if draw < 0.26:
        side = (member,) if len(members) == 3 or rng.random() < 0.6 else tuple(sorted((member, other)))
        return "partition", (side, round(lasts, 3), rng.choice(("both", "both", "in", "out", "leaky")))
    if draw < 0.34:
        return "isolate_leader", (round(lasts, 3), rng.random() < 0.5)
    if draw < 0.46:
        return "crash", (member, round(rng.uniform(0.05, 2), 3))
    if draw < 0.52:
        return "crash_leader", (round(rng.uniform(0.05, 2), 3),)
    if draw < 0.62:
        return "crash_at_operation", (member, rng.randint(1, 12))
    if draw < 0.66:
        return "crash_all", (round(rng.uniform(0.05, 1), 3),)
    if draw < 0.72:
        return "power_cut_after", (member, rng.choice((VOTED, VOTED, VOTE, ANSWER)))
    if draw < 0.77:
        return "reset", (member, other)
    if draw < 0.81:
        return "flap", (member, other, rng.randint(2, 6))
    if draw < 0.88:
        return "pause", (member, round(rng.uniform(0.3, 2.5), 3))
    if draw < 0.92:
        return "slow_disk", (member, round(lasts, 3))
    if draw < 0.94:
        return "transfer", ()
    if draw < 0.985 and kind.disk_losses:
        return "lose_disk", (member, rng.choice(("flip", "truncate", "gone")))
    return "snapshot", (member,)
