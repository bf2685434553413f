"""The contract of consensus on pysyncobj: a node, the thread that ticks it, and the asyncio side.

Three kinds of threads meet here and share nothing but queues. The tick thread owns the node, the journal
and the link; it sleeps until a frame, a proposal, the disk or a timer wakes it, and never waits for any of
them. The loop owns the state machine and every future; what is committed reaches it through the apply
queue. One worker thread does what may take long: serialising, storing and reading snapshots.

Whatever escapes on the tick thread or out of `apply` ends the process, loudly: a replica that went on half
alive would be worse than a dead one (hazards 20, 31).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import select
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from consensus.applying import Applier, Item, Proposal
from consensus.config import ReplicaConfig
from consensus.guard import check_library
from consensus.node import LEADER, Node
from consensus.opening import Parts, open_parts
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
from consensus.rpc import raft_pb2 as pb
from consensus.wire import Malformed, Message, decode, encode

log = logging.getLogger("mr.consensus")

EXIT_BROKEN = 70  # EX_SOFTWARE: an invariant failed, or `apply` raised
APPLY_SLICE_S = 0.005  # how long the loop applies before it lets others run
DISK_POLL_S = 1.0


def end_process(error: BaseException) -> None:
    """The last words, then the end: no cleanup that could still send something."""
    try:
        log.critical("this master cannot go on: %s", error, exc_info=error)
        for handler in logging.getLogger().handlers:
            handler.flush()
        sys.stderr.write(f"mr-master: fatal: {error}\n")
        sys.stderr.flush()
    finally:  # stderr may be a file on the disk that is full
        os._exit(getattr(error, "exit_code", EXIT_BROKEN))


class SyncObjReplica:
    """A `consensus.replica.Replica` over pysyncobj. `parts` and `end` are replaced by tests only."""

    def __init__(
        self,
        config: ReplicaConfig,
        machine: StateMachine,
        *,
        parts: Callable[[ReplicaConfig, Callable[[str], None], threading.Event], Parts] = open_parts,
        end: Callable[[BaseException], None] = end_process,
    ) -> None:
        self._config, self._machine = config, machine
        self._open_parts, self._end = parts, end
        self._callbacks: list[Callable[[Leadership], None]] = []
        self._parts: Parts | None = None
        self._node: Node | None = None
        self._applier: Applier | None = None
        self._thread: threading.Thread | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"snapshot-{config.id}")
        self._posted: deque[Callable[[], None]] = deque()  # for the tick thread
        self._put_bytes = 0  # of proposals that were queued, ever
        self._scheduled = False
        self._leaving = threading.Event()
        self._note = "not started"

    # -- life

    @property
    def id(self) -> str:
        """This member's id."""
        return self._config.id

    @property
    def leadership(self) -> Leadership:
        """The newest leadership that has been announced on the loop."""
        return self._applier.leadership if self._applier else Leadership(term=0, leader=None, mine=False)

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        """`callback` is called on the loop at every change, in order with `apply`."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Opens the state on disk, restores and joins. Raises RefusedToStart."""
        check_library()
        self._loop = asyncio.get_running_loop()
        await self._wait_for_room()
        self._note = "opening its state"
        parts = await asyncio.to_thread(self._open_parts, self._config, self._say, self._leaving)
        try:
            await self._join(parts)
        except BaseException:
            await asyncio.to_thread(parts.close)
            raise
        self._parts, self._note = parts, ""
        self._thread = threading.Thread(target=self._run, name=f"tick-{self.id}", daemon=True)
        self._thread.start()

    async def _join(self, parts: Parts) -> None:
        """Restores the newest snapshot and builds the node on what was opened."""
        stored = await asyncio.to_thread(parts.snapshots.read)
        index, term = (stored.index, stored.term) if stored else (1, 0)
        if stored:
            self._machine.restore(stored.data)
        self._applier = Applier(
            self._machine,
            applied=index,
            term=term,
            refuse=self._config.refuse_entry,
            wake=self._wake_loop,
            keep=self._keep,
            fetch=self._fetch,
        )
        self._applier.callbacks = self._callbacks
        rng = random.Random(self._config.seed)
        incarnation = time.time_ns()  # of two lives of one member the later has the larger number
        self._node = Node(
            self._config, parts.journal, parts.snapshots, self, rng, handed=index, incarnation=incarnation
        )
        parts.journal.on_durable(parts.link.wake)
        parts.start()

    async def _wait_for_room(self) -> None:
        """A full disk ended the process once; it does not vote again before its reserve is free."""
        self._config.data_dir.mkdir(parents=True, exist_ok=True)
        while True:
            free = shutil.disk_usage(self._config.data_dir).free
            if free >= self._config.reserve_bytes:
                return
            reserve = self._config.reserve_bytes
            self._say(f"waiting for disk space: {free >> 20} MiB free, {reserve >> 20} MiB wanted")
            await asyncio.sleep(DISK_POLL_S)

    def _say(self, note: str) -> None:
        if note != self._note:
            self._note = note
            log.warning(note)

    async def stop(self) -> None:
        """Leaves without ceremony; what was acknowledged is on disk already. Idempotent."""
        stopped = self._leaving.is_set()
        self._leaving.set()
        if self._parts is None or stopped:
            return
        self._parts.link.wake()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        if self._node is not None and self._applier is not None:
            for item in self._node.abandon():
                self._applier.put(item)
        await asyncio.to_thread(self._worker.shutdown, wait=True)
        await asyncio.to_thread(self._parts.close)
        self._note = "stopped"

    # -- the tick thread

    def _run(self) -> None:
        assert self._node is not None
        assert self._parts is not None
        node, link = self._node, self._parts.link
        poll = select.poll()
        poll.register(link.fileno(), select.POLLIN)
        try:
            while not self._leaving.is_set():
                poll.poll(max(0.0, node.next_tick() - time.monotonic()) * 1000 + 1)
                link.poll(self)
                while self._posted:
                    self._posted.popleft()()
                node.tick()
        except BaseException as error:  # nothing may end this thread in silence
            self._end(error)

    def on_frame(self, peer: str, frame: pb.Frame) -> None:
        """A frame of the current session with `peer`. What is no message of ours is dropped."""
        assert self._node is not None
        try:
            message = decode(frame)
        except Malformed as error:
            log.warning("dropped a frame of %s: %s", peer, error)
            return
        self._node.receive(peer, message)

    def on_up(self, peer: str) -> None:
        """A session stands."""
        assert self._node is not None
        self._node.up(peer)

    def on_down(self, peer: str) -> None:
        """A session broke."""
        assert self._node is not None
        self._node.down(peer)

    def on_reset(self, peer: str) -> None:
        """A connection with `peer` was reset: it may have died."""
        assert self._node is not None
        self._node.reset(peer)

    # -- what the node asks of us (node.Shell), on the tick thread

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def send(self, peer: str, message: Message, bulk: bool) -> bool:
        """Queues a message; False when there is no session or no room."""
        assert self._parts is not None
        return bool(self._parts.link.send(peer, encode(message), bulk=bulk))

    def hand(self, item: Item) -> None:
        """Puts one item at the end of the apply queue."""
        assert self._applier is not None
        self._applier.put(item)

    def applied(self) -> int:
        """The last index applied."""
        assert self._applier is not None
        return self._applier.applied

    def store_snapshot(self, meta: tuple[int, int, int, bytes]) -> None:
        """Verifies a received snapshot and makes it durable, on the worker thread."""
        assert self._parts is not None
        snapshots, node = self._parts.snapshots, self._node
        assert node is not None

        def stored(work: Future[bool]) -> None:
            if error := work.exception():
                self._post(lambda: _raise(error))
            elif work.result():
                self._post(lambda: node.snapshot_stored(meta))
            else:
                self._post(node.snapshot_refused)

        self._worker.submit(snapshots.install, meta).add_done_callback(stored)

    def _post(self, call: Callable[[], None]) -> None:
        assert self._parts is not None
        self._posted.append(call)
        self._parts.link.wake()

    # -- the loop

    def _wake_loop(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._apply)
            except RuntimeError:  # the loop is closed: nobody is left to hear
                return

    def _apply(self) -> None:
        assert self._applier is not None
        assert self._node is not None
        assert self._parts is not None
        self._scheduled = False
        until = time.monotonic() + APPLY_SLICE_S
        try:
            more = self._applier.run(lambda: time.monotonic() > until)
        except BaseException as error:  # `apply` or a callback raised
            self._end(error)
            return
        if more and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._apply)
        if self._node.handed < self._node.commit:
            self._parts.link.wake()  # it held entries back because we lagged

    def _keep(self, index: int, term: int, serialise: Callable[[], bytes], waiter: Any) -> None:
        """Stores a snapshot on the worker thread, then has the log trimmed."""
        parts, node = self._parts, self._node
        assert parts is not None
        assert node is not None

        def work() -> int:
            data = serialise()
            parts.snapshots.write(index, term, data)
            return len(data)

        def done(result: Future[int]) -> None:
            if error := result.exception():
                self._post(lambda: _raise(error))
                return
            info = SnapshotInfo(index=index, term=term, size=result.result())
            self._post(lambda: node.snapshot_taken(index))
            if waiter is not None:
                self._loop.call_soon_threadsafe(lambda: waiter.done() or waiter.set_result(info))

        self._worker.submit(work).add_done_callback(done)

    def _fetch(self) -> None:
        """Reads the stored snapshot on the worker thread for the applier."""
        parts, applier = self._parts, self._applier
        assert parts is not None
        assert applier is not None

        def loaded(result: Future[Any]) -> None:
            if error := result.exception():
                self._post(lambda: _raise(error))
                return
            stored = result.result()
            self._loop.call_soon_threadsafe(applier.loaded, stored.index, stored.term, stored.data)

        self._worker.submit(parts.snapshots.read).add_done_callback(loaded)

    # -- for callers

    async def propose(self, command: bytes, *, timeout_s: float) -> Any:
        """Replicates `command`; returns what `apply` returned here. Raises NotLeader, Unavailable,
        CommitUnknown; ValueError when it is larger than `limits.command_bytes`."""
        limits = self._config.limits
        if len(command) > limits.command_bytes:
            raise ValueError(f"a command of {len(command)} bytes; the limit is {limits.command_bytes}")
        node, applier, link = self._leading()
        waiting = self._put_bytes - node.taken_bytes
        if len(node.proposals) >= limits.queued_proposals or waiting > limits.queued_bytes:
            raise Unavailable("too many proposals wait for the log")
        if node.commit - applier.applied > limits.apply_lag_entries:
            raise Unavailable("the state machine lags behind the log")
        waiter: asyncio.Future[Any] = self._loop.create_future()
        proposal = Proposal(command, waiter)
        node.proposals.append(proposal)
        self._put_bytes += len(command)
        link.wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            try:
                node.proposals.remove(proposal)
            except (ValueError, IndexError):
                raise CommitUnknown(f"not committed within {timeout_s} s") from None
            self._put_bytes -= len(command)
            raise Unavailable(f"not taken into the log within {timeout_s} s") from None

    async def barrier(self, *, timeout_s: float) -> int:
        """A linearizable read point. Returns the applied index. Raises NotLeader or Unavailable."""
        node, _, _ = self._leading()
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._post(lambda: node.read(waiter))
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            raise Unavailable(f"no majority confirmed the leadership within {timeout_s} s") from None

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Hands leadership over; returns to whom. Raises NotLeader, Unavailable."""
        node, _, _ = self._leading()
        waiter: asyncio.Future[str] = self._loop.create_future()
        self._post(lambda: node.transfer(to, timeout_s, waiter))
        return await waiter

    def _leading(self) -> tuple[Node, Applier, Any]:
        leadership = self.leadership
        if self._node is None or self._applier is None or self._parts is None or self._leaving.is_set():
            raise NotLeader(None)
        if not leadership.mine:
            raise NotLeader(leadership.leader)
        return self._node, self._applier, self._parts.link

    async def snapshot(self) -> SnapshotInfo:
        """Takes a snapshot now and trims the log. Returns where it ends."""
        if self._node is None:
            raise Unavailable(self._note)
        node = self._node
        waiter: asyncio.Future[SnapshotInfo] = self._loop.create_future()
        self._post(lambda: node.snapshot(waiter))
        return await waiter

    async def snapshot_bytes(self) -> tuple[SnapshotInfo, bytes]:
        """The state machine's own bytes at an applied index."""
        if self._applier is None:
            raise Unavailable(self._note)
        index, term, serialise = self._applier.applied, self._applier.term, self._machine.snapshot()
        data = await asyncio.to_thread(serialise)
        return SnapshotInfo(index=index, term=term, size=len(data)), data

    def status(self) -> ReplicaStatus:
        """Never blocks."""
        node, applier, parts = self._node, self._applier, self._parts
        if node is None or applier is None or parts is None:
            return _waiting(self._config, self._note)
        journal, latest, leading = node.journal, parts.snapshots.latest(), node.leading
        now = time.monotonic()
        peers = {}
        for peer in self._config.others:
            member = leading.members[peer] if leading else None
            peers[peer] = PeerStatus(
                connected=peer in node.connected,
                match=member.match if member else None,
                silent_s=now - member.heard if member else None,
            )
        return ReplicaStatus(
            id=self.id,
            role=_role(node),
            term=node.term,
            leader=node.leader,
            commit=node.commit,
            applied=applier.applied,
            last=node.last,
            durable=node.durable,
            snapshot=latest.index if latest else 0,
            log_entries=len(journal),
            disk_s=journal.sync_s,
            cluster_id=parts.cluster_id,
            peers=peers,
            note="" if journal.voter else "its disk was replaced; it votes again once it has caught up",
        )


def _role(node: Node) -> str:
    if not node.journal.voter:
        return "non-voter"
    return "leader" if node.state == LEADER else ("follower", "candidate")[node.state]


def _waiting(config: ReplicaConfig, note: str) -> ReplicaStatus:
    return ReplicaStatus(
        id=config.id,
        role="waiting",
        term=0,
        leader=None,
        commit=0,
        applied=0,
        last=0,
        durable=0,
        snapshot=0,
        log_entries=0,
        disk_s=0.0,
        cluster_id="",
        peers={p: PeerStatus(connected=False, match=None, silent_s=None) for p in config.others},
        note=note,
    )


def _raise(error: BaseException) -> None:
    raise error
