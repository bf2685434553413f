"""The contract of consensus in one process: no disk, no threads, no network; who leads is said by the test.

A `MemoryCluster` keeps one log that every replica of it applies through the same queue as the real one
(`applying.py`). It has what callers must cope with: a leader that changes, a leader that is cut off and
does not know, proposals whose outcome is in doubt. With equal seeds and equal calls everything happens in
the same order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from consensus.applying import Applier, Batch, Confirmed, Failed, Lead, Mark, Restore
from consensus.fence import Entry
from consensus.replica import (
    CommitUnknown,
    Leadership,
    NotLeader,
    PeerStatus,
    ReplicaStatus,
    SnapshotInfo,
    StateMachine,
    Unavailable,
)

NO_OP, REGULAR = b"\x01", b"\x00"


class MemoryCluster:
    """The members, the log they agree on, and who is cut off. The first `elect` begins term 1."""

    def __init__(self, ids: list[str], *, seed: int = 0) -> None:
        self.ids = sorted(ids)
        self.rng = random.Random(seed)
        self.term = 0
        self.leader: str | None = None
        self.log: list[Entry] = [(NO_OP, 1, 0)]
        self.cut: set[str] = set()
        self.replicas: dict[str, MemoryReplica] = {}

    def replica(self, replica_id: str, machine: StateMachine) -> MemoryReplica:
        """The member `replica_id`, not started yet. A second call is another life of it: it applies the
        whole log."""
        assert replica_id in self.ids
        self.replicas[replica_id] = MemoryReplica(self, replica_id, machine)
        return self.replicas[replica_id]

    def elect(self, replica_id: str | None = None) -> str:
        """Makes a member of the connected majority the leader of the next term; returns its id."""
        fit = [r for r in self.ids if r in self.reachable()]
        if 2 * len(fit) <= len(self.ids):
            raise Unavailable("no majority is connected")
        chosen = replica_id or self.rng.choice(fit)
        assert chosen in fit
        self.term, self.leader = self.term + 1, chosen
        self.log.append((NO_OP, len(self.log) + 1, self.term))
        self.spread()
        return chosen

    def isolate(self, replica_id: str) -> None:
        """Cuts a member off. A leader does not notice; what it is asked stays in doubt."""
        self.cut.add(replica_id)

    def heal(self, replica_id: str) -> None:
        """Connects it again: it learns what it missed."""
        self.cut.discard(replica_id)
        self.spread()

    def reachable(self) -> set[str]:
        """Members that run and are connected."""
        return {r for r, replica in self.replicas.items() if replica.running and r not in self.cut}

    def has_majority(self) -> bool:
        """The connected members can commit."""
        return 2 * len(self.reachable()) > len(self.ids)

    def spread(self) -> None:
        """Every connected member learns the log and the leader, in an order that the seed decides."""
        order = sorted(self.reachable())
        self.rng.shuffle(order)
        for replica_id in order:
            self.replicas[replica_id].catch_up()


class MemoryReplica:
    """One member of a `MemoryCluster`; a `consensus.replica.Replica`."""

    def __init__(self, cluster: MemoryCluster, replica_id: str, machine: StateMachine) -> None:
        self.running = False
        self._cluster, self._id, self._machine = cluster, replica_id, machine
        self._handed = 1
        self._known = Leadership(term=0, leader=None, mine=False)
        self._doubtful: list[asyncio.Future[Any]] = []  # proposed while cut off
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._snapshot = SnapshotInfo(index=0, term=0, size=0)
        self._applier = Applier(
            machine,
            applied=1,
            term=0,
            refuse=None,
            wake=self._wake,
            keep=self._keep,
            fetch=lambda: None,
        )

    @property
    def id(self) -> str:
        """This member's id."""
        return self._id

    @property
    def leadership(self) -> Leadership:
        """The newest leadership that has been announced on the loop."""
        return self._applier.leadership

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        """`callback` is called on the loop at every change, in order with `apply`."""
        self._applier.callbacks.append(callback)

    async def start(self) -> None:
        """Joins; applies what the cluster has agreed on so far."""
        self._loop = asyncio.get_running_loop()
        self.running = True
        if self._id not in self._cluster.cut:
            self.catch_up()

    async def stop(self) -> None:
        """Leaves. Idempotent."""
        self.running = False
        self._leave_office(CommitUnknown("the replica was stopped"))

    def catch_up(self) -> None:
        """Takes over what the cluster agreed on since it was last connected."""
        cluster = self._cluster
        known = Leadership(term=cluster.term, leader=cluster.leader, mine=cluster.leader == self._id)
        if self._known.mine and not (known.mine and known.term == self._known.term):
            self._leave_office(CommitUnknown("leadership was lost before the entry was committed"))
        entries = cluster.log[self._handed :]
        if entries:
            self._handed = len(cluster.log)
            waiters = {i: self._waiting.pop(i) for _, i, _ in entries if i in self._waiting}
            self._applier.put(Batch(entries, waiters))
        if known != self._known:
            self._known = known
            self._applier.put(Lead(known))

    def _leave_office(self, error: CommitUnknown) -> None:
        lost = [*self._doubtful, *self._waiting.values()]
        self._doubtful.clear()
        self._waiting.clear()
        if lost:
            self._applier.put(Failed(lost, error))

    def _wake(self) -> None:
        self._loop.call_soon(self._applier.run, lambda: False)

    async def propose(self, command: bytes, *, timeout_s: float) -> Any:
        """Replicates `command`; returns what `apply` returned here."""
        self._check_leading()
        waiter: asyncio.Future[Any] = self._loop.create_future()
        cluster = self._cluster
        if self._id in cluster.cut or not cluster.has_majority() or cluster.leader != self._id:
            self._doubtful.append(waiter)  # in our log, and nobody else's
        else:
            cluster.log.append((REGULAR + command, len(cluster.log) + 1, cluster.term))
            self._waiting[len(cluster.log)] = waiter
            cluster.spread()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            raise CommitUnknown(f"not committed within {timeout_s} s") from None

    async def barrier(self, *, timeout_s: float) -> int:
        """A linearizable read point. Returns the applied index."""
        self._check_leading()
        cluster = self._cluster
        if self._id in cluster.cut or cluster.leader != self._id or not cluster.has_majority():
            await asyncio.sleep(timeout_s)
            raise Unavailable(f"no majority confirmed the leadership within {timeout_s} s")
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._applier.put(Confirmed([waiter], None))
        return await waiter

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:  # noqa: ARG002 - nothing here takes time
        """Hands leadership over; returns to whom."""
        self._check_leading()
        fit = sorted(self._cluster.reachable() - {self._id})
        if not self._cluster.has_majority() or (to or (fit and fit[0])) not in fit:
            raise Unavailable(f"{to or 'no other member'} cannot take over now")
        return self._cluster.elect(to or fit[0])

    async def snapshot(self, *, timeout_s: float) -> SnapshotInfo:
        """Where a snapshot taken now ends. Nothing is kept: the log is the state here."""
        waiter: asyncio.Future[SnapshotInfo] = self._loop.create_future()
        self._applier.put(Mark(waiter))
        async with asyncio.timeout(timeout_s):
            return await waiter

    async def snapshot_bytes(self) -> tuple[SnapshotInfo, bytes]:
        """The state machine's own bytes at an applied index."""
        index, term, data = self._applier.applied, self._applier.term, self._machine.snapshot()()
        return SnapshotInfo(index=index, term=term, size=len(data)), data

    def _keep(self, index: int, term: int, serialise: Callable[[], bytes], waiter: Any) -> None:
        self._snapshot = SnapshotInfo(index=index, term=term, size=len(serialise()))
        if waiter is not None and not waiter.done():
            waiter.set_result(self._snapshot)

    def install(self, info: SnapshotInfo, data: bytes) -> None:
        """A snapshot of another member takes the place of this one's state, as after a long absence."""
        self._handed = info.index
        self._applier.put(Restore(info.index, info.term))
        self._applier.run(lambda: False)
        self._applier.loaded(info.index, info.term, data)

    def status(self) -> ReplicaStatus:
        """Never blocks."""
        cluster, mine = self._cluster, self._known.mine
        peers = {
            p: PeerStatus(
                connected=p in cluster.reachable(), match=self._handed if mine else None, silent_s=None
            )
            for p in cluster.ids
            if p != self._id
        }
        return ReplicaStatus(
            id=self._id,
            role="leader" if mine else "follower",
            term=self._known.term,
            leader=self._known.leader,
            commit=self._handed,
            applied=self._applier.applied,
            last=self._handed,
            durable=self._handed,
            snapshot=self._snapshot.index,
            log_entries=self._handed,
            disk_s=0.0,
            cluster_id="memory",
            peers=peers,
        )

    def _check_leading(self) -> None:
        if not self.running or not self.leadership.mine:
            raise NotLeader(self.leadership.leader if self.running else None)
