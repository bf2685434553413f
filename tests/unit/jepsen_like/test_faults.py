"""The catalogue of faults, and the storm that carries them out: what began is healed, and what struck is proven."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from jepsen_like import faults_disk, storm
from jepsen_like.fault import Fault, Missed
from jepsen_like.faults import FAULTS
from jepsen_like.faults_partition import Bridge, Halves, LeaderDeaf, LeaderMute, MastersApart, Minority, Ring
from jepsen_like.history import History
from jepsen_like.links import among, between
from jepsen_like.nemesis import Step, schedule
from jepsen_like.net import CLIENT
from jepsen_like.place import Place
from tests.chaos import campaign


def place(masters: int, leader: str = "a") -> Any:
    """As much of a place as a partition asks for."""
    ids = "abcdefg"[:masters]
    servers = {id: SimpleNamespace(alive=True) for id in [*ids, "w1", "w2"]}
    return SimpleNamespace(
        masters={id: servers[id] for id in ids},
        workers={id: servers[id] for id in ("w1", "w2")},
        servers=servers,
        server=servers.__getitem__,
        leader=lambda: SimpleNamespace(id=leader, term=1),
    )


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_says_what_a_schedule_and_a_report_need(fault):
    assert fault.__doc__
    assert 0 < fault.hurt_s[0] <= fault.hurt_s[1]
    assert fault.cites, "ids of the fault catalogue"
    assert set(fault.needs) <= {"netns", "tmpfs", "shim", "lossy", "cpu"}
    fault()


def reach(links: set[tuple[str, str]], ids: str) -> dict[str, set[str]]:
    """Who is heard by whom when `links` are cut."""
    return {a: {b for b in ids if b != a and (b, a) not in links} for a in ids}


@pytest.mark.parametrize("seed", range(20))
def test_partitions_are_what_they_are_called(seed):
    """FC9, FC10, FC11, FC13."""
    three, five, rng = place(3), place(5), Random(seed)
    heard = reach(set(LeaderDeaf().links(three, rng)), "abc")
    assert heard == {"a": set(), "b": {"a", "c"}, "c": {"a", "b"}}
    heard = reach(set(LeaderMute().links(three, rng)), "abc")
    assert heard == {"a": {"b", "c"}, "b": {"c"}, "c": {"b"}}
    heard = reach(set(MastersApart().links(three, rng)), "abc")
    assert heard == {"a": set(), "b": set(), "c": set()}
    heard = reach(set(Bridge().links(three, rng)), "abc")
    assert sorted(map(len, heard.values())) == [1, 1, 2]
    heard = reach(set(Ring().links(five, rng)), "abcde")
    assert {len(others) for others in heard.values()} == {2}
    assert all(a in heard[b] for a in heard for b in heard[a])
    heard = reach(set(Minority().links(five, rng)), "abcde")
    assert sorted(map(len, heard.values())) == [1, 1, 2, 2, 2]
    cut = set(Halves().links(three, rng))
    nodes = [CLIENT, *three.servers]
    parts = {frozenset({a} | {b for b in nodes if b != a and (b, a) not in cut}) for a in nodes}
    assert len(parts) == 2
    assert parts == {part for part in parts if len(part) == 3}


def test_links_are_directed():
    assert between(["a"], ["b", "c"]) == [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")]
    assert len(among(["a", "b", "c"])) == 6


def test_a_campaign_contains_every_fault_and_is_a_function_of_its_seed():
    runs = list(campaign.every_fault(5, list(FAULTS.values())))
    assert {name for run in runs for name in run.faults.split(",")} == set(FAULTS)
    assert all(FAULTS[name].masters <= run.masters for run in runs for name in run.faults.split(","))
    assert runs == list(campaign.every_fault(5, list(FAULTS.values())))
    assert runs != list(campaign.every_fault(6, list(FAULTS.values())))


@pytest.mark.parametrize("seed", range(10))
def test_a_storm_of_everything_names_every_fault_once_at_least(seed):
    steps = schedule(seed, [fault.kind() for fault in FAULTS.values()], 0.0, at_least_once=True)
    assert {step.fault for step in steps} == set(FAULTS)


class Recorder(Fault):
    """Does nothing, and remembers when."""

    name, group, needs, cites = "recorder", "test", (), ("FC1",)
    log: ClassVar[list[str]] = []
    fails = ""

    def hurt(self, place: Any, rng: Random) -> dict[str, Any]:
        self.log.append("hurt")
        if self.fails == "missed":
            raise Missed("nobody")
        if self.fails == "hurt":
            raise OSError("no such tool")
        return {"what": "nothing"}

    def heal(self, place: Any) -> None:
        self.log.append("heal")
        if self.fails == "heal":
            raise OSError("still hurting")

    def proof(self, place: Any) -> dict[str, Any] | None:
        self.log.append("proof")
        return {"struck": 1} if self.fails != "proof" else None


def run_storm(tmp_path: Path, monkeypatch: Any, fails: str, steps: int = 1) -> tuple[storm.Storm, History]:
    kind = type("Here", (Recorder,), {"fails": fails, "log": []})
    monkeypatch.setitem(storm.FAULTS, "recorder", kind)
    there = SimpleNamespace(links=SimpleNamespace(heal=lambda: None), revive=lambda: [])
    history = History(tmp_path / "h.jsonl")
    runner = storm.Storm(
        there, history, [Step(at_s=0.0, fault="recorder", hurt_s=0.05, seed=n) for n in range(steps)]
    )
    runner.start()
    runner.join(20)
    history.close()
    runner.log = kind.log  # type: ignore[attr-defined]  # of this test
    return runner, history


@pytest.mark.parametrize(
    ("fails", "done", "kinds", "proven", "unproven", "broken"),
    [
        ("", ["hurt", "heal", "proof"], ["begins", "hurt", "heals", "heal", "proof"], 1, 0, 0),
        ("proof", ["hurt", "heal", "proof"], ["begins", "hurt", "heals", "heal", "proof"], 0, 1, 0),
        ("missed", ["hurt", "heal"], ["begins", "missed", "heals"], 0, 0, 0),
        ("hurt", ["hurt", "heal", "proof"], ["begins", "hurt failed", "heals", "heal", "proof"], 1, 0, 1),
        ("heal", ["hurt", "heal"], ["begins", "hurt", "heals", "heal failed"], 0, 0, 1),
    ],
    ids=["well", "unproven", "missed", "hurt fails", "heal fails"],
)
def test_what_began_is_healed_and_told(tmp_path, monkeypatch, fails, done, kinds, proven, unproven, broken):
    """A hurt that raised may have hurt all the same: it is healed too. What found no victim is no fault."""
    runner, history = run_storm(tmp_path, monkeypatch, fails)
    assert runner.log == done
    assert [event.op if event.kind == "note" else event.kind for event in history.events] == kinds
    assert (len(runner.proven), len(runner.unproven), len(runner.broken)) == (proven, unproven, broken)


def test_steps_of_one_group_never_overlap(tmp_path, monkeypatch):
    runner, _ = run_storm(tmp_path, monkeypatch, "", steps=4)
    assert runner.log == ["hurt", "heal", "proof"] * 4


def test_a_stopped_storm_heals_at_once(tmp_path, monkeypatch):
    kind = type("Here", (Recorder,), {"log": []})
    monkeypatch.setitem(storm.FAULTS, "recorder", kind)
    there = SimpleNamespace(links=SimpleNamespace(heal=lambda: None), revive=lambda: [])
    history = History(tmp_path / "h.jsonl")
    runner = storm.Storm(there, history, [Step(at_s=0.0, fault="recorder", hurt_s=600.0, seed=1)])
    runner.start()
    while "hurt" not in kind.log:
        time.sleep(0.01)
    runner.stop()
    runner.join(20)
    history.close()
    assert kind.log == ["hurt", "heal", "proof"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("storm")]


def test_a_master_whose_disk_was_taken_says_so_whoever_starts_it(tmp_path):
    """Seed 201: a cold restart met a master that had not yet heard which cluster it is of, started it as usual, and it
    refused for good."""
    data = tmp_path / "data"
    (data / "raft").mkdir(parents=True)
    server = SimpleNamespace(id="b", pid=7, alive=True, process=None, argv=["mr-master"], data_dir=data)
    started: list[list[str]] = []

    def restart(id: str) -> None:
        started.append(list(server.argv))
        server.alive = True

    def kill(id: str, sig: int) -> None:
        server.alive = False

    there = Place("proxy", tmp_path, 1, ())
    there.cluster = SimpleNamespace(servers={"b": server}, restart=restart, kill=kill)  # type: ignore[assignment]
    there.kill("b")
    there.start("b")
    there.replace("b")
    assert not list(data.iterdir())
    there.kill("b")
    there.start("b")
    assert started == [["mr-master"], ["mr-master", "--replace"], ["mr-master", "--replace"]]
    assert server.argv == ["mr-master"]


class IdleShim:
    """Of a worker that writes `writes` times while its disk is read-only."""

    def __init__(self, writes: int) -> None:
        self.writes, self.code = writes, 0

    def fail_writes(self, code: int) -> None:
        self.code = code

    def count(self, _counter: str) -> int:
        return self.writes if self.code else 0


@pytest.mark.parametrize("writes", [0, 2])
def test_a_read_only_disk_that_nobody_writes_to_hurts_nobody(writes: int, monkeypatch) -> None:
    """Seed 826735881: an excluded worker wrote nothing three times, and the run was void."""
    monkeypatch.setattr(faults_disk, "_STRIKES_S", 0.1)
    shim = IdleShim(writes)
    server = SimpleNamespace(alive=True, process=None)
    place = SimpleNamespace(
        workers={"w1": server}, shims={"w1": shim}, server=lambda _: server, start=lambda _: None
    )
    fault = faults_disk.WorkerReadOnly()
    if writes:
        assert fault.hurt(place, Random(1)) == {"node": "w1"}
    else:
        with pytest.raises(Missed, match="w1 wrote nothing"):
            fault.hurt(place, Random(1))
    fault.heal(place)
    assert shim.code == 0
    assert bool(fault.proof(place)) == bool(writes)
