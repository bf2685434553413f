"""Seeded histories of one member's disk: the real log, vote, watermark, snapshots and identity, and power cuts.

What was reported durable is there in the next life, and no power cut makes a member refuse to start. The files are
real; `PowerDisk` decides which of them outlive the cut. So each fsync of the product is needed here: without it, a few
seeds lose what it was for.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from consensus import opening
from consensus.core import NO_OP
from consensus.datadir import DataDir
from consensus.journal import Journal
from consensus.replica import RefusedToStart
from consensus.shelf import Shelf
from consensus.snapshots import Snapshot, serialise
from tests.simulation.consensus.checks import Violation
from tests.simulation.consensus.power import PowerDisk

MEMBERS = ("a", "b", "c")
LIVES = 4


@dataclass(slots=True)
class State:
    """What a member holds: of the log only what no snapshot covers needs to be there."""

    term: int = 0
    vote: str | None = None
    voter: bool = True
    joined: bool = False
    snapshot: int = 1
    entries: dict[int, tuple[bytes, int]] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return max(self.entries, default=self.snapshot)

    def copy(self) -> State:
        return replace(self, entries=dict(self.entries))


def content(index: int) -> bytes:
    """The state after an index."""
    return b"state %d " % index * 40


class Life:
    """One member between two power cuts. `promised` is what it reported durable, `meant` what it was about to."""

    def __init__(self, rng: random.Random, disk: PowerDisk, promised: State, *, replacing: bool) -> None:
        self.rng, self.disk, self.promised, self.replacing = rng, disk, promised, replacing
        self.meant = promised.copy()
        self.journal: Journal
        self.shelf: Shelf

    def run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self.disk.running())
            directory = DataDir(self.disk.root / "state", "a", MEMBERS)
            stack.callback(directory.close)
            self.journal = directory.open_log()
            stack.callback(self.journal._destroy)
            self.shelf = Shelf(directory.open_snapshots())
            stack.callback(self.shelf.close)
            opening._agree(self.journal, self.shelf)
            self.check(directory)
            self.join(directory)
            for _ in range(self.rng.randint(3, 14)):
                if self.disk.off:
                    return
                self.rng.choice(
                    (self.append, self.append, self.vote, self.replace_tail, self.compact, self.install)
                )()

    def promise(self) -> None:
        """Reported durable, if the power was still on."""
        if not self.disk.off:
            self.promised = self.meant.copy()

    # -- what a member does

    def join(self, directory: DataDir) -> None:
        """Its cluster takes it, or takes it back without a vote; then the end of every start."""
        if not directory.identity.cluster_id:
            self.meant.joined, self.meant.voter = True, not self.replacing
            _join(directory, self.journal, self.replacing)
        self.journal.sync()
        self.promise()

    def append(self) -> None:
        term = max(self.meant.term, self._term_of(self.meant.last))
        for _ in range(self.rng.randint(1, 4)):
            self._add(self.meant.last + 1, term)
        self.journal.sync()
        self.promise()

    def vote(self) -> None:
        self.meant.term += self.rng.randint(0, 2)
        self.meant.vote = self.rng.choice(MEMBERS)
        self.journal.setCurrentTerm(self.meant.term, self.meant.vote)
        self.journal.sync()
        self.promise()

    def replace_tail(self) -> None:
        """What was never committed loses against the next leader's."""
        if self.meant.last <= self.meant.snapshot:
            return
        first = self.rng.randint(self.meant.snapshot + 1, self.meant.last)
        self.journal.deleteEntriesFrom(first - self.journal[0][1])
        for index in range(first, self.meant.last + 1):
            del self.meant.entries[index]
        self.meant.term += 1
        self.journal.setCurrentTerm(self.meant.term, None)
        self.meant.vote = None
        if self.rng.random() < 0.5:
            self._add(first, self.meant.term)
        self.journal.sync()
        self.promise()

    def compact(self) -> None:
        """A snapshot of its own; the log before it goes when that is on disk."""
        if self.meant.last <= self.meant.snapshot:
            return
        index = self.rng.randint(self.meant.snapshot + 1, self.meant.last)
        self.meant.snapshot = index
        self.shelf.write(index, self._term_of(index), content(index))
        self.promise()
        self.journal.deleteEntriesTo(index - self.journal[0][1])
        self.meant.entries = {i: e for i, e in self.meant.entries.items() if i >= index}
        self.journal.sync()
        self.promise()

    def install(self) -> None:
        """A leader's snapshot, in pieces, takes the place of the log."""
        index = self.meant.last + self.rng.randint(1, 20)
        self.meant.term += 1
        term = self.meant.term
        file = serialise(Snapshot(index, term, b"\x01", content(index)))
        meta = (index, term, len(file), file[-32:])
        for offset in range(0, len(file), 500):
            self.shelf.put(meta, offset, file[offset : offset + 500])
        self.meant.snapshot, self.meant.vote = index, None
        self.meant.entries = {index: (NO_OP, term)}
        if not self.shelf.install(meta):
            raise Violation("a whole snapshot was refused")
        self.journal.clear()
        self.journal.add(NO_OP, index, term)
        self.journal.setCurrentTerm(term, None)
        self.journal.sync()
        self.promise()

    def _add(self, index: int, term: int) -> None:
        command = b"%d of %d" % (index, self.rng.randrange(1 << 30))
        self.meant.entries[index] = (command, term)
        self.journal.add(command, index, term)

    def _term_of(self, index: int) -> int:
        return int(self.journal[index - self.journal[0][1]][2])

    # -- what must be there

    def check(self, directory: DataDir) -> None:
        """After any crash: everything that was promised, or what was about to take its place."""
        objections = [self._objection(directory, state) for state in (self.promised, self.meant)]
        if all(objections):
            raise Violation(f"C8 durability: {objections[0]}; nor the change under way: {objections[1]}")
        journal = self.journal
        self.meant = State(
            term=journal.getCurrentTerm(),
            vote=journal.getVotedForNodeId(),
            voter=journal.voter,
            joined=bool(directory.identity.cluster_id),
            snapshot=max(1, getattr(self.shelf.latest(), "index", 1)),
            entries={i: (c, t) for c, i, t in journal[:] if i > 1},
        )

    def _objection(self, directory: DataDir, state: State) -> str | None:
        journal, newest = self.journal, self.shelf.read()
        held = 1 if newest is None else newest.index
        if newest is not None and newest.data != content(newest.index):
            return f"the snapshot at {newest.index} is another"
        if held < state.snapshot:
            return f"the snapshot at {state.snapshot} is gone, the newest ends at {held}"
        hard = journal.getCurrentTerm(), journal.getVotedForNodeId()
        if hard[0] < state.term or (hard[0] == state.term and hard[1] != state.vote):
            return f"term and vote {(state.term, state.vote)} are {hard}"
        if state.joined and not directory.identity.cluster_id:
            return "its cluster is forgotten"
        if directory.identity.cluster_id and self.replacing and journal.voter:
            return "an empty disk took part with a vote"
        entries = {i: (c, t) for c, i, t in journal[:]}
        for index, entry in state.entries.items():
            if index > held and entries.get(index) != entry:
                return f"entry {index} of term {entry[1]} is {entries.get(index)}"
        return None


