"""The fence: what a message may do to this replica. Pure: no clock, no random, no disk, no network.

pysyncobj 0.3.17 truncates matching entries, commits what it never verified, counts answers of old terms and
votes instead of voters. Every message therefore passes one of the functions below first, which say what of
it is left. The rules are those of Figure 2 of the Raft paper, plus pre-vote and leader stickiness (Ongaro's
thesis, 9.6). The numbers in the comments are the hazards of the evidence file that each rule repairs.

A message that contradicts a committed entry raises `LawBroken`: the process must end, because going on
would spread what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consensus.wire import APPEND, Message

Entry = tuple[bytes, int, int]
"""(command, index, term), as pysyncobj keeps it."""


class LawBroken(Exception):
    """An invariant of Raft does not hold. The process ends; its disk is to be looked at, not reused."""


class Log(Protocol):
    """The entries in memory: consecutive indexes; the first is the base, everything up to it is committed."""

    def __getitem__(self, position: int) -> Entry: ...
    def __len__(self) -> int: ...


def term_at(log: Log, index: int) -> int | None:
    """The term of the entry at `index`, or None when the log does not hold it."""
    position = index - log[0][1]
    return log[position][2] if 0 <= position < len(log) else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is left of an append. `message` goes to Raft; the answer is `matched` and `next_index`."""

    message: Message
    matched: bool
    # matched: everything before it equals the leader's log. Else: where the leader should try next.
    next_index: int


def judge_append(log: Log, commit: int, message: Message) -> Verdict:
    """What an append of the current or a newer term may do to `log`, committed up to `commit`. Raises
    LawBroken."""
    prev, prev_term, entries = message["prevLogIdx"], message["prevLogTerm"], message["entries"]
    base = log[0]
    if prev < base[1]:  # what lies before the base is committed, so it agrees
        entries = entries[base[1] - prev :]
        prev, prev_term = base[1], base[2]
    if term_at(log, prev) != prev_term:
        return Verdict(heartbeat(log, message["term"], commit), False, conflict_hint(log, commit, prev))
    fresh = unmatched(log, entries)
    verified = prev + len(entries)
    known = verified_commit(message["commit_index"], verified)
    if not fresh:  # hazard 2: nothing new truncates nothing
        return Verdict(heartbeat(log, message["term"], known), True, verified + 1)
    forbid_overwrite(log, commit, fresh[0])
    before = fresh[0][1] - 1
    left = {
        "type": APPEND,
        "term": message["term"],
        "commit_index": known,
        "entries": fresh,
        "prevLogIdx": before,
        "prevLogTerm": term_at(log, before),
    }
    return Verdict(left, True, verified + 1)


def unmatched(log: Log, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The entries from the first that the log lacks or contradicts (hazards 2, 6: a late append must not
    truncate)."""
    for position, entry in enumerate(entries):
        if term_at(log, entry[1]) != entry[2]:
            return entries[position:]
    return ()


def verified_commit(leader_commit: int, verified: int) -> int:
    """Only what this very message proved equal to the leader's log may count as committed (hazards 1, 18)."""
    return min(leader_commit, verified)


def forbid_overwrite(log: Log, commit: int, entry: Entry) -> None:
    """A committed entry is final (State Machine Safety)."""
    if entry[1] <= commit:
        mine = term_at(log, entry[1])
        raise LawBroken(
            f"the leader's entry {entry[1]} of term {entry[2]} contradicts the committed one of term {mine}"
        )


def conflict_hint(log: Log, commit: int, prev: int) -> int:
    """Where the leader should try next: the whole conflicting term is skipped at once, but nothing committed
    (hazards 15, 17). Raises LawBroken when the conflict lies within what is committed."""
    mine = term_at(log, prev)
    if mine is None:  # our log ends before it
        return log[-1][1] + 1
    if prev <= commit:
        raise LawBroken(f"the leader's entry {prev} contradicts the committed one of term {mine}")
    index = prev
    while index > commit + 1 and term_at(log, index - 1) == mine:
        index -= 1
    return index


def heartbeat(log: Log, term: int, commit: int) -> Message:
    """An append that changes no log: Raft learns term and leader from it, and `commit`."""
    _, last, last_term = log[-1]
    return {
        "type": APPEND,
        "term": term,
        "commit_index": min(commit, last),
        "entries": [],
        "prevLogIdx": last,
        "prevLogTerm": last_term,
    }


def snapshot_is_news(log: Log, commit: int, index: int, entry_term: int) -> bool:
    """A snapshot is taken only if it goes beyond what is committed here and the log does not hold its end
    already (hazard 13: an old snapshot would undo what was applied)."""
    return index > commit and term_at(log, index) != entry_term


def answers_this_term(message: Message, term: int) -> bool:
    """An answer counts in the term that asked (hazard 9: answers of old terms committed what was since
    truncated)."""
    return bool(message["term"] == term)


def up_to_date(log: Log, message: Message) -> bool:
    """The candidate's log is at least as complete as ours (Raft, 5.4.1)."""
    _, last, last_term = log[-1]
    return (message["last_log_term"], message["last_log_index"]) >= (last_term, last)


@dataclass(slots=True)
class Ballot:
    """Who voted for us in one term: voters are counted, not votes (hazard 10)."""

    term: int = 0
    voters: set[str] = field(default_factory=set)

    def count(self, term: int, voter: str) -> bool:
        """True when this is the voter's first vote in `term`."""
        if term > self.term:
            self.term, self.voters = term, set()
        if term < self.term or voter in self.voters:
            return False
        self.voters.add(voter)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """What decides whether we answer a candidate at all."""

    term: int
    votes: bool  # False: an empty disk under an old id has no vote yet
    leads: bool
    leader_alive: bool  # we heard from a leader lately, over a connection that still stands

    def may_prevote(self, message: Message, log: Log) -> bool:
        """Would we vote for it? Only those who lost the leader too say yes, so that a replica that comes
        back from a partition deposes nobody (thesis 9.6, hazard 27)."""
        if not self.votes or self.leads or self.leader_alive:
            return False
        return bool(message["term"] > self.term) and up_to_date(log, message)

    def may_vote(self, message: Message) -> bool:
        """May the request reach Raft, which would adopt its term? Not while a leader is alive, unless that
        leader asked for the election itself."""
        if not self.votes:
            return False
        return bool(message["transfer"]) or not (self.leads or self.leader_alive)
