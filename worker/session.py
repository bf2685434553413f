"""The client side of the Session stream: one at a time, with whichever master leads.

Carries messages both ways and decides nothing: what to say is the agent's. It asks the masters in turn,
follows their hints to the leader, and never stops trying, with jitter and a cap (S1-06). A stream that says
nothing at first is left soon; one that falls silent later is closed by the agent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import tenacity

from mr import tls
from mr.rpc import session_pb2, session_pb2_grpc
from worker.channels import Channels
from worker.events import Event, Received, SessionClosed, SessionOpened
from worker.metrics import SESSIONS

log = logging.getLogger("mr.worker")

FIRST_WORD_S = 3.0
MESSAGE_EVENTS = 512
MOST_WAITING = 100_000  # events that the stream does not take: it is as good as broken


class Sessions:
    """Keeps a session with the leader for as long as `run` runs."""

    def __init__(self, masters: Sequence[str], channels: Channels, feed: Callable[[Event], None]) -> None:
        self._masters = list(masters)
        self._channels = channels
        self._feed = feed
        self._turn = itertools.cycle(self._masters)
        self._hint = ""
        self._number = 0
        self._waiting: asyncio.Queue[session_pb2.WorkerEvent | None] = asyncio.Queue()  # None: nothing more
        self._close = asyncio.Event()
        self.leader = ""  # address of the master that this worker talks to

    def masters(self) -> Sequence[str]:
        """Every master, the leader first: where blobs are asked for."""
        others = [address for address in self._masters if address != self.leader]
        return [self.leader, *others] if self.leader else others

    def send(self, number: int, events: Sequence[session_pb2.WorkerEvent]) -> None:
        """Queues events for session `number`; nothing if that one is gone."""
        if number != self._number:
            return
        for event in events:
            self._waiting.put_nowait(event)
        if self._waiting.qsize() > MOST_WAITING:
            self.close(number, "the master does not read")

    def close(self, number: int, reason: str, hint: str = "") -> None:
        """Ends session `number`; the next one is tried with `hint` first."""
        if number == self._number and not self._close.is_set():
            log.info("leaving the session with %s: %s", self.leader, reason)
            self._hint = hint
            self._close.set()

    async def run(self) -> None:
        """Session after session, for ever."""
        while True:
            await self._until_one_worked()

    async def _until_one_worked(self) -> None:
        tries = tenacity.AsyncRetrying(
            wait=tenacity.wait_random_exponential(multiplier=0.03, max=0.5),
            retry=tenacity.retry_if_result(lambda worked: not worked),
            before_sleep=self._say_if_long,
        )
        await tries(self._one)

    def _say_if_long(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number in {10, 100} or state.attempt_number % 1000 == 0:
            log.warning("no leader found yet among %s; running tasks go on", ", ".join(self._masters))

    async def _one(self) -> bool:
        """One session from its first to its last word; whether there was any word of a leader."""
        hinted = bool(self._hint)
        address, self._hint = self._hint or next(self._turn), ""
        self._number += 1
        number, worked = self._number, False
        self._waiting, self._close, self.leader = asyncio.Queue(), asyncio.Event(), address
        closing = asyncio.create_task(self._close.wait())
        channel = None
        try:
            channel = self._channels.open("master", address)
            stream = session_pb2_grpc.SessionsStub(channel).Session(self._outgoing())
            self._feed(SessionOpened(number))
            patience: float | None = FIRST_WORD_S
            while True:
                reading = asyncio.ensure_future(stream.read())
                await asyncio.wait({reading, closing}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    reading.cancel()
                    break  # silence, or we were told to go
                message = reading.result()
                if not isinstance(message, session_pb2.MasterMessage):
                    break
                worked = worked or any(order.HasField("welcome") for order in message.orders)
                patience = None
                self._feed(Received(number, message))
        except grpc.aio.AioRpcError as error:
            log.debug("no session with %s: %s %s", address, error.code().name, error.details())
        except tls.TlsError as error:
            log.warning("no session with %s: %s", address, error)
        finally:
            self._feed(SessionClosed(number))
            self.leader = ""
            closing.cancel()
            self._close.set()
            # Ended, not left to the garbage collector: it would destroy gRPC's task in the middle of a wait.
            self._waiting.put_nowait(None)
            if channel is not None:
                await channel.close()
        if worked:
            SESSIONS.inc()
        return worked or (bool(self._hint) and not hinted)  # two that name each other are not asked in a rush

    async def _outgoing(self) -> AsyncIterator[session_pb2.WorkerMessage]:
        """What waits, in messages of many events."""
        waiting = self._waiting
        event: session_pb2.WorkerEvent | None
        while (event := await waiting.get()) is not None:
            events = [event]
            while len(events) < MESSAGE_EVENTS and not waiting.empty():
                if (event := waiting.get_nowait()) is None:
                    return  # the session is closed: nobody reads these
                events.append(event)
            yield session_pb2.WorkerMessage(events=events)
