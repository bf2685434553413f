"""The consensus layer with one rule taken out: the simulation must notice, or it proves nothing.

Each function replaces one named rule by what pysyncobj, or a careless author, would do. `within` is the number of
seeds after which the simulation must have found a broken promise; it is several times what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from consensus import fence, leading
from consensus.fence import term_at
from consensus.journal import Journal
from consensus.node import NO_OP, Node
from consensus.progress import Member as Progress
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


def _answer_at_once(self: Node, peer: str, message: Any, matched: bool, next_index: int) -> None:
    self._send(
        peer, self._answer_message(matched, next_index, message.get("prevLogIdx", 0), message["round"])
    )


def _send_at_once(self: Node, peer: str, message: Any, bulk: bool = False) -> bool:
    return self.shell.send(peer, message, bulk)


def _count_last_as_own(self: Any) -> int:
    index = leading.agreed(self._log[-1][1], self._listed, self._config.majority)
    return index if term_at(self._log, index) == self.term else 0


def _commit_old_terms(self: Any) -> int:
    return int(leading.agreed(self._log.durable_index, self._listed, self._config.majority))


def _agreed_with_everyone(own: int, members: list[Progress], majority: int) -> int:
    return sorted([own, *(m.match for m in members)], reverse=True)[majority - 1]


def _read_at_once(self: Any, handed: int) -> list[Any]:
    done = [r.waiter for r in self.reads if r.index <= handed]
    self.reads = [r for r in self.reads if r.index > handed]
    return done


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


def _trim_before_it_is_stored(
    self: Any, index: int, term: int, serialise: Callable[[], bytes], waiter: Any
) -> None:
    self.world.at(0.0, self._in_this_life(self.node.snapshot_taken, index))
    self.world.at(0.05, self._in_this_life(lambda: self.shelf.write(index, term, serialise())))


def _vote_at_once(self: Node, promote: tuple[int, int]) -> None:
    if not self.journal.voter:
        self.journal.set_voter(True)


def _voter_without_a_disk(self: Any) -> None:
    self.entries, self.hard, self.snapshot = [], world.Hard(voter=True), None


def _follow_anyone(self: Node, peer: str, message: Any) -> bool:
    return bool(message["term"] >= self.term)


def _snapshot_commits(self: Node, snapshot: tuple[int, int, int, bytes]) -> None:
    _NORMAL_STORED(self, snapshot)


def _pieces_anywhere(self: Any, snapshot: Any, offset: int, data: bytes) -> int:
    if self._arriving is None or self._arriving[0] != snapshot:
        self._arriving = (snapshot, bytearray())
    self._arriving[1].extend(data)
    return len(self._arriving[1])


_NORMAL_STORED = Node.snapshot_stored

ABLATIONS = [
    Ablation("trim: a late append truncates", "2, 6", fence, "unmatched", lambda log, entries: entries, 40),
    Ablation(
        "clamp: commit beyond what was verified", "1, 18", fence, "verified_commit", lambda c, v: c, 200
    ),
    Ablation("old snapshots are refused", "13", fence, "snapshot_is_news", lambda *a: True, 400),
    Ablation("answers wait for the disk", "7", Node, "_answer", _answer_at_once, 100),
    Ablation("terms and votes wait for the disk", "7", Node, "_send", _send_at_once, 400),
    Ablation("the leader counts its own disk only", "7", leading.Leading, "agreed", _count_last_as_own, 400),
    Ablation(
        "only entries of the own term are counted",
        "5.4.2",
        leading.Leading,
        "agreed",
        _commit_old_terms,
        4000,
    ),
    Ablation("a non-voter is not counted", "empty disk", leading, "agreed", _agreed_with_everyone, 4000),
    Ablation("a read takes a quorum round", "26", leading.Leading, "confirmed", _read_at_once, 100),
    Ablation("a read waits for the no-op", "26", leading.Leading, "read", _read_without_noop, 400),
    Ablation("align keeps the log", "3", world, "align", _align_like_pysyncobj, 100),
    Ablation("align drops what lost", "3", world, "align", _no_align, 400),
    Ablation(
        "the log is trimmed after the snapshot is durable",
        "3, 7",
        world.Member,
        "_keep",
        _trim_before_it_is_stored,
        200,
    ),
    Ablation("an empty disk has no vote", "empty disk", world.SimStore, "lose", _voter_without_a_disk, 4000),
    Ablation("an empty disk earns its vote", "empty disk", Node, "_claim_vote", _vote_at_once, 4000),
    Ablation("snapshot pieces have offsets", "14", world.SimShelf, "put", _pieces_anywhere, 400),
    Ablation("answers of old terms do not count", "9", fence, "answers_this_term", lambda m, t: True, 0),
    Ablation("voters are counted, not votes", "10", fence.Ballot, "count", lambda *a: True, 0),
]
BY_NAME = {a.name: a for a in ABLATIONS}
