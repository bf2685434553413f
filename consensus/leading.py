"""A leader's term in office: feeds the others, counts what they have on disk, confirms reads, hands over.

Lives from the election to the loss of leadership and knows one term only. Time is given to it; what it
sends goes through `send`. Replaces pysyncobj's sending loop and its counting (hazards 9, 15, 16, 17, 25,
26, 34, 35).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from consensus.config import ReplicaConfig
from consensus.fence import Entry, LawBroken, term_at
from consensus.progress import Member, Mode, agreed, confirmed_round, last_quorum
from consensus.wire import APPEND, PIECE, TIMEOUT_NOW, Message

_ENTRY_OVERHEAD = 16  # bytes of an entry in a frame besides its command
_ROUNDS_KEPT = 10_000  # an answer to an older one still counts, but says nothing about time

Send = Callable[[str, Message, bool], bool]
"""(peer, message, bulk) -> False when it could not be queued."""


class Snapshots(Protocol):
    """Where the newest snapshot can be read piece by piece."""

    def latest(self) -> Any:
        """The newest, with `index`, `term`, `size` and `checksum`; None when there is none."""

    def piece(self, index: int, offset: int, length: int) -> bytes | None:
        """A piece of the one that ends at `index`; None when that is gone."""


class EntryLog(Protocol):
    """What a leader reads of the journal."""

    @property
    def durable_index(self) -> int:
        """The last index that is on disk."""

    def __getitem__(self, position: Any) -> Any: ...
    def __len__(self) -> int: ...


@dataclass(slots=True)
class Read:
    """One caller that waits until a majority has confirmed our leadership."""

    round: int
    index: int
    waiter: Any


@dataclass(slots=True)
class Transfer:
    """A hand-over under way: no new entries until `to` has them all and stands for election."""

    to: str
    until: float
    waiter: Any
    told: bool = False


@dataclass(frozen=True, slots=True)
class _Turn:
    """What all messages of one turn have in common."""

    now: float
    commit: int
    beat: bool  # a heartbeat is due
    urgent: bool  # a read waits for this round


class Leading:
    """`log` ends with the no-op of this term when `begin` was called."""

    def __init__(
        self, config: ReplicaConfig, term: int, log: EntryLog, snapshots: Snapshots, *, send: Send, now: float
    ) -> None:
        self.term = term
        self.round = 0
        self.reads: list[Read] = []
        self.transfer: Transfer | None = None
        self._config = config
        self._log = log
        self._snapshots = snapshots
        self._send = send
        self._next_beat = now
        self._began: dict[int, float] = {}  # when each round began
        self.noop = log[-1][1] + 1
        self.members = {p: Member(next=self.noop, mode=Mode.STREAM, heard=now) for p in config.others}
        self._listed = list(self.members.values())

    # -- what the others have

    def agreed(self) -> int:
        """The highest index on the disks of a majority, if it is of this term (Raft 5.4.2), else 0."""
        index = agreed(self._log.durable_index, self._listed, self._config.majority)
        return index if term_at(self._log, index) == self.term else 0

    def quorum_at(self, now: float) -> float:
        """Until when, by our clock, nobody else can have been elected: the start of the newest confirmed
        round."""
        return last_quorum(now, self._listed, self._config.majority)

    def answered(self, peer: str, message: Message) -> bool:
        """Takes an answer of this term to an append. True when it asks for a no-op: a member came back
        empty, and may vote again only after it has applied an entry that was proposed after that."""
        member = self.members[peer]
        last = self._log[-1][1]
        if message["incarnation"] < member.incarnation:
            return False  # from a life that has ended
        reborn = message["non_voter"] and (member.voter or message["incarnation"] > member.incarnation)
        if reborn:
            member.reborn(message["incarnation"], last)
        elif not message["non_voter"]:
            member.voter, member.incarnation, member.promote = True, message["incarnation"], 0
        self._heard(member, message["round"])
        if message["success"] and message["next_node_idx"] > last + 1:
            raise LawBroken(
                f"{peer} acknowledged entry {message['next_node_idx'] - 1}; our log ends at {last}"
            )
        member.answered(message, last)
        if reborn:
            member.promote = last + 1
        return bool(reborn)

    def piece_answered(self, peer: str, message: Message, now: float) -> None:
        """Takes an answer of this term to a snapshot piece."""
        member = self.members[peer]
        self._heard(member, message["round"])
        member.piece_answered(message["snapshot"], message["held"], now)

    def _heard(self, member: Member, round_: int) -> None:
        if member.round < round_ <= self.round:
            member.round, member.heard = round_, self._began.get(round_, member.heard)

    def up(self, peer: str) -> None:
        """A new session to `peer`: it may be another life of it."""
        self.members[peer].disconnected()
        self.members[peer].incarnation = 0

    def down(self, peer: str) -> None:
        """What was under way to `peer` is lost."""
        self.members[peer].disconnected()

    # -- reads

    def read(self, commit: int, waiter: Any) -> None:
        """Registers a linearizable read: everything committed by now, once a majority answers a round that
        begins after now (thesis 6.4). Nothing counts as known before the no-op of this term is
        committed."""
        self.reads.append(Read(self.round + 1, max(commit, self.noop), waiter))

    def confirmed(self, handed: int) -> list[Any]:
        """The waiters whose round a majority has answered and whose index has been handed over."""
        if not self.reads:
            return []
        known = confirmed_round(self.round, self._listed, self._config.majority)
        done = [r.waiter for r in self.reads if r.round <= known and r.index <= handed]
        if done:
            self.reads = [r for r in self.reads if r.round > known or r.index > handed]
        return done

    # -- what is sent

    def feed(self, now: float, commit: int, connected: set[str]) -> None:
        """Sends every member what it lacks and room is for, and to all a heartbeat when it is time or a
        read waits."""
        urgent = bool(self.reads) and self.reads[-1].round > self.round
        beat = urgent or now >= self._next_beat
        if beat:
            self._begin_round(now)
        turn = _Turn(now, commit, beat, urgent)
        for peer, member in self.members.items():
            if peer in connected:
                self._feed_one(peer, member, turn)
        self._hand_over(now)

    def _begin_round(self, now: float) -> None:
        self.round += 1
        self._next_beat = now + self._config.timing.heartbeat_s
        self._began[self.round] = now
        self._began.pop(self.round - _ROUNDS_KEPT, None)

    def next_beat(self) -> float:
        """When `feed` has something to do at the latest."""
        return self._next_beat

    def _feed_one(self, peer: str, member: Member, turn: _Turn) -> None:
        if member.mode is not Mode.SNAPSHOT and member.next <= self._log[0][1]:
            self._begin_snapshot(member)
        match member.mode:
            case Mode.SNAPSHOT:
                self._feed_pieces(peer, member, turn.now)
                if turn.beat:
                    self._append(peer, member, self._log[0][1], [], turn)
            case Mode.PROBE:
                if turn.beat or member.asked is None:
                    member.asked = turn.now
                    self._append(peer, member, member.next - 1, [], turn)
            case Mode.STREAM:
                sent = self._stream(peer, member, turn)
                if turn.beat and not sent:
                    self._append(peer, member, member.next - 1, [], turn)

    def _stream(self, peer: str, member: Member, turn: _Turn) -> bool:
        limits, last, sent = self._config.limits, self._log[-1][1], False
        while member.next <= last and member.window_bytes < limits.window_bytes:
            entries, size = self._take(member.next, limits.append_bytes)
            if not self._append(peer, member, member.next - 1, entries, turn):
                return sent
            member.sending(entries[-1][1], size)
            sent = True
        return sent

    def _take(self, index: int, limit: int) -> tuple[list[Entry], int]:
        """Entries from `index` on, of no more than `limit` bytes together, at least one."""
        start = index - self._log[0][1]
        size, stop = 0, start
        while stop < len(self._log) and (stop == start or size + len(self._log[stop][0]) <= limit):
            size += len(self._log[stop][0]) + _ENTRY_OVERHEAD
            stop += 1
        return self._log[start:stop], size

    def _append(self, peer: str, member: Member, prev: int, entries: list[Entry], turn: _Turn) -> bool:
        message = {
            "type": APPEND,
            "term": self.term,
            "prevLogIdx": prev,
            "prevLogTerm": term_at(self._log, prev),
            "commit_index": turn.commit,
            "entries": entries,
            "round": self.round,
            "urgent": turn.urgent,
            "promote": (member.promote, member.incarnation if member.promote else 0),
        }
        return self._send(peer, message, False)

    def _begin_snapshot(self, member: Member) -> None:
        meta = self._snapshots.latest()
        assert meta is not None, "the log was trimmed and there is no snapshot"
        assert meta.index >= self._log[0][1], (
            f"the log begins at {self._log[0][1]}, beyond its snapshot {meta and meta.index}: {member}"
        )
        member.send_snapshot((meta.index, meta.term, meta.size, meta.checksum))

    def _feed_pieces(self, peer: str, member: Member, now: float) -> None:
        timing, limits = self._config.timing, self._config.limits
        assert member.snapshot is not None
        index, _, size, _ = member.snapshot
        if now - member.sent_at > timing.retry_s:
            # No answer: from the first byte it lacks. If it lacks none, it was too busy to say that it is done.
            again = member.held if member.held < size else size - min(size, limits.piece_bytes)
            member.sent, member.sent_at = again, now
        while member.sent < size and member.sent - member.held < limits.window_pieces * limits.piece_bytes:
            data = self._snapshots.piece(index, member.sent, limits.piece_bytes)
            if data is None:  # replaced by a newer one meanwhile
                self._begin_snapshot(member)
                return
            piece = {
                "type": PIECE,
                "term": self.term,
                "snapshot": member.snapshot,
                "offset": member.sent,
                "data": data,
                "round": self.round,
            }
            if not self._send(peer, piece, True):
                return
            member.sent += len(data)

    def feeding_snapshot(self, now: float) -> bool:
        """A snapshot is on its way to a member that answers: a newer one now would make it start again."""
        patience = 20 * self._config.timing.retry_s
        return any(m.mode is Mode.SNAPSHOT and now - m.heard < patience for m in self._listed)

    # -- handing over

    def best_successor(self, connected: set[str]) -> str | None:
        """The connected voter with the most entries."""
        fit = [(m.match, p) for p, m in self.members.items() if m.voter and p in connected]
        return max(fit)[1] if fit else None

    def _hand_over(self, now: float) -> None:
        transfer = self.transfer
        if transfer is None or transfer.told:
            return
        if self.members[transfer.to].match == self._log[-1][1]:
            transfer.told = self._send(transfer.to, {"type": TIMEOUT_NOW, "term": self.term}, False)
            # If it is not elected by then it never will be, and proposals wait meanwhile.
            transfer.until = min(transfer.until, now + self._config.timing.election_max_s)
