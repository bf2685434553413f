"""Carries out what the leader decides, and tells it what happened. Decides nothing itself.

Everything is on one loop: consensus' callbacks, the workers' sessions and the ticks reach `Leader.handle` one
after another, and the actions it returns are carried out before the next event. The leader keeps one batch of
commands in flight; under load its batches grow, not a queue of entries.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from consensus.replica import ConsensusError, Leadership, Replica
from master.leader import Leader
from master.leader_events import (
    Action,
    Applied,
    CloseSession,
    Deposed,
    Elected,
    Input,
    LoadPlan,
    Outcome,
    PlanLoaded,
    Propose,
    Proposed,
    Send,
    Tick,
)
from master.machine import AppliedEntry
from mr.errors import Error
from mr.rpc import job_pb2, session_pb2
from mr.rpc import table_pb2 as pb

log = logging.getLogger("mr.master")

_ENTRY_BYTES = 512 << 10  # half of what consensus takes: one more command always fits
_COMMAND_BYTES = 384 << 10
_TICK_S = 0.1
_AFTER_FAILURE_S = 1.0


class Links(Protocol):
    """The open sessions, as the driver uses them."""

    def send(self, session: int, message: session_pb2.MasterMessage) -> None:
        """Queues a message; nothing if the session is gone."""

    def close(self, session: int) -> None:
        """Ends a session after what is queued."""

    def close_all(self) -> None:
        """Ends every session and says who leads now."""


class Driver:
    """Between the sans-IO leader and the world. `new_leader` makes one for a term of office; `load` reads a
    blob by its digest, from wherever it is.
    """

    def __init__(
        self,
        new_leader: Callable[[], Leader],
        replica: Replica,
        links: Links,
        load: Callable[[bytes], Coroutine[Any, Any, bytes]],
        *,
        propose_timeout_s: float,
        committed: Callable[[float], None] = lambda _: None,
        decided: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.leader: Leader | None = None  # while leading
        self.term = 0  # of the last election won
        self.failures = 0  # events that the leader choked on
        self._new_leader = new_leader
        self._replica = replica
        self._links = links
        self._load = load
        self._timeout_s = propose_timeout_s
        self._committed = committed  # told how long one entry took, seconds
        self._decided = decided  # told how long one turn of the leader took, seconds
        self._wall_offset_ms = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def leading(self) -> bool:
        """Whether this master leads, as far as it knows."""
        return self.leader is not None

    def led(self, leadership: Leadership) -> None:
        """Consensus says who leads."""
        if leadership.mine and (leadership.term != self.term or not self.leading):
            self.term = leadership.term
            # A jump of the wall clock within one term does no harm: it is read once, at the election (FC21).
            self._wall_offset_ms = time.time_ns() // 1_000_000 - _monotonic_ms()
            log.info("leading in term %d", leadership.term)
            if self.leader:  # elected anew without hearing of the end: sessions belong to one term of office
                self._links.close_all()
            self._take_office()
        elif not leadership.mine and self.leader:
            log.info("no longer leading; %s leads term %d", leadership.leader or "nobody", leadership.term)
            self.feed(Deposed())
            self.leader = None
            self._links.close_all()

    def applied(self, applied: AppliedEntry) -> None:
        """Consensus applied an entry; the table stands there."""
        if self.leader:
            self.feed(Applied(index=applied.index, entry=applied.entry, results=applied.results))

    def restored(self) -> None:
        """The table is another one: whoever leads begins anew."""
        if self.leader:
            self.leader = None
            self._links.close_all()
            asyncio.get_running_loop().call_soon(self._recover, self.term)

    def feed(self, event: Input) -> None:
        """Gives one event to the leader and carries out what it answers; nothing while not leading.

        A leader that raises is a bug of ours. The table is sound whatever the leader does, so a fresh one
        takes its place and the workers attach again: it costs them nothing, and the cluster goes on.
        """
        if self.leader is None:
            return
        began = time.perf_counter()
        try:
            self._carry_out(self.leader.handle(event))
            self._decided(time.perf_counter() - began)
        except Exception:
            self.failures += 1
            log.exception(
                "the leader choked on %s: a bug of ours; a fresh one takes over", type(event).__name__
            )
            self.leader = None
            self._links.close_all()
            asyncio.get_running_loop().call_later(_AFTER_FAILURE_S, self._recover, self.term)

    def entry(self, commands: Sequence[pb.Command]) -> pb.Entry:
        """`commands` as an entry of this term, stamped with this leader's clock."""
        return pb.Entry(term=self.term, now_ms=self.wall_ms(), commands=commands)

    def wall_ms(self) -> int:
        """The wall clock of this term, milliseconds."""
        return _monotonic_ms() + self._wall_offset_ms

    async def tick_forever(self) -> None:
        """The leader's sense of time, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self.leader:
                self.feed(Tick(now_s=time.monotonic(), now_ms=self.wall_ms()))

    async def close(self) -> None:
        """Cancels what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take_office(self) -> None:
        self.leader = self._new_leader()
        self.feed(Elected(term=self.term, now_s=time.monotonic(), now_ms=self.wall_ms()))

    def _recover(self, term: int) -> None:
        if self.leader is None and self._replica.leadership.mine and term == self.term:
            self._take_office()

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Propose(number=number, commands=commands):
                    self._start(self._propose(number, list(commands), self.term))
                case Send(session=session, orders=orders):
                    self._links.send(session, session_pb2.MasterMessage(term=self.term, orders=orders))
                case CloseSession(session=session):
                    self._links.close(session)
                case LoadPlan(job=job, digest=digest):
                    self._start(self._load_plan(job, digest, self.term))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _propose(self, number: int, commands: list[pb.Command], term: int) -> None:
        outcome = Outcome.NOT_APPLIED
        try:
            for part in _parts(commands):
                began = time.perf_counter()
                await self._replica.propose(self.entry(part).SerializeToString(), timeout_s=self._timeout_s)
                self._committed(time.perf_counter() - began)
                outcome = Outcome.UNKNOWN  # of the whole, as long as parts of it are missing
            outcome = Outcome.APPLIED
        except ConsensusError as error:
            log.warning("a batch of %d commands was not confirmed: %s", len(commands), error)
            if error.maybe_applied:
                outcome = Outcome.UNKNOWN
        if self.leading and self.term == term:
            self.feed(Proposed(number=number, outcome=outcome))

    async def _load_plan(self, job: str, digest: bytes, term: int) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Error), wait=wait_random_exponential(0.1, max=5.0)
        )
        async for attempt in retrying:
            with attempt:
                if not (self.leading and self.term == term):
                    return
                plan = job_pb2.SplitPlan.FromString(await self._load(digest))
        if self.leading and self.term == term:
            self.feed(PlanLoaded(job=job, plan=plan))


def _parts(commands: list[pb.Command]) -> Iterator[list[pb.Command]]:
    """The commands in order, cut so that each part fits into one entry."""
    part: list[pb.Command] = []
    size = 0
    for command in commands:
        if (
            command.ByteSize() > _ENTRY_BYTES
        ):  # what workers say is bounded before: one alone must not stop all others
            log.error("a command of %d bytes is dropped: %s", command.ByteSize(), command.WhichOneof("kind"))
            continue
        part.append(command)
        size += command.ByteSize()
        if size >= _ENTRY_BYTES:
            yield part
            part, size = [], 0
    if part or not commands:  # no commands at all: an entry that only tells what is before it
        yield part


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
