"""One real node on a table: the test is its network, its clock and its disk."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from consensus.applying import Applier, Item, Proposal
from consensus.config import Limits, ReplicaConfig, Timing
from consensus.core import CANDIDATE, LEADER, NO_OP, REGULAR
from consensus.journal import Journal
from consensus.node import Node
from tests.simulation.consensus.disk import SimShelf, SimStore
from tests.unit.consensus.rig import HeapStore, Register

TIMING = Timing(heartbeat_s=0.05, election_min_s=0.3, election_max_s=0.6, lease_s=0.3)
X = REGULAR + b"x"


def entries(first: int, last: int, term: int, command: bytes = X) -> list[tuple[bytes, int, int]]:
    return [(command, i, term) for i in range(first, last + 1)]


def append(
    term: int, prev: tuple[int, int], new: list[tuple[bytes, int, int]], commit: int = 1, **more: Any
) -> dict[str, Any]:
    """An append as a leader of `term` sends it."""
    message = {
        "type": "append_entries",
        "term": term,
        "prevLogIdx": prev[0],
        "prevLogTerm": prev[1],
        "entries": new,
        "commit_index": commit,
        "round": 1,
        "urgent": False,
        "promote": (0, 0),
    }
    return message | more


def answer(term: int, next_index: int, matched: bool = True, **more: Any) -> dict[str, Any]:
    """A follower's answer."""
    message = {
        "type": "next_node_idx",
        "term": term,
        "success": matched,
        "reset": not matched,
        "next_node_idx": next_index,
        "rejected": 0,
        "round": 1,
        "non_voter": False,
        "incarnation": 1,
    }
    return message | more


def vote_request(
    term: int, last: tuple[int, int], *, pre: bool = False, transfer: bool = False
) -> dict[str, Any]:
    """A candidate's question."""
    return {
        "type": "request_vote",
        "term": term,
        "last_log_index": last[0],
        "last_log_term": last[1],
        "pre": pre,
        "transfer": transfer,
    }


def vote(term: int, *, pre: bool = False, granted: bool = True) -> dict[str, Any]:
    """A voter's answer."""
    return {"type": "response_vote", "term": term, "granted": granted, "pre": pre}


def piece(
    term: int, content: bytes, index: int, entry_term: int, offset: int = 0, length: int | None = None
) -> dict[str, Any]:
    """A piece of a snapshot file."""
    return {
        "type": "snapshot_piece",
        "term": term,
        "snapshot": (index, entry_term, len(content), content[-32:]),
        "offset": offset,
        "data": content[offset : None if length is None else offset + length],
        "round": 1,
    }


class Outcome:
    """What a caller got."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: Exception | None = None

    def done(self) -> bool:
        return False

    def set_result(self, result: Any) -> None:
        self.result = result

    def set_exception(self, error: Exception) -> None:
        self.error = error


class SlowStore(HeapStore):
    """A disk that is durable only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []
        self.slow = False

    def write(self, batch: Any, ticket: int) -> None:
        if self.slow:
            self.waiting.append((batch, ticket))
        else:
            super().write(batch, ticket)

    def catch_up(self) -> None:
        for batch, ticket in self.waiting:
            super().write(batch, ticket)
        self.waiting = []


class Solo:
    """Member "a" of a cluster of `n`; the others are the test's words."""

    def __init__(
        self,
        n: int = 3,
        *,
        me: str = "a",
        limits: Limits | None = None,
        store: SlowStore | None = None,
        up: tuple[str, ...] | None = None,
    ) -> None:
        members = [chr(ord("a") + i) for i in range(n)]
        config = ReplicaConfig(
            id=me,
            peers={m: f"{m}:1" for m in members},
            listen="x:1",
            data_dir=Path("/nowhere"),
            timing=TIMING,
            limits=limits or Limits(),
        )
        self.clock = 100.0
        self.store = store or SlowStore()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.items: list[Item] = []
        self.stored: list[Any] = []
        self.machine = Register()
        self.applier = Applier(
            self.machine,
            applied=1,
            term=0,
            refuse=None,
            wake=lambda: None,
            keep=lambda index, term, serialise, waiter: self.keep(index, term, serialise()),
            fetch=lambda: None,
        )
        self.disk = SimStore(random.Random(1), lambda delay, call: None)
        self.shelf = SimShelf(self.disk)
        journal = Journal(self.store)
        if not len(journal):
            journal.add(NO_OP, 1, 0)
        journal.sync()
        self.node = Node(config, journal, self.shelf, self, random.Random(1), handed=1, incarnation=7)
        for m in config.others if up is None else up:
            self.node.up(m)
        self.node.tick()
        self.sent.clear()

    # -- its shell

    def now(self) -> float:
        return self.clock

    def send(self, peer: str, message: dict[str, Any], bulk: bool) -> bool:
        self.sent.append((peer, message))
        return True

    def hand(self, item: Item) -> None:
        self.items.append(item)
        self.applier.put(item)
        self.applier.run(lambda: False)

    def applied(self) -> int:
        return self.applier.applied

    def store_snapshot(self, meta: Any) -> None:
        self.stored.append(meta)

    def keep(self, index: int, term: int, data: bytes) -> None:
        self.shelf.write(index, term, data)

    # -- the test's hands

    def hear(self, peer: str, message: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Gives it a message; returns what it sent until the end of the next tick."""
        self.sent.clear()
        self.node.receive(peer, message)
        self.settle()
        return list(self.sent)

    def settle(self) -> None:
        """One tick hands what is new to the disk; in the next, what waited for that leaves."""
        self.node.tick()
        self.node.tick()

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Lets time pass, with a tick every 10 ms; returns what it sent."""
        self.sent.clear()
        until = self.clock + seconds
        while self.clock < until:
            self.clock += 0.01
            self.node.tick()
        return list(self.sent)

    def elect(self, *voters: str) -> None:
        """Stands for election in the next term and gets these votes."""
        while not self._asks():
            self.clock += 0.04
            self.settle()
        term = self.node.term + 1
        for v in self.node.config.others:
            if self.node.term < term:
                self.node.receive(v, vote(term, pre=True))
        assert (self.node.term, self.node.state) == (term, CANDIDATE)
        for v in voters:
            self.node.receive(v, vote(term))
        self.settle()

    def _asks(self) -> bool:
        asked = [m for _, m in self.sent if m["type"] == "request_vote" and m["pre"]]
        return bool(asked) and asked[-1]["term"] == self.node.term + 1

    def propose(self, command: bytes = b"x") -> Outcome:
        outcome = Outcome()
        self.node.proposals.append(Proposal(command, outcome))
        self.settle()
        return outcome

    @property
    def leads(self) -> bool:
        return self.node.state == LEADER

    def log(self) -> list[tuple[int, int]]:
        return [(i, t) for _, i, t in self.node.journal[:]]
