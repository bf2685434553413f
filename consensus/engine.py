"""The threads around a node. They share nothing but queues.

The tick thread owns the node, the journal and the link; it sleeps until a frame, a proposal, the disk or a timer wakes
it, and never waits for any of them. The loop owns the state machine and every future; what is committed reaches it
through the apply queue. One worker thread does what may take long: serialising, storing and reading snapshots.

Whatever escapes on any of them ends the process, loudly: a replica that went on half alive would be worse than a dead
one (hazards 20, 31).
"""

from __future__ import annotations

import asyncio
import logging
import random
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from consensus.applying import Applier, Item
from consensus.config import ReplicaConfig
from consensus.node import Node
from consensus.opening import Parts
from consensus.replica import Leadership, SnapshotInfo, StateMachine
from consensus.rpc import raft_pb2 as pb
from consensus.snapshots import Snapshot
from consensus.urgency import make_urgent
from consensus.wire import Malformed, Message, decode, encode

log = logging.getLogger("mr.consensus")

SWITCH_S = 0.001
APPLY_SLICE_S = 0.005  # how long the loop applies before it lets others run


class Engine:
    """One life of a member, from its opened state to `stop`. `stored` is the snapshot that `machine` holds already.

    It is the node's `Shell` and the link's `Handler`: those methods are called on the tick thread only.
    """

    def __init__(
        self,
        config: ReplicaConfig,
        parts: Parts,
        machine: StateMachine,
        stored: Snapshot | None,
        *,
        callbacks: list[Callable[[Leadership], None]],
        end: Callable[[BaseException], None],
    ) -> None:
        index, term = (stored.index, stored.term) if stored else (1, 0)
        self.parts = parts
        self.applier = Applier(
            machine,
            applied=index,
            term=term,
            refuse=config.refuse_entry,
            wake=self._wake_loop,
            keep=self._keep,
            fetch=self._fetch,
        )
        self.applier.callbacks = callbacks
        incarnation = time.time_ns()  # of two lives of one member the later has the larger number
        rng = random.Random(config.seed)
        self.node = Node(
            config, parts.journal, parts.snapshots, self, rng, handed=index, incarnation=incarnation
        )
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._posted: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._leaving = threading.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"snapshot-{config.id}")
        self._thread = threading.Thread(target=self._run, name=f"tick-{config.id}", daemon=True)
        parts.journal.on_durable(parts.link.wake)

    def start(self) -> None:
        """Exchanges frames and ticks from here on."""
        # A busy loop may keep the interpreter from the tick thread for so long at each of its turns (default 5 ms).
        sys.setswitchinterval(SWITCH_S)
        self.parts.start()
        self._thread.start()

    def stop(self) -> None:
        """Ends the threads and closes what was opened. Blocks; not on the loop."""
        self._leaving.set()
        self.parts.link.wake()
        self._thread.join()
        for item in self.node.abandon():
            self.applier.put(item)
        self._worker.shutdown(wait=True)
        self.parts.close()

    def post(self, call: Callable[[], None]) -> None:
        """Has `call` run on the tick thread. Any thread."""
        self._posted.append(call)
        self.parts.link.wake()

    # -- the tick thread

    def _run(self) -> None:
        make_urgent()
        node, link = self.node, self.parts.link
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
        try:
            message = decode(frame)
        except Malformed as error:
            log.warning("dropped a frame of %s: %s", peer, error)
            return
        self.node.receive(peer, message)

    def on_up(self, peer: str) -> None:
        """A session stands."""
        self.node.up(peer)

    def on_down(self, peer: str) -> None:
        """A session broke."""
        self.node.down(peer)

    def on_reset(self, peer: str) -> None:
        """A connection with `peer` was reset: it may have died."""
        self.node.reset(peer)

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def send(self, peer: str, message: Message, bulk: bool) -> bool:
        """Queues a message; False when there is no session or no room."""
        return bool(self.parts.link.send(peer, encode(message), bulk=bulk))

    def hand(self, item: Item) -> None:
        """Puts one item at the end of the apply queue."""
        self.applier.put(item)

    def applied(self) -> int:
        """The last index applied."""
        return self.applier.applied

    def store_snapshot(self, meta: tuple[int, int, int, bytes]) -> None:
        """Verifies a received snapshot and makes it durable, on the worker thread."""

        def stored(work: Future[bool]) -> None:
            if work.result():
                self.post(lambda: self.node.snapshot_stored(meta))
            else:
                self.post(self.node.snapshot_refused)

        self._work(lambda: self.parts.snapshots.install(meta), stored)

    def _work(self, call: Callable[[], Any], done: Callable[[Future[Any]], None]) -> None:
        """Runs `call` on the worker thread, then `done`; an error of it ends the process."""

        def finished(work: Future[Any]) -> None:
            if error := work.exception():
                self._end(error)
            else:
                done(work)

        self._worker.submit(call).add_done_callback(finished)

    # -- the loop

    def _wake_loop(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_on_loop(self._apply)

    def _call_on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to hear
            return

    def _apply(self) -> None:
        self._scheduled = False
        until = time.monotonic() + APPLY_SLICE_S
        try:
            more = self.applier.run(lambda: time.monotonic() > until)
        except BaseException as error:  # `apply` or a callback raised
            self._end(error)
            return
        if more and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._apply)
        if self.node.handed < self.node.commit:
            self.parts.link.wake()  # it held entries back because we lagged

    def _keep(self, index: int, term: int, serialise: Callable[[], bytes], waiter: Any) -> None:
        """Stores a snapshot on the worker thread, then has the log trimmed."""

        def work() -> int:
            data = serialise()
            self.parts.snapshots.write(index, term, data)
            return len(data)

        def done(result: Future[int]) -> None:
            info = SnapshotInfo(index=index, term=term, size=result.result())
            self.post(lambda: self.node.snapshot_taken(index))
            if waiter is not None:
                self._call_on_loop(lambda: waiter.done() or waiter.set_result(info))

        self._work(work, done)

    def _fetch(self) -> None:
        """Reads the stored snapshot on the worker thread for the applier."""
        self._work(
            self.parts.snapshots.read, lambda result: self._call_on_loop(self._restore, result.result())
        )

    def _restore(self, stored: Snapshot) -> None:
        try:
            self.applier.loaded(stored.index, stored.term, stored.data)
        except BaseException as error:  # `restore` raised: the state machine is neither the old nor the new
            self._end(error)
