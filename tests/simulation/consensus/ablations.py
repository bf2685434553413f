"""The consensus layer with one rule taken out: the simulation must notice, or it proves nothing.

Each function replaces one named rule by what pysyncobj, or a careless author, would do. `within` is the number of
seeds after which the simulation must have found a broken promise; it is several times what was measured. Rules that
chance hardly ever needs (terms of answers, counting voters, Figure 8, forgotten votes, old snapshots) have directed
schedules in tests/unit/consensus/test_schedules.py instead, and each rule a story in test_hazards.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from consensus import fence, leading
from consensus.core import NO_OP
from consensus.fence import term_at
from consensus.journal import Hard, Journal
from consensus.outbox import Outbox
from tests.simulation.consensus import world


@dataclass(frozen=True, slots=True)
class Ablation:
    """A rule that is missing."""

    name: str
    hazard: str  # of the evidence file, or the part of Raft
    target: Any
    attribute: str
    instead: Any
    within: int

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The rule is out inside the block."""
        with mock.patch.object(self.target, self.attribute, self.instead):
            yield


def _answer_at_once(self: Outbox, peer: str, answer: Any, now: float, *, entries: bool, urgent: bool) -> None:
    self.send(peer, answer)


def _count_last_as_own(self: Any) -> int:
    index = leading.agreed(self._log[-1][1], self._listed, self._config.majority)
    return index if term_at(self._log, index) == self.term else 0


def _read_without_noop(self: Any, commit: int, waiter: Any) -> None:
    self.reads.append(leading.Read(self.round + 1, commit, waiter))


def _align_like_pysyncobj(journal: Journal, index: int, term: int) -> bool:
    if len(journal) and journal[0][1:] == (index, term):
        return True
    journal.clear()
    return False


def _no_align(journal: Journal, index: int, term: int) -> bool:
    if not len(journal):
        journal.add(NO_OP, index, term)
    return True


def _trim_at_once(self: Any, index: int, term: int, serialise: Callable[[], bytes], waiter: Any) -> None:
    self.world.at(0.0, self._in_this_life(self.node.snapshot_taken, index))
    self.world.at(0.05, self._in_this_life(lambda: self.shelf.write(index, term, serialise())))


def _voter_without_a_disk(self: Any) -> None:
    self.entries, self.hard, self.snapshot = [], Hard(voter=True), None


def _pieces_anywhere(self: Any, snapshot: Any, offset: int, data: bytes) -> int:
    if self._arriving is None or self._arriving[0] != snapshot:
        self._arriving = (snapshot, bytearray())
    self._arriving[1].extend(data)
    return len(self._arriving[1])


ABLATIONS = [
    Ablation("a late append truncates nothing", "2, 6", fence, "unmatched", lambda log, entries: entries, 20),
    Ablation("only what was verified is committed", "1, 18", fence, "verified_commit", lambda c, v: c, 20),
    Ablation("answers wait for the disk", "7", Outbox, "answer", _answer_at_once, 20),
    Ablation("the leader counts its own disk", "7", leading.Leading, "agreed", _count_last_as_own, 60),
    Ablation("a read waits for the no-op", "26", leading.Leading, "read", _read_without_noop, 200),
    Ablation("align keeps the log", "3", world, "align", _align_like_pysyncobj, 40),
    Ablation("align drops what lost", "3", world, "align", _no_align, 200),
    Ablation(
        "the log outlives its snapshot's way to the disk", "3, 7", world.Member, "_keep", _trim_at_once, 40
    ),
    Ablation("an empty disk has no vote", "empty disk", world.SimStore, "lose", _voter_without_a_disk, 400),
    Ablation("snapshot pieces have offsets", "14", world.SimShelf, "put", _pieces_anywhere, 40),
]
