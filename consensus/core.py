"""pysyncobj's core and nothing else of it: the only file that names its private parts (`guard` lists and checks them).

What is used: its log, term and vote; how it decides on a vote; how it takes entries that the fence let through; how a
candidate becomes a leader, with the no-op of its term. What is not: its ticks, threads, sockets, timers, sending loop,
counting, applying, snapshots, membership changes, forwarding, pickling.
"""

from __future__ import annotations

import _socket
import socket
from typing import Any, Protocol

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node as Peer
from pysyncobj.transport import Transport

from consensus.guard import check_instance
from consensus.wire import VOTED, Message

# Importing pysyncobj replaces this function, for the whole process, by one that works on Windows only.
socket.inet_ntop = _socket.inet_ntop

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
REGULAR, NO_OP = b"\x00", b"\x01"  # the first byte of every command in the log


class Listener(Protocol):
    """Who is told what pysyncobj does; called from inside it."""

    def on_voted(self, peer: str, term: int) -> None:
        """It gave `peer` its vote; the answer must not leave before that is on disk."""

    def on_term(self) -> None:
        """Term or vote changed."""

    def on_elected(self) -> None:
        """It won; the no-op of the term is appended next, and then `on_feed` comes."""

    def on_feed(self) -> None:
        """It would send to its followers now."""

    def on_deposed(self) -> None:
        """It led and leads no more."""


class _Door(Transport):  # type: ignore[misc]  # pysyncobj ships no types
    """pysyncobj's view of the network. Of what it says only votes are heard; all else we say ourselves."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(None, None, [])
        self._listener = listener

    def send(self, node: Peer, message: Message) -> bool:
        if message["type"] == VOTED:
            self._listener.on_voted(node.id, message["term"])
        return True

    def destroy(self) -> None:
        """Nothing is ours to close."""


class Core(SyncObj):  # type: ignore[misc]  # pysyncobj ships no types
    """One member's Raft state over `journal`, which is open and whose entries up to `committed` are final."""

    def __init__(self, me: str, others: list[str], journal: Any, committed: int, listener: Listener) -> None:
        self._journal, self._listener = journal, listener
        self._peers = {p: Peer(p) for p in others}
        # Members never change by pysyncobj's own means: its guard against two changes at once is dead code.
        conf = SyncObjConf(autoTick=False, dynamicMembershipChange=False, commandsWaitLeader=False)
        super().__init__(Peer(me), list(self._peers.values()), conf, transport=_Door(listener))
        check_instance(self)
        if len(journal) == 0:
            journal.add(NO_OP, 1, 0)
        self._SyncObj__raftLog = journal
        self._SyncObj__raftCurrentTerm = max(journal.getCurrentTerm(), journal[-1][2])
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId()
        self._SyncObj__raftCommitIndex = max(committed, min(journal.getRaftCommitIndex(), journal[-1][1]))

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit(self) -> int:
        """The last index known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        return int(self._SyncObj__raftState)

    @property
    def leader(self) -> str | None:
        """Who leads the current term, if that is known."""
        node = self._SyncObj__raftLeader
        return None if node is None else str(node.id)

    def deliver(self, peer: str, message: Message) -> None:
        """A message that passed the fence."""
        self._SyncObj__onMessageReceived(self._peers[peer], message)

    def advance(self, commit: int) -> None:
        """Everything up to `commit` is final. Never goes back."""
        if commit > self.commit:
            self._SyncObj__raftCommitIndex = commit
            self._journal.setRaftCommitIndex(commit)

    def step_down(self, term: int | None = None) -> None:
        """Follows nobody yet; in `term`, if a higher one was heard of."""
        if term is not None:
            self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def stand(self) -> None:
        """A candidate in the next term, with its own vote (Raft 5.2)."""
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term + 1, self.selfNode.id)
        self._SyncObj__votesCount = 1

    def win(self) -> None:
        """Elected by its own vote: the only member."""
        self._SyncObj__onBecomeLeader()

    # Overridden: pysyncobj calls them on itself.

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802 - pysyncobj's name
        self._listener.on_elected()
        super()._SyncObj__onBecomeLeader()

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 - pysyncobj's name
        self._listener.on_feed()

    def _SyncObj__setCurrentTerm(self, term: int, vote: str | None) -> None:  # noqa: N802 - pysyncobj's name
        super()._SyncObj__setCurrentTerm(term, vote)
        self._listener.on_term()

    def _SyncObj__setState(self, state: int) -> None:  # noqa: N802 - pysyncobj's name
        led = self.state == LEADER
        super()._SyncObj__setState(state)
        if led and state != LEADER:
            self._listener.on_deposed()
