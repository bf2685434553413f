"""What goes wrong in one history: data, drawn from a seed before it begins, so that it can be shrunk."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from consensus.config import Limits, Timing
from consensus.wire import ANSWER, VOTE, VOTED
from tests.simulation.consensus.themes import THEMES

TIMING = Timing(heartbeat_s=0.09, election_min_s=0.3, election_max_s=0.6, lease_s=0.3)


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
    theme: str = "plain"


def profile(seed: int, theme: str | None = None) -> Profile:
    """Every kind of history has its share of the seeds: two thirds of the plain ones with 3 members, one third with
    5. `theme` is the seed's own when none is named."""
    if theme is None:
        rng = random.Random(f"theme-{seed}")
        theme = (
            "plain"
            if rng.random() < 0.5
            else rng.choice([t for t in THEMES if t not in ("plain", "lost voters")])
        )
        if theme == "disks" and rng.random() < 0.5:
            theme = "lost voters"
    kind = THEMES[theme]
    rng = random.Random(f"profile-{seed}")
    network = rng.choice(kind.networks)
    return Profile(
        members=rng.choice(kind.members),
        network=network,
        snapshots=rng.random() < kind.snapshots,
        small_appends=rng.random() < kind.small_appends,
        # A frame of a lost disk's former life must not arrive after its rebirth: the transport promises that.
        disk_losses=network == "tcp" and rng.random() < kind.disk_losses,
        theme=theme,
    )


def limits(kind: Profile) -> Limits:
    """Small enough that a history of seconds meets every limit."""
    theme = THEMES[kind.theme]
    append, window = (250, 500) if kind.small_appends else (4000, 16000)
    if theme.entry_an_append:
        append, window = 2, 2
    return Limits(
        command_bytes=min(200, append - 1),
        append_bytes=append,
        window_bytes=window,
        uncommitted_entries=60,
        apply_lag_entries=40,
        piece_bytes=300,
        window_pieces=2,
        compact_bytes=1 << 30,
        compact_entries=theme.compact_entries if kind.snapshots else 1 << 30,
        keep_entries=4,
    )


def draw(seed: int, kind: Profile) -> list[Fault]:
    """The faults of a history, in time order."""
    rng = random.Random(f"plan-{seed}")
    theme = THEMES[kind.theme]
    members = [chr(ord("a") + i) for i in range(kind.members)]
    faults: list[Fault] = []
    now = rng.uniform(0.6, 1.2)
    while now < kind.seconds:
        if theme.faults:
            name = rng.choices(list(theme.faults), list(theme.faults.values()))[0]
            faults.append(Fault(now, name, ARGUMENTS[name](rng, members)))
        else:
            faults.append(Fault(now, *_any_fault(rng, members, kind)))
        now += rng.uniform(*theme.gap_s)
    return faults


def _lasts(rng: random.Random) -> float:
    return round(rng.choice((0.3, 1.0, 2.5, 4.0)) * rng.uniform(0.5, 1.5), 3)


def _down(rng: random.Random, shortest: float = 0.05, longest: float = 2.0) -> float:
    return round(rng.uniform(shortest, longest), 3)


def _side(rng: random.Random, members: list[str]) -> tuple[object, ...]:
    size = rng.randint(1, len(members) // 2)
    way = rng.choice(("both", "both", "in", "out", "leaky"))
    return tuple(sorted(rng.sample(members, size))), _down(rng, 0.1, 1.5), way


def _spoil(rng: random.Random, members: list[str]) -> tuple[object, ...]:
    """How many a leader reaches, for how long, and how long it is gone then (0: it stays)."""
    reach = rng.choice((0, 0, 1, 1, 2))
    return reach, _down(rng, 0.01, 0.12), rng.choice((0.0, *[_down(rng, 0.02, 0.4)] * 4))


ARGUMENTS: dict[str, Callable[[random.Random, list[str]], tuple[object, ...]]] = {
    "partition": _side,
    "isolate_leader": lambda rng, m: (_down(rng, 0.2, 1.0), rng.random() < 0.7),
    "isolate_leader_from_members": lambda rng, m: (_down(rng, 0.3, 1.2), rng.random() < 0.7),
    "crash": lambda rng, m: (rng.choice(m), _down(rng, 0.05, 1.0)),
    "crash_leader": lambda rng, m: (_down(rng, 0.02, 0.5),),
    "crash_at_operation": lambda rng, m: (rng.choice(m), rng.randint(1, 12)),
    "power_cut": lambda rng, m: (rng.choice(m), _down(rng, 0.02, 0.3)),
    "power_cut_all": lambda rng, m: (_down(rng, 0.02, 0.3),),
    "power_cut_after": lambda rng, m: (rng.choice(m), rng.choice((VOTED, VOTE, ANSWER, ANSWER))),
    "power_cut_voter": lambda rng, m: (rng.choice(m), rng.choice((VOTED, VOTED, VOTE))),
    "reset": lambda rng, m: tuple(rng.sample(m, 2)),
    "pause_leader": lambda rng, m: (_down(rng, 0.2, 1.0),),
    "slow_disk": lambda rng, m: (rng.choice(m), _lasts(rng)),
    "transfer": lambda rng, m: (),
    "snapshot": lambda rng, m: (rng.choice(m),),
    "rivals": lambda rng, m: (*rng.sample(m, 2), _down(rng, 0.05, 0.6), rng.random() < 0.5),
    "spoil_next_leader": _spoil,
    "deaf_leader": lambda rng, m: (rng.choice((1, 1, 2)), _down(rng, 0.15, 0.4), 0.0),
    "favourite_stands": lambda rng, m: (rng.choice((m[0], m[0], m[0], rng.choice(m))), rng.random() < 0.5),
    "swap_disk": lambda rng, m: (rng.choice(m), _down(rng, 0.01, 0.2)),
    "swap_between": lambda rng, m: (_down(rng, 0.02, 0.04), _down(rng, 0.3, 1.2), rng.random() < 0.5),
    "swap_voter": lambda rng, m: (rng.choice(m), _down(rng, 0.01, 0.1)),
    "followers_away": lambda rng, m: (
        rng.random(),
        rng.randint(1, len(m) // 2),
        _down(rng, 0.3, 2.5),
        rng.choice(("both", "both", "in", "out")),
    ),
    "follower_paused": lambda rng, m: (rng.random(), _down(rng, 0.3, 2.0)),
    "follower_crashes": lambda rng, m: (rng.random(), _down(rng, 0.1, 1.5)),
    "follower_slow": lambda rng, m: (rng.random(), _down(rng, 0.5, 2.5)),
}
"""The arguments of each fault of a theme: (chance, members) -> what the world's method takes."""


def _any_fault(rng: random.Random, members: list[str], kind: Profile) -> tuple[str, tuple[object, ...]]:
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
