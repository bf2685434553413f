"""One Raft replica without threads, sockets or clock: pysyncobj's core behind the fence.

pysyncobj keeps the log, the term and the vote, decides on votes and turns a candidate into a leader; what
it gets wrong is done here or in `fence` and `leading`: when to stand for election, which messages it may
see, what is answered and when an answer may leave. Whoever drives a node calls `receive`, `up`, `down` and
`tick` from one thread; the tick thread does (`syncobj.py`), and so does the simulation.

Law: nothing that depends on a change of log, term or vote leaves this node, nor counts here, before that
change is on disk. The journal numbers its changes; every message waits for the number it depends on.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node as Peer
from pysyncobj.transport import Transport

from consensus import fence
from consensus.applying import Batch, Confirmed, Failed, Item, Lead, Mark, Proposal, Restore
from consensus.config import ReplicaConfig
from consensus.fence import LawBroken, term_at
from consensus.guard import check_instance
from consensus.leading import Leading, Transfer
from consensus.replica import CommitUnknown, Leadership, NotLeader, Unavailable
from consensus.wire import ANSWER, PIECE_ANSWER, VOTE, VOTED, Message

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
REGULAR, NO_OP = b"\x00", b"\x01"  # the first byte of every command in the log


class Shell(Protocol):
    """What a node asks of whoever drives it. None of it may call back into the node before returning."""

    def now(self) -> float:
        """Monotonic seconds."""

    def send(self, peer: str, message: Message, bulk: bool) -> bool:
        """Queues a message; False when there is no session or no room."""

    def hand(self, item: Item) -> None:
        """Puts one item at the end of the apply queue."""

    def applied(self) -> int:
        """The last index the state machine has applied."""

    def store_snapshot(self, meta: Any) -> None:
        """Verifies a received snapshot and makes it durable, elsewhere; calls `snapshot_stored` when that
        is done."""


class _Door(Transport):  # type: ignore[misc]  # pysyncobj ships no types
    """pysyncobj's view of the network. Of what it says only votes leave; all else is said by us."""

    def __init__(self, say: Callable[[str, Message], None]) -> None:
        super().__init__(None, None, [])
        self._say = say

    def send(self, node: Peer, message: Message) -> bool:
        if message["type"] == VOTED:
            self._say(node.id, {"type": VOTED, "term": message["term"], "granted": True, "pre": False})
        return True

    def destroy(self) -> None:
        """Nothing is ours to close."""


