"""Policies, one row a promise: from free slots and ready tasks to who goes where."""

from __future__ import annotations

import pytest

from master.fair_share import Claim, turns
from master.ids import MAP, REDUCE, TaskKey
from master.scheduler import POLICIES, ClusterView, FreeWorker, ReadyTask, spread_kinds


def m(index: int, *hosts: str, avoid: tuple[str, ...] = ()) -> ReadyTask:
    return ReadyTask(TaskKey("j", 0, MAP, index), hosts, frozenset(avoid))


def r(index: int) -> ReadyTask:
    return ReadyTask(TaskKey("j", 0, REDUCE, index))


def w(
    name: str, free: int = 1, kinds: tuple[int, ...] = (), runs: dict[tuple[str, int], int] | None = None
) -> FreeWorker:
    return FreeWorker(name, f"host-{name}", free, frozenset(kinds), runs or {})


MAPS = (m(0), m(1), m(2), m(3), m(4))

PROMISES = [
    # promise, policy, workers, ready, dealt last, plan
    ("no slot, no plan", "locality", [], MAPS, "", ""),
    (
        "first come, first served, the emptiest worker first",
        "locality",
        [w("a"), w("b", 2)],
        MAPS,
        "",
        "m-0:b m-1:a m-2:b",
    ),
    (
        "a worker that holds the input goes first (P-11)",
        "locality",
        [w("a", 2), w("b")],
        (m(0), m(1, "host-b")),
        "",
        "m-1:b m-0:a",
    ),
    ("a held input does not wait for its holder", "locality", [w("a")], (m(0, "host-z"),), "", "m-0:a"),
    (
        "a task keeps off a worker where it failed",
        "locality",
        [w("a"), w("b")],
        (m(0, avoid=("a",)), m(1)),
        "",
        "m-0:b m-1:a",
    ),
    ("a task that fits nowhere blocks nobody", "locality", [w("a")], (m(0, avoid=("a",)), m(1)), "", "m-1:a"),
    (
        "a worker gets only kinds that it takes",
        "locality",
        [w("a", kinds=(REDUCE,)), w("b")],
        (m(0), r(0)),
        "",
        "m-0:b r-0:a",
    ),
    (
        "cards are dealt one to each in turn (S1-15)",
        "deal",
        [w("a", 2), w("b", 2), w("c", 1)],
        MAPS,
        "",
        "m-0:a m-1:b m-2:c m-3:a m-4:b",
    ),
    (
        "the deal goes on where it stopped (S1-15)",
        "deal",
        [w("a", 2), w("b", 2)],
        MAPS[:3],
        "a",
        "m-0:b m-1:a m-2:b",
    ),
    (
        "the deal passes a full worker",
        "deal",
        [w("a", 1), w("b", 3)],
        MAPS[:4],
        "",
        "m-0:a m-1:b m-2:b m-3:b",
    ),
    (
        "two idle machines get one map and one reduce (S1-16)",
        "pairwise",
        [w("a"), w("b")],
        (m(0), m(1), r(0), r(1)),
        "",
        "m-0:a r-0:b",
    ),
    (
        "a machine with two slots gets a pair (S1-16)",
        "pairwise",
        [w("a", 2), w("b", 2)],
        (m(0), m(1), r(0), r(1)),
        "",
        "m-0:a r-0:a m-1:b r-1:b",
    ),
    (
        "without reduces, maps fill the machines",
        "pairwise",
        [w("a", 2), w("b")],
        MAPS[:3],
        "",
        "m-0:a m-1:a m-2:b",
    ),
]


