"""One Raft replica without threads, sockets or clock: pysyncobj's core behind the fence.

`core` keeps log, term and vote; `fence` says what of a message it may see; `outbox` when an answer may leave;
`electing` when to stand; `following` and `leading` are the two roles. A node joins them. Whoever drives it calls
`receive`, `up`, `down`, `reset` and `tick` from one thread; the tick thread does (`engine.py`), and so does the
simulation.

Law: nothing that depends on a change of log, term or vote leaves this node, nor counts here, before that change is on
disk.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

from consensus import fence
from consensus.applying import Batch, Confirmed, Failed, Item, Lead, Mark, Restore
from consensus.compacting import Compacting
from consensus.config import ReplicaConfig
from consensus.core import CANDIDATE, LEADER, NO_OP, Core
from consensus.electing import Electing
from consensus.following import Following
from consensus.leading import Leading, Transfer
from consensus.outbox import Outbox
from consensus.proposing import Proposals
from consensus.replica import CommitUnknown, Leadership, NotLeader, Unavailable
from consensus.wire import VOTE, VOTED, Message


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
        """Verifies a received snapshot and makes it durable, elsewhere; calls `snapshot_stored` when that is done."""


class Node:
    """`journal` is open and agrees with the snapshot; `handed` is that snapshot's index (1 when there is none)."""

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
        self.config, self.journal, self.snapshots, self.shell = config, journal, snapshots, shell
        self.handed = handed
        self.leading: Leading | None = None
        self.connected: set[str] = set()
        self._strangers = set(config.others)
        self.proposals = Proposals(config.limits)
        self._told = Leadership(term=-1, leader=None, mine=False)
        self._compacting = Compacting(config.limits, journal, snapshots)
        self._second = 0.0
        self._outbox = Outbox(journal, shell.send, config.timing.heartbeat_s / 2)
        self._electing = Electing(config, rng, shell.now())
        self.core = Core(config.id, config.others, journal, handed, self)
        self._following = Following(
            self.core,
            journal,
            outbox=self._outbox,
            electing=self._electing,
            compacting=self._compacting,
            incarnation=incarnation,
            strangers=self._strangers,
        )
        self.durable = journal.durable_index  # as of the last tick, for other threads

    # -- what it is

    @property
    def term(self) -> int:
        """The current term."""
        return self.core.term

    @property
    def commit(self) -> int:
        """The last index known to be committed."""
        return self.core.commit

    @property
    def last(self) -> int:
        """The last index in the log."""
        return int(self.journal[-1][1])

    @property
    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return self.core.state

    @property
    def leader(self) -> str | None:
        """Who leads the current term, if that is known."""
        return self.core.leader

    # -- sessions

    def up(self, peer: str) -> None:
        """A session with `peer` stands."""
        self.connected.add(peer)
        self._strangers.discard(peer)
        if self.leading:
            self.leading.up(peer)

    def down(self, peer: str) -> None:
        """The session with `peer` broke."""
        self.connected.discard(peer)
        if self.leading:
            self.leading.down(peer)

    def reset(self, peer: str) -> None:
        """A connection with `peer` broke: it may have died. If it led, an election is due soon."""
        if peer == self.leader:
            self._electing.cut(peer, self.shell.now())

    # -- messages in

    def receive(self, peer: str, message: Message) -> None:
        """Takes one message of `peer`. Raises LawBroken."""
        match message["type"]:
            case "append_entries":
                self._following.on_append(peer, message, self.shell.now())
            case "next_node_idx":
                self._on_answer(peer, message)
            case "request_vote":
                self._on_vote(peer, message)
            case "response_vote":
                self._on_voted(peer, message)
            case "snapshot_piece":
                if self._following.on_piece(peer, message, self.shell.now()):
                    self.shell.store_snapshot(message["snapshot"])
            case "snapshot_answer":
                self._on_piece_answer(peer, message)
            case "timeout_now":
                if message["term"] == self.term and peer == self.leader and self.journal.voter:
                    self._campaign(transfer=True)

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
        """A higher term in any answer makes us a follower in it (Figure 2)."""
        if message["term"] <= self.term:
            return False
        self.core.step_down(message["term"])
        return True

    # -- elections

    def _on_vote(self, peer: str, message: Message) -> None:
        voter = self._electing.voter(
            self.term,
            votes=self.journal.voter,
            leads=self.state == LEADER,
            knows_leader=self.leader is not None,
            now=self.shell.now(),
        )
        if message["pre"]:
            granted = voter.may_prevote(message, self.journal)
            term = message["term"] if granted else self.term
            self._outbox.send(peer, {"type": VOTED, "term": term, "granted": granted, "pre": True})
        elif message["term"] < self.term:
            self._outbox.send(peer, {"type": VOTED, "term": self.term, "granted": False, "pre": False})
        elif voter.may_vote(message):
            self.core.deliver(peer, message)

    def _on_voted(self, peer: str, message: Message) -> None:
        if not message["granted"]:
            self._outranked(message)
        elif message["pre"]:
            current = message["term"] == self.term + 1 and self.state != LEADER
            if current and self._electing.would_vote(peer):
                self._campaign(transfer=False)
        elif message["term"] == self.term and self._electing.ballot.count(message["term"], peer):
            self.core.deliver(peer, message)

    def _stand(self, now: float) -> None:
        """Asks whether an election would be won, when no leader has been heard for long enough."""
        if self.state == LEADER or now < self._electing.deadline or not self.journal.voter:
            return
        if self.state == CANDIDATE and self._outbox.holds:
            return  # our own vote is not on disk yet: nobody has been asked
        if self._electing.ask(now):
            self._campaign(transfer=False)
        else:
            self._ask_all(self.term + 1, pre=True, transfer=False)

    def _campaign(self, *, transfer: bool) -> None:
        """Stands for election in the next term."""
        self.core.stand()
        self._electing.stand(self.term, self.shell.now())
        self._ask_all(self.term, pre=False, transfer=transfer)
        if self.config.majority == 1:
            self.core.win()

    def _ask_all(self, term: int, *, pre: bool, transfer: bool) -> None:
        _, last, last_term = self.journal[-1]
        for peer in self.config.others:
            request = {"type": VOTE, "term": term, "last_log_index": last, "last_log_term": last_term}
            self._outbox.send(peer, request | {"pre": pre, "transfer": transfer})

    # -- what the core does (core.Listener)

    def on_voted(self, peer: str, term: int) -> None:
        """The vote leaves once it is on disk."""
        self._electing.postpone(self.shell.now())
        self._outbox.send(peer, {"type": VOTED, "term": term, "granted": True, "pre": False})

    def on_term(self) -> None:
        """Whatever is said from here on rests on the new term or vote."""
        self._outbox.rest_on_what_was_written()

    def on_elected(self) -> None:
        """A new term in office; the no-op comes next."""
        self._electing.won()
        self.leading = Leading(
            self.config, self.term, self.journal, self.snapshots, send=self._outbox.send, now=self.shell.now()
        )

    def on_feed(self) -> None:
        """The no-op leaves at once."""
        if self.leading:
            self.leading.feed(self.shell.now(), self.commit, self.connected)

    def on_deposed(self) -> None:
        """Who waits is told: for an entry, that its fate is open; for a read, to ask elsewhere."""
        assert self.leading is not None
        leading, self.leading = self.leading, None
        doubt = CommitUnknown("leadership was lost before the entry was committed")
        self.shell.hand(Failed(self.proposals.forget(), doubt))
        self.shell.hand(Failed([r.waiter for r in leading.reads], NotLeader(None)))
        transfer = leading.transfer
        if transfer is not None and transfer.told:
            self.shell.hand(Confirmed([transfer.waiter], transfer.to))
        elif transfer is not None:
            gone = Unavailable("leadership was lost before it was handed over")
            self.shell.hand(Failed([transfer.waiter], gone))
        self._electing.postpone(self.shell.now())

    # -- the tick

    def tick(self) -> None:
        """Everything that time, the disk or a caller brought. Never blocks."""
        now = self.shell.now()
        if self.journal.failed is not None:
            raise self.journal.failed
        self.durable = self.journal.durable_index
        self._electing.wakes(now)
        self._outbox.release(self.term)
        self._stand(now)
        if self.leading:
            self._govern(self.leading, now)
        else:
            self._refuse_proposals()
        if now >= self._second:
            self._second = now + 1.0
            self.journal.onOneSecondTimer()
        # Before the loop is woken: that costs this thread the interpreter for a while, and the disk can begin.
        self.journal.flush()
        self._hand_over()
        self._announce()
        self._compact(now)
        self._electing.sleeps(self.next_tick())

    def next_tick(self) -> float:
        """When `tick` has something to do at the latest, if nothing happens before."""
        if self.leading:
            return self.leading.next_beat()
        return self._electing.deadline if self.journal.voter else self.shell.now() + 0.1

    def _govern(self, leading: Leading, now: float) -> None:
        if self._electing.lease_over(now, leading.quorum_at(now)):
            self.core.step_down()  # check-quorum: a majority may have elected another
            return
        self._set_commit(leading.agreed())
        if leading.transfer is None:
            self._take_proposals()
        elif now > leading.transfer.until:
            transfer, leading.transfer = leading.transfer, None
            late = Unavailable(f"{transfer.to} did not take over in time")
            self.shell.hand(Failed([transfer.waiter], late))
        leading.feed(now, self.commit, self.connected)

    def _set_commit(self, index: int) -> None:
        self.core.advance(index)

    def _take_proposals(self) -> None:
        self.proposals.take(self.journal, self.term, self.commit)

    def _refuse_proposals(self) -> None:
        refused = self.proposals.refuse()
        if refused:
            self.shell.hand(Failed(refused, NotLeader(self.leader)))

    def _hand_over(self) -> None:
        """Committed entries go to the state machine, no more than the agreed lag ahead of it."""
        stop = min(self.commit, self.shell.applied() + self.config.limits.apply_lag_entries)
        if self.handed < stop:
            start = self.handed + 1 - self.journal[0][1]
            entries = self.journal[start : start + stop - self.handed]
            self.handed = stop
            self.shell.hand(Batch(entries, self.proposals.claim(entries)))
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
        taken, queued = self.proposals.forget(), self.proposals.refuse()
        reads = [r.waiter for r in self.leading.reads] if self.leading else []
        if self.leading and self.leading.transfer:
            reads.append(self.leading.transfer.waiter)
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

    # -- snapshots

    def snapshot(self, waiter: Any = None) -> None:
        """Takes a snapshot as soon as what is committed has been applied."""
        self._compacting.begun()
        self.shell.hand(Mark(waiter))

    def snapshot_stored(self, snapshot: tuple[int, int, int, bytes]) -> None:
        """A received snapshot is verified and durable."""
        index, entry_term, _, _ = snapshot
        if self._following.install(index, entry_term):
            self.handed = index
            self.shell.hand(Restore(index, entry_term))

    def snapshot_refused(self) -> None:
        """A received snapshot was damaged: the leader sends it again."""
        self._compacting.arrived()

    def snapshot_taken(self, index: int) -> None:
        """A snapshot of ours that ends at `index` is durable: the log before it may go."""
        self._compacting.taken(index)

    def _compact(self, now: float) -> None:
        if self._compacting.due(self.handed):
            sending = self.leading is not None and self.leading.feeding_snapshot(now)
            if not (sending and self._compacting.can_wait(self.handed)):
                self.snapshot()
