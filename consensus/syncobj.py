"""The contract of consensus on pysyncobj, as asyncio sees it: what the master calls.

Every coroutine runs on the loop that `start` was awaited on; the threads behind it are `engine`'s, the rules `node`'s.
Here a caller's wish is refused or queued, and its deadline kept: a definite error when nothing was written, "in doubt"
when some log may have it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from consensus.applying import Proposal
from consensus.config import ReplicaConfig
from consensus.core import LEADER
from consensus.engine import Engine
from consensus.guard import check_library
from consensus.node import Node
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

log = logging.getLogger("mr.consensus")

EXIT_BROKEN = 70  # EX_SOFTWARE: an invariant failed, or `apply` raised
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
        self._engine: Engine | None = None
        self._put_bytes = 0  # of proposals that were queued, ever
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
        if self._engine is None:
            return Leadership(term=0, leader=None, mine=False)
        return self._engine.applier.leadership

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
            stored = await asyncio.to_thread(parts.snapshots.read)
            if stored:
                self._machine.restore(stored.data)
            engine = Engine(
                self._config, parts, self._machine, stored, callbacks=self._callbacks, end=self._end
            )
            engine.start()
        except BaseException:
            await asyncio.to_thread(parts.close)
            raise
        self._engine, self._note = engine, ""

    async def _wait_for_room(self) -> None:
        """A full disk ended the process once; it does not vote again before its reserve is free."""
        self._config.data_dir.mkdir(parents=True, exist_ok=True)
        while not self._leaving.is_set():
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
        if self._engine is not None and not stopped:
            await asyncio.to_thread(self._engine.stop)
            self._note = "stopped"

    # -- for callers

    async def propose(self, command: bytes, *, timeout_s: float) -> Any:
        """Replicates `command`; returns what `apply` returned here. Raises NotLeader, Unavailable,
        CommitUnknown; ValueError when it is larger than `limits.command_bytes`."""
        limits = self._config.limits
        if len(command) > limits.command_bytes:
            raise ValueError(f"a command of {len(command)} bytes; the limit is {limits.command_bytes}")
        engine = self._leading()
        node, applier = engine.node, engine.applier
        waiting = self._put_bytes - node.proposals.taken_bytes
        if len(node.proposals) >= limits.queued_proposals or waiting > limits.queued_bytes:
            raise Unavailable("too many proposals wait for the log")
        if node.commit - applier.applied > limits.apply_lag_entries:
            raise Unavailable("the state machine lags behind the log")
        waiter: asyncio.Future[Any] = self._loop.create_future()
        proposal = Proposal(command, waiter)
        node.proposals.append(proposal)
        self._put_bytes += len(command)
        engine.parts.link.wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            if not node.proposals.withdraw(proposal):
                raise CommitUnknown(f"not committed within {timeout_s} s") from None
            self._put_bytes -= len(command)
            raise Unavailable(f"not taken into the log within {timeout_s} s") from None

    async def barrier(self, *, timeout_s: float) -> int:
        """A linearizable read point. Returns the applied index. Raises NotLeader or Unavailable."""
        engine = self._leading()
        waiter: asyncio.Future[int] = self._loop.create_future()
        engine.post(lambda: engine.node.read(waiter))
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            raise Unavailable(f"no majority confirmed the leadership within {timeout_s} s") from None

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Hands leadership over; returns to whom. Raises NotLeader, Unavailable."""
        engine = self._leading()
        waiter: asyncio.Future[str] = self._loop.create_future()
        engine.post(lambda: engine.node.transfer(to, timeout_s, waiter))
        try:
            async with asyncio.timeout(timeout_s + self._config.timing.election_max_s):
                return await waiter  # the node answers in time, as long as it lives
        except TimeoutError:
            raise Unavailable(f"leadership was not handed over within {timeout_s} s") from None

    def _leading(self) -> Engine:
        if self._engine is None or self._leaving.is_set():
            raise NotLeader(None)
        leadership = self._engine.applier.leadership
        if not leadership.mine:
            raise NotLeader(leadership.leader)
        return self._engine

    async def snapshot(self, *, timeout_s: float) -> SnapshotInfo:
        """Takes a snapshot now and trims the log. Returns where it ends. Raises Unavailable."""
        engine = self._engine
        if engine is None:
            raise Unavailable(self._note)
        waiter: asyncio.Future[SnapshotInfo] = self._loop.create_future()
        engine.post(lambda: engine.node.snapshot(waiter))
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            raise Unavailable(f"no snapshot within {timeout_s} s") from None

    async def snapshot_bytes(self) -> tuple[SnapshotInfo, bytes]:
        """The state machine's own bytes at an applied index."""
        if self._engine is None:
            raise Unavailable(self._note)
        applier = self._engine.applier
        index, term, serialise = applier.applied, applier.term, self._machine.snapshot()
        data = await asyncio.to_thread(serialise)
        return SnapshotInfo(index=index, term=term, size=len(data)), data

    def status(self) -> ReplicaStatus:
        """Never blocks."""
        if self._engine is None:
            return _waiting(self._config, self._note)
        node, applier, parts = self._engine.node, self._engine.applier, self._engine.parts
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
            note=""
            if journal.voter
            else "its disk was replaced; it votes again once it has caught up and met every other master",
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