@pytest.mark.parametrize(
    ("promise", "policy", "workers", "ready", "last", "plan"), PROMISES, ids=[p[0] for p in PROMISES]
)
def test_promise(
    promise: str, policy: str, workers: list[FreeWorker], ready: tuple[ReadyTask, ...], last: str, plan: str
) -> None:
    made = POLICIES[policy]().plan(ClusterView(tuple(workers), ready, last))
    assert " ".join(f"{p.task.text}:{p.worker}" for p in made) == plan


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_overbooks_or_repeats(policy: str) -> None:
    workers = tuple(w(name, free) for name, free in zip("abcde", (1, 0, 3, 2, 1), strict=True))
    made = POLICIES[policy]().plan(
        ClusterView(workers, tuple(m(i) for i in range(20)) + tuple(r(i) for i in range(9)))
    )
    assert len({p.task for p in made}) == len(made) == 7
    for worker in workers:
        assert sum(p.worker == worker.id for p in made) <= worker.free


@pytest.mark.parametrize("policy", POLICIES)
def test_spread_kinds_holds_under_every_policy(policy: str) -> None:
    """S1-17, also among the placements of one plan."""
    workers = (w("a", 2, runs={("j", MAP): 1}), w("b", 2, runs={("j", REDUCE): 1}), w("c", 2))
    ready = (r(0), m(0), r(1), m(1), r(2), m(2))
    made = POLICIES[policy]().plan(ClusterView(workers, ready, allows=spread_kinds))
    kinds = {worker: {p.task.kind for p in made if p.worker == worker} for worker in "abc"}
    assert kinds["a"] <= {MAP}
    assert kinds["b"] <= {REDUCE}
    assert len(kinds["c"]) <= 1
    assert made


def claim(
    job: str,
    user: str = "u",
    queue: str = "",
    priority: int = 0,
    running: int = 0,
    wants: int = 9,
    starved: float = 0.0,
) -> Claim:
    return Claim(job, queue, user, priority, int(job[1:]), running, wants, starved)


SHARES = [
    ("one job gets all", [claim("j1")], 3, {}, {}, "j1 j1 j1"),
    ("no more than it wants", [claim("j1", wants=1), claim("j2")], 3, {}, {}, "j1 j2 j2"),
    ("jobs of one user share", [claim("j1"), claim("j2")], 4, {}, {}, "j1 j2 j1 j2"),
    ("who has less goes first", [claim("j1", running=2), claim("j2")], 3, {}, {}, "j2 j2 j1"),
    (
        "users share, whoever has more jobs",
        [claim("j1"), claim("j2"), claim("j3", "v")],
        4,
        {},
        {},
        "j1 j3 j2 j3",
    ),
    ("a user's held slots count", [claim("j1"), claim("j2", "v")], 2, {}, {("", "u"): 5}, "j2 j2"),
    (
        "queues share before users",
        [claim("j1"), claim("j2", "v"), claim("j3", "x", "q")],
        4,
        {},
        {},
        "j1 j3 j2 j3",
    ),
    ("a higher priority gets more, not all", [claim("j1"), claim("j2", priority=10)], 3, {}, {}, "j1 j2 j2"),
    (
        "who starved goes first, once (T13)",
        [claim("j1"), claim("j2", running=7, starved=31.0)],
        3,
        {},
        {},
        "j2 j1 j1",
    ),
]


@pytest.mark.parametrize(
    ("promise", "claims", "slots", "queues", "users", "order"), SHARES, ids=[s[0] for s in SHARES]
)
def test_share(
    promise: str,
    claims: list[Claim],
    slots: int,
    queues: dict[str, int],
    users: dict[tuple[str, str], int],
    order: str,
) -> None:
    assert " ".join(turns(claims, slots, queues, users)) == order


def test_every_job_gets_a_slot_in_time() -> None:
    """T13: forty jobs of four users on three slots; each slot is held one round; nobody waits for long."""
    waited = dict.fromkeys(range(40), 0)
    longest = 0
    for _ in range(400):
        claims = [claim(f"j{n}", f"u{n % 4}", starved=waited[n] if waited[n] > 10 else 0) for n in waited]
        served = {int(job[1:]) for job in turns(claims, 3, {}, {})}
        waited = {n: 0 if n in served else rounds + 1 for n, rounds in waited.items()}
        longest = max(longest, *waited.values())
    assert longest < 60