def _join(directory: DataDir, journal: Journal, replacing: bool) -> None:
    """The real way into a cluster that exists, with peers that are made up."""
    me = directory.identity
    config: Any = SimpleNamespace(id="a", others=["b", "c"], peers=dict.fromkeys(MEMBERS), replace=replacing)

    def answer(link: Any, peer: str, *_: Any) -> Any:
        founders = {} if replacing else {me.member: me.nonce}
        founded = replace(me, member=peer, nonce=1, cluster_id="c1", founders=founders)
        return opening.identification(founded)

    def wait(reason: str) -> None:
        raise Violation(f"nobody let it in: {reason}")

    with mock.patch.object(opening, "_ask", answer):
        opening._found_or_join(config, directory, journal, None, wait)  # type: ignore[arg-type]  # answers are above


def play(seed: int, scratch: Path) -> None:
    """One history. Raises Violation, or whatever escapes from the product."""
    rng = random.Random(f"power-{seed}")
    replacing = rng.random() < 0.5
    promised = State()
    meant = promised
    root = scratch / "life-0"
    root.mkdir()
    for number in range(1, LIVES + 1):
        after = scratch / f"life-{number}"
        disk = PowerDisk(
            root, after, rng, goes_at=rng.randint(1, 25 if number == 1 or rng.random() < 0.5 else 70)
        )
        life = Life(rng, disk, promised, replacing=replacing)
        life.meant = meant.copy()
        try:
            life.run()
        except RefusedToStart as refused:
            raise Violation(f"C8 a power cut is no damage: {refused}") from refused
        disk.cut()
        promised, meant = life.promised, life.meant
        root = after
