"""C1 to C9 and C11 of the invariants, checked after every event of a simulated history."""

from __future__ import annotations

from typing import Any

from consensus.fence import Entry
from jepsen_like.linearizability import Operation, Register, check
from jepsen_like.verdict import Outcome
from tests.simulation.consensus.disk import SimStore
from tests.simulation.consensus.plan import TIMING


class Violation(Exception):
    """An invariant does not hold. The first word is its id."""


class Checker:
    """What all replicas together have promised so far."""

    def __init__(self, disks: dict[str, SimStore]) -> None:
        self.disks = disks
        self.majority = len(disks) // 2 + 1
        self.leaders: dict[int, tuple[str, int]] = {}  # term -> (member, its life)
        self.votes: dict[tuple[str, int], str] = {}  # (member, term) -> candidate
        self.voters: dict[tuple[int, str], set[str]] = {}  # (term, candidate) -> who ever voted for it
        self.terms: dict[str, int] = {}  # the highest term each member has shown
        self.identity: dict[
            tuple[int, int], tuple[bytes, int]
        ] = {}  # (index, term) -> (command, previous term)
        self.committed: dict[int, tuple[bytes, int]] = {}
        self.committed_in: dict[int, int] = {}  # index -> the term in which it was first seen committed
        self.digests: dict[int, str] = {}
        self.newest = 1
        self.seen: dict[str, int] = {}
        self.operations: list[Operation] = []
        self.acknowledged: dict[str, int] = {}  # unique command -> index
        self.refused: set[str] = set()
        self.applied_at: dict[str, int] = {}

    # -- hooks

    def added(self, entry: Entry, previous: Entry | None) -> None:
        """C3: an index and a term name one entry with one predecessor, in every log, so prefixes agree."""
        command, index, term = entry
        if previous is None or index != previous[1] + 1:
            return  # the base of a log after a snapshot
        known = self.identity.setdefault((index, term), (command, previous[2]))
        if known != (command, previous[2]):
            raise Violation(
                f"C3 log matching: entry {index} of term {term} is {known} and {(command, previous[2])}"
            )

    def voted(self, member: str, term: int, candidate: str) -> None:
        """C2: one vote a term, across restarts."""
        self.voters.setdefault((term, candidate), set()).add(member)
        known = self.votes.setdefault((member, term), candidate)
        if known != candidate:
            raise Violation(f"C2 vote: {member} voted in term {term} for {known} and for {candidate}")

    def shown(self, member: str, term: int) -> None:
        """C2: terms never fall, across restarts."""
        if term < self.terms.get(member, 0):
            raise Violation(f"C2 term: {member} showed term {self.terms[member]} and now {term}")
        self.terms[member] = term

    def lost_disk(self, member: str) -> None:
        """It comes back as a non-voter, and what it said before is forgotten with its disk."""
        self.terms.pop(member, None)
        for key in [k for k in self.votes if k[0] == member]:
            del self.votes[key]

    def leads(self, member: str, life: int, term: int, log: Any) -> None:
        """C1: one leader a term. C4: it has everything that was committed in earlier terms."""
        known = self.leaders.setdefault(term, (member, life))
        if known != (member, life):
            raise Violation(f"C1 election safety: {known} and {(member, life)} lead term {term}")
        voters = self.voters.get((term, member), set())
        if len(voters) < self.majority > 1:
            raise Violation(f"C1 election safety: {member} leads term {term} elected by {sorted(voters)}")
        base = log[0][1]
        for index, (command, entry_term) in self.committed.items():
            if index <= base or self.committed_in[index] >= term:
                continue
            position = index - base
            if position >= len(log) or (log[position][0], log[position][2]) != (command, entry_term):
                raise Violation(
                    f"C4 leader completeness: {member} leads term {term} without committed entry {index}"
                )

    def step(self, member: str, commit: int, log: Any, term: int) -> None:
        """C5: what is committed is the same everywhere. C8: and on the disks of a majority."""
        seen = self.seen.get(member, 1)
        base, last = log[0][1], log[-1][1]
        if commit > last:
            raise Violation(f"C5 {member} counts entry {commit} as committed and has {last} entries")
        if commit <= seen:
            if commit < seen:
                raise Violation(f"C5 {member} counted entry {seen} as committed and now {commit}")
            return
        for index in range(max(seen, base) + 1, commit + 1):
            command, _, entry_term = log[index - base]
            known = self.committed.setdefault(index, (command, entry_term))
            self.committed_in.setdefault(index, term)
            if known != (command, entry_term):
                raise Violation(
                    f"C5 state machine safety: entry {index} committed as {known} and {command!r}/{entry_term}"
                )
        self.seen[member] = commit
        if commit > self.newest:
            self.newest = commit
            self.on_majority()

    def forget(self, member: str) -> None:
        """A new life looks at everything again."""
        self.seen.pop(member, None)

    def on_majority(self) -> None:
        """C8: the newest committed entry is on the disks of a majority, not counting those that were lost
        whole and have not yet the right to vote again."""
        if self.newest not in self.committed:
            return
        term = self.committed[self.newest][1]
        holding = sum(disk.holds(self.newest, term) for disk in self.disks.values())
        excused = sum(not d.hard.voter and not d.holds(self.newest, term) for d in self.disks.values())
        if holding + excused < self.majority:
            raise Violation(f"C8 durability: committed entry {self.newest} is on {holding} disks")

    def applied(self, member: str, index: int, previous: int, digest: str, command: str | None) -> None:
        """C6, C7: the state after an index is one value everywhere, and every entry is applied once, in
        order."""
        if index <= previous:
            raise Violation(f"C7 apply once: {member} applied {index} after {previous}")
        known = self.digests.setdefault(index, digest)
        if known != digest:
            raise Violation(
                f"C6 replica equality: state of {member} after {index} is {digest}, elsewhere {known}"
            )
        if command is not None:
            if command in self.refused:
                raise Violation(f"C9 no resurrection: {command} was definitely refused and is applied")
            if self.applied_at.setdefault(command, index) != index:
                raise Violation(f"C7 {command} is applied at {self.applied_at[command]} and at {index}")

    def still_leads(self, member: str, silent_s: float, awake_s: float) -> None:
        """C12: who has not heard a majority for longer than the lease leads no more; after a pause of its own it may
        ask once more, which takes two heartbeats."""
        if silent_s > TIMING.lease_s + 1e-6 and awake_s > 2 * TIMING.heartbeat_s + 0.01:
            raise Violation(f"C12 lease: {member} leads and has heard no majority for {silent_s:.3f} s")

    # -- the client's side

    def definitely_refused(self, command: str) -> None:
        """A client was told that this never happened."""
        self.refused.add(command)
        if command in self.applied_at:
            raise Violation(
                f"C9 {command} was applied at {self.applied_at[command]} and then definitely refused"
            )

    def finish(self, surviving: set[str]) -> None:
        """C8: every acknowledged command is in the state that all agree on. C11: the history is
        linearizable."""
        lost = sorted(set(self.acknowledged) - surviving)
        if lost:
            raise Violation(f"C8 acknowledged and lost: {lost[:5]}")
        if self.operations:
            verdict = check(self.operations, Register(), 200_000)
            if verdict.outcome is Outcome.INVALID:
                raise Violation(f"C11 linearizability: {verdict.reason}; " + "; ".join(verdict.excerpt))