class Node(SyncObj):  # type: ignore[misc]  # pysyncobj ships no types
    """`journal` is open and agrees with the snapshot; `handed` is that snapshot's index (1 when there is
    none)."""

    def __init__(
        self,
        config: ReplicaConfig,
        journal: Any,
        snapshots: Any,
        shell: Shell,
        rng: random.Random,
        *,
        handed: int,
        incarnation: int,
    ) -> None:
        self._peers = {p: Peer(p) for p in config.others}
        self.config, self.journal, self.snapshots, self.shell, self._rng = (
            config,
            journal,
            snapshots,
            shell,
            rng,
        )
        self.handed = handed
        self.durable = journal.durable_index  # as of the last tick, for other threads
        self.incarnation = incarnation
        self.leading: Leading | None = None
        self.connected: set[str] = set()
        self.proposals: deque[Proposal] = deque()  # other threads append here
        self.taken_bytes = 0  # of proposals that have left the queue, ever
        self._waiting: dict[int, tuple[int, Any, int]] = {}  # index -> (term, waiter, bytes)
        self._open_bytes = 0  # of them together
        self._held: deque[tuple[int, str, Message, bool]] = deque()  # messages that wait for the disk
        self._hard = 0  # the journal's number of the last change of term, vote or right to vote
        self._owed: Message | None = None  # the newest positive answer that is not yet wholly true on disk
        self._owed_to = ""
        self._answered_at = float("-inf")
        self._ballot = fence.Ballot()
        self._pre: set[str] | None = None
        self._elections_lost = 0
        self._heard_at = float("-inf")  # when a leader of our term was last heard
        self._leader_cut = False  # the connection to it broke since
        self._told = Leadership(term=-1, leader=None, mine=False)
        self._storing: Any = None  # a received snapshot on its way to the disk
        self._marked = False  # a snapshot of ours is being taken
        self._second = 0.0
        # Last, because pysyncobj looks at every attribute that it finds.
        conf = SyncObjConf(autoTick=False, dynamicMembershipChange=False, commandsWaitLeader=False)
        super().__init__(Peer(config.id), list(self._peers.values()), conf, transport=_Door(self._say))
        check_instance(self)
        self._adopt(journal)
        self._deadline = shell.now() + self._patience()

    def _adopt(self, journal: Any) -> None:
        """Puts our journal and what it remembers in the place of pysyncobj's (hazards 3 to 8)."""
        if len(journal) == 0:
            journal.add(NO_OP, 1, 0)
        self._SyncObj__raftLog = journal
        self._SyncObj__raftCurrentTerm = max(journal.getCurrentTerm(), journal[-1][2])
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId()
        self._SyncObj__raftCommitIndex = max(self.handed, min(journal.getRaftCommitIndex(), journal[-1][1]))

    # -- what it is

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit(self) -> int:
        """The last index known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def last(self) -> int:
        """The last index in the log."""
        return int(self.journal[-1][1])

    @property
    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return int(self._SyncObj__raftState)

    @property
    def leader(self) -> str | None:
        """Who leads the current term, if that is known."""
        node = self._SyncObj__raftLeader
        return None if node is None else str(node.id)

    # -- messages in

    def up(self, peer: str) -> None:
        """A session with `peer` stands."""
        self.connected.add(peer)
        if self.leading:
            self.leading.up(peer)

    def down(self, peer: str) -> None:
        """The session with `peer` broke."""
        self.connected.discard(peer)
        if self.leading:
            self.leading.down(peer)

    def reset(self, peer: str) -> None:
        """A connection with `peer` broke: it may have died. If it led, we stand for election soon, each
        survivor a little after the one before it, and ask first."""
        if peer == self.leader:
            self._leader_cut = True
            timing = self.config.timing
            rank = [p for p in sorted(self.config.peers) if p != peer].index(self.config.id)
            soon = self.shell.now() + timing.reset_step_s * (rank + self._rng.random() / 4)
            self._deadline = min(self._deadline, soon)

    def receive(self, peer: str, message: Message) -> None:
        """Takes one message of `peer`. Raises LawBroken."""
        match message["type"]:
            case "append_entries":
                self._on_append(peer, message)
            case "next_node_idx":
                self._on_answer(peer, message)
            case "request_vote":
                self._on_vote(peer, message)
            case "response_vote":
                self._on_voted(peer, message)
            case "snapshot_piece":
                self._on_piece(peer, message)
            case "snapshot_answer":
                self._on_piece_answer(peer, message)
            case "timeout_now":
                if message["term"] == self.term and peer == self.leader and self.journal.voter:
                    self._campaign(transfer=True)

    def _deliver(self, peer: str, message: Message) -> None:
        self._SyncObj__onMessageReceived(self._peers[peer], message)

    def _on_append(self, peer: str, message: Message) -> None:
        if not self._follow(peer, message):
            return
        verdict = fence.judge_append(self.journal, self.commit, message)
        self._deliver(peer, verdict.message)
        self._heard_from_leader()
        self._answer(peer, message, verdict.matched, verdict.next_index)
        self._claim_vote(message["promote"])

    def _follow(self, peer: str, message: Message) -> bool:
        """Is this the leader's word? An older term is answered with ours, so that its sender steps down
        (hazard 25)."""
        if message["term"] < self.term:
            self._send(peer, self._answer_message(False, 0, 0, 0))
            return False
        if message["term"] == self.term and self.leader not in (None, peer):
            raise LawBroken(f"{peer} and {self.leader} both lead term {self.term}")
        return True

    def _heard_from_leader(self) -> None:
        now = self.shell.now()
        self._heard_at, self._deadline = now, now + self._patience()
        self._leader_cut, self._pre, self._elections_lost = False, None, 0

    def _claim_vote(self, promote: tuple[int, int]) -> None:
        """An empty disk that came back votes again once it has an entry, committed by a majority without it
        in this term, that was proposed after it came back: whoever its forgotten promises helped, that
        majority outvotes."""
        index, incarnation = promote
        if self.journal.voter or not index or incarnation != self.incarnation or self.commit < index:
            return
        if term_at(self.journal, index) == self.term:
            self.journal.set_voter(True)
            self._hard = self.journal.written

    def _on_piece(self, peer: str, message: Message) -> None:
        if not self._follow(peer, message):
            return
        self._deliver(peer, fence.heartbeat(self.journal, message["term"], self.commit))
        self._heard_from_leader()
        index, entry_term, _, _ = message["snapshot"]
        if not fence.snapshot_is_news(self.journal, self.commit, index, entry_term):
            known = index if term_at(self.journal, index) == entry_term else self.commit
            self._answer(peer, message, True, known + 1)
            return
        held = self._take_piece(message)
        answer = {
            "type": PIECE_ANSWER,
            "term": self.term,
            "snapshot": (index, entry_term),
            "held": held,
            "round": message["round"],
        }
        self._send(peer, answer)

    def _take_piece(self, message: Message) -> int:
        """Keeps a piece; returns how much is held. While one snapshot is being stored no other is begun."""
        snapshot = message["snapshot"]
        if self._storing is not None:
            return int(snapshot[2]) if snapshot == self._storing else 0
        held = int(self.snapshots.put(snapshot, message["offset"], message["data"]))
        if held == snapshot[2]:
            self._storing = snapshot
            self.shell.store_snapshot(snapshot)
        return held

    def snapshot_stored(self, snapshot: tuple[int, int, int, bytes]) -> None:
        """A received snapshot is verified and durable: it takes the place of the log, unless that has
        caught up."""
        self._storing = None
        index, entry_term, _, _ = snapshot
        if not fence.snapshot_is_news(self.journal, self.commit, index, entry_term):
            return
        self.journal.clear()
        self.journal.add(NO_OP, index, entry_term)
        self._set_commit(index)
        self.handed = index
        self.shell.hand(Restore(index, entry_term))
        if self.leader is not None:
            self._owed, self._owed_to = self._answer_message(True, index + 1, 0, 0), self.leader

    def snapshot_refused(self) -> None:
        """A received snapshot was damaged: the leader sends it again."""
        self._storing = None

    def _on_answer(self, peer: str, message: Message) -> None:
        if self._outranked(message) or not self.leading or not fence.answers_this_term(message, self.term):
            return
        if self.leading.answered(peer, message):
            self.journal.add(NO_OP, self.last + 1, self.term)

    def _on_piece_answer(self, peer: str, message: Message) -> None:
        if self._outranked(message) or not self.leading or not fence.answers_this_term(message, self.term):
            return
        self.leading.piece_answered(peer, message, self.shell.now())

    def _outranked(self, message: Message) -> bool:
        """A higher term in any answer makes us its follower (Figure 2)."""
        if message["term"] <= self.term:
            return False
        self._SyncObj__setCurrentTerm(message["term"], None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        return True

    # -- elections

    def _voter(self) -> fence.Voter:
        timing = self.config.timing
        fresh = self.shell.now() - self._heard_at < timing.election_min_s
        alive = self.leader is not None and fresh and not self._leader_cut
        leads = self.state == LEADER
        return fence.Voter(term=self.term, votes=self.journal.voter, leads=leads, leader_alive=alive)

    def _on_vote(self, peer: str, message: Message) -> None:
        voter = self._voter()
        if message["pre"]:
            granted = voter.may_prevote(message, self.journal)
            term = message["term"] if granted else self.term
            self._send(peer, {"type": VOTED, "term": term, "granted": granted, "pre": True})
        elif message["term"] < self.term:
            self._send(peer, {"type": VOTED, "term": self.term, "granted": False, "pre": False})
        elif voter.may_vote(message):
            self._deliver(peer, message)

    def _say(self, peer: str, message: Message) -> None:
        """pysyncobj votes; the vote leaves once it is on disk."""
        self._deadline = self.shell.now() + self._patience()
        self._send(peer, message)

    def _on_voted(self, peer: str, message: Message) -> None:
        if not message["granted"]:
            self._outranked(message)
        elif message["pre"]:
            if self._pre is not None and message["term"] == self.term + 1 and self.state != LEADER:
                self._pre.add(peer)
                if len(self._pre) >= self.config.majority:
                    self._campaign(transfer=False)
        elif self._ballot.count(message["term"], peer):
            self._deliver(peer, message)

    def _patience(self) -> float:
        timing = self.config.timing
        factor = 2 ** min(
            max(self._elections_lost - 2, 0), 3
        )  # votes that come late need a candidate that waits
        return float(self._rng.uniform(timing.election_min_s, timing.election_max_s) * factor)

    def _stand(self, now: float) -> None:
        """Asks whether an election would be won, when no leader has been heard for long enough."""
        if self.state == LEADER or now < self._deadline or not self.journal.voter:
            return
        if self.state == CANDIDATE and self._held:
            return  # our own vote is not on disk yet: nobody has been asked
        self._deadline = now + self._patience()
        self._pre = {self.config.id}
        if self.config.majority == 1:
            self._campaign(transfer=False)
            return
        self._ask_all(self.term + 1, pre=True, transfer=False)

    def _campaign(self, *, transfer: bool) -> None:
        """Stands for election in the next term (Raft 5.2)."""
        self._pre = None
        self._elections_lost += 1
        self._deadline = self.shell.now() + self._patience()
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term + 1, self.config.id)
        self._SyncObj__votesCount = 1
        self._ballot.count(self.term, self.config.id)
        self._ask_all(self.term, pre=False, transfer=transfer)
        if self.config.majority == 1:
            self._SyncObj__onBecomeLeader()

    def _ask_all(self, term: int, *, pre: bool, transfer: bool) -> None:
        _, last, last_term = self.journal[-1]
        for peer in self.config.others:
            request = {"type": VOTE, "term": term, "last_log_index": last, "last_log_term": last_term}
            self._send(peer, request | {"pre": pre, "transfer": transfer})

    # The four below override private methods of pysyncobj; `guard` checks that they are still there.

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802 - pysyncobj's name
        self.leading = Leading(
            self.config,
            self.term,
            self.journal,
            self.snapshots,
            send=self._send,
            now=self.shell.now(),
        )
        self._elections_lost = 0
        super()._SyncObj__onBecomeLeader()  # state, leader and the no-op of the term

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 - pysyncobj's name
        if self.leading:
            self.leading.feed(self.shell.now(), self.commit, self.connected)

    def _SyncObj__setCurrentTerm(self, term: int, vote: str | None) -> None:  # noqa: N802 - pysyncobj's name
        super()._SyncObj__setCurrentTerm(term, vote)
        self._hard = self.journal.written

    def _SyncObj__setState(self, state: int) -> None:  # noqa: N802 - pysyncobj's name
        led = self.state == LEADER
        super()._SyncObj__setState(state)
        if led and state != LEADER:
            self._leave_office()

    def _leave_office(self) -> None:
        assert self.leading is not None
        leading, self.leading = self.leading, None
        unknown = [waiter for _, waiter, _ in self._waiting.values()]
        self._waiting.clear()
        self._open_bytes = 0
        self.shell.hand(Failed(unknown, CommitUnknown("leadership was lost before the entry was committed")))
        self.shell.hand(Failed([r.waiter for r in leading.reads], NotLeader(None)))
        transfer = leading.transfer
        if transfer is not None:
            gone = Unavailable("leadership was lost before it was handed over")
            self.shell.hand(
                Confirmed([transfer.waiter], transfer.to)
                if transfer.told
                else Failed([transfer.waiter], gone)
            )
        self._deadline = self.shell.now() + self._patience()

    # -- messages out

    def _send(self, peer: str, message: Message, bulk: bool = False) -> bool:
        """Sends at once if the term and the vote it rests on are on disk, else as soon as they are."""
        if self._held or self.journal.durable < self._hard:
            self._held.append((self._hard, peer, message, bulk))
            return True
        return self.shell.send(peer, message, bulk)

    def _release(self) -> None:
        while self._held and self._held[0][0] <= self.journal.durable:
            _, peer, message, bulk = self._held.popleft()
            self.shell.send(peer, message, bulk)
        if self._owed is not None and self.journal.durable_index + 1 >= self._owed["next_node_idx"]:
            owed, self._owed = self._owed, None
            if owed["term"] == self.term:
                self._send(self._owed_to, owed)

    def _answer(self, peer: str, message: Message, matched: bool, next_index: int) -> None:
        """Answers the leader: what is on disk now if it should hear from us now, and the rest when it is on
        disk."""
        answer = self._answer_message(matched, next_index, message.get("prevLogIdx", 0), message["round"])
        durable = self.journal.durable_index
        if not matched or next_index - 1 <= durable:
            self._owed = None if matched else self._owed
            self._send(peer, answer)
            self._answered_at = self.shell.now()
            return
        self._owed, self._owed_to = answer, peer
        now = self.shell.now()
        silent = now - self._answered_at >= self.config.timing.heartbeat_s / 2
        if silent or message.get("urgent") or not message.get("entries"):
            self._answered_at = now
            self._send(peer, answer | {"next_node_idx": durable + 1})

    def _answer_message(self, matched: bool, next_index: int, rejected: int, round_: int) -> Message:
        return {
            "type": ANSWER,
            "term": self.term,
            "success": matched,
            "reset": not matched,
            "next_node_idx": next_index,
            "rejected": rejected,
            "round": round_,
            "non_voter": not self.journal.voter,
            "incarnation": self.incarnation,
        }

    # -- the tick

    def tick(self) -> None:
        """Everything that time, the disk or a caller brought. Never blocks."""
        now = self.shell.now()
        if self.journal.failed is not None:
            raise self.journal.failed
        self.durable = self.journal.durable_index
        self._release()
        self._stand(now)
        if self.leading:
            self._govern(now)
        else:
            self._refuse_proposals()
        self._hand_over()
        self._announce()
        self._compact(now)
        if now >= self._second:
            self._second = now + 1.0
            self.journal.onOneSecondTimer()
        self.journal.flush()

    def next_tick(self) -> float:
        """When `tick` has something to do at the latest, if nothing happens before."""
        if self.leading:
            return self.leading.next_beat()
        return self._deadline if self.journal.voter else self.shell.now() + 0.1

    def _govern(self, now: float) -> None:
        assert self.leading is not None
        if now - self.leading.quorum_at(now) > self.config.timing.lease_s:
            self._SyncObj__raftLeader = None  # check-quorum: a majority may have elected another
            self._SyncObj__setState(FOLLOWER)
            return
        self._set_commit(self.leading.agreed())
        self._take_proposals()
        self._watch_transfer(now)
        self.leading.feed(now, self.commit, self.connected)

    def _set_commit(self, index: int) -> None:
        if index > self.commit:
            self._SyncObj__raftCommitIndex = index
            self.journal.setRaftCommitIndex(index)

    def _take_proposals(self) -> None:
        assert self.leading is not None
        if self.leading.transfer is not None:
            return
        limits, index, size = self.config.limits, self.last, 0
        while self.proposals and size < limits.append_bytes and self._open_bytes < limits.uncommitted_bytes:
            if index - self.commit >= limits.uncommitted_entries:
                return
            proposal = self.proposals.popleft()
            index += 1
            length = len(proposal.command)
            self.journal.add(REGULAR + proposal.command, index, self.term)
            self._waiting[index] = (self.term, proposal.waiter, length)
            self.taken_bytes += length
            self._open_bytes += length
            size += length

    def _refuse_proposals(self) -> None:
        refused = []
        while self.proposals:
            proposal = self.proposals.popleft()
            self.taken_bytes += len(proposal.command)
            refused.append(proposal.waiter)
        if refused:
            self.shell.hand(Failed(refused, NotLeader(self.leader)))

    def _hand_over(self) -> None:
        """Committed entries go to the state machine, no more than the agreed lag ahead of it."""
        stop = min(self.commit, self.shell.applied() + self.config.limits.apply_lag_entries)
        if self.handed < stop:
            start = self.handed + 1 - self.journal[0][1]
            entries = self.journal[start : start + stop - self.handed]
            self.handed = stop
            waiters = {}
            if self._waiting:
                for _, index, term in entries:
                    expected = self._waiting.pop(index, None)
                    if expected is not None:
                        assert expected[0] == term, "a leader's own entry was replaced while it led"
                        waiters[index] = expected[1]
                        self._open_bytes -= expected[2]
            self.shell.hand(Batch(entries, waiters))
        if self.leading:
            done = self.leading.confirmed(self.handed)
            if done:
                self.shell.hand(Confirmed(done, None))

    def _announce(self) -> None:
        told = Leadership(term=self.term, leader=self.leader, mine=self.state == LEADER)
        if told != self._told:
            self._told = told
            self.shell.hand(Lead(told))

    def abandon(self) -> list[Failed]:
        """What those who still wait are told when this replica is stopped."""
        taken = [waiter for _, waiter, _ in self._waiting.values()]
        reads = [r.waiter for r in self.leading.reads] if self.leading else []
        queued = [p.waiter for p in self.proposals]
        self._waiting.clear()
        self.proposals.clear()
        return [
            Failed(taken, CommitUnknown("this replica was stopped before the entry was committed")),
            Failed([*queued, *reads], Unavailable("this replica was stopped")),
        ]

    # -- for callers, on the tick thread

    def read(self, waiter: Any) -> None:
        """Registers a linearizable read."""
        if self.leading:
            self.leading.read(self.commit, waiter)
        else:
            self.shell.hand(Failed([waiter], NotLeader(self.leader)))

    def transfer(self, to: str | None, timeout_s: float, waiter: Any) -> None:
        """Starts to hand leadership over."""
        if not self.leading:
            self.shell.hand(Failed([waiter], NotLeader(self.leader)))
            return
        to = to or self.leading.best_successor(self.connected)
        if to not in self.connected or self.leading.transfer or not self.leading.members[to].voter:
            self.shell.hand(Failed([waiter], Unavailable(f"{to or 'no other member'} cannot take over now")))
            return
        self.leading.transfer = Transfer(to, self.shell.now() + timeout_s, waiter)

    def _watch_transfer(self, now: float) -> None:
        assert self.leading is not None
        transfer = self.leading.transfer
        if transfer is not None and now > transfer.until:
            self.leading.transfer = None
            self.shell.hand(
                Failed([transfer.waiter], Unavailable(f"{transfer.to} did not take over in time"))
            )

    # -- snapshots

    def snapshot(self, waiter: Any = None) -> None:
        """Takes a snapshot as soon as what is committed has been applied."""
        self._marked = True
        self.shell.hand(Mark(waiter))

    def _compact(self, now: float) -> None:
        limits, journal = self.config.limits, self.journal
        if self._marked or self._storing is not None:
            return
        latest = self.snapshots.latest()
        fresh = self.handed - max(latest.index if latest else 0, journal[0][1])
        if fresh < limits.compact_entries and (
            journal.bytes < limits.compact_bytes or fresh < len(journal) // 2
        ):
            return
        if self.leading and self.leading.feeding_snapshot(now) and fresh < 4 * limits.compact_entries:
            return
        self.snapshot()

    def snapshot_taken(self, index: int) -> None:
        """A snapshot of ours that ends at `index` is durable: the log before it may go, but for a tail."""
        self._marked = False
        keep = min(self.config.limits.keep_entries, len(self.journal) // 4)
        base = index - keep
        first = self.journal[0][1]
        if first < base <= self.last:
            self.journal.deleteEntriesTo(base - first)
