"""Messages that come twice, late, or whose answer is lost, inside the processes of a node (FT6, FT7).

Connections are encrypted and authenticated, so nobody in between can repeat a message. Here the ends do it: one of n
messages is sent again at once or after a while, and one of n calls is carried out and never answered. How many of n is
a rule in the node's page, and each message that was met counts there.

What opens or ends a session (Attach, Welcome, Redirect, Refuse, drains) is never repeated: it belongs to the stream as
its first or last word. What only the order of a stream gives a meaning (map outputs, discards) is repeated at once, but
not late.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Any

from jepsen_like.control import Control
from jepsen_like.failpoints import resolve
from jepsen_like.points import MASTER

REPORTS, ORDERS, CALLS, LOST_CALLS, LOST_ORDERS = range(5)
_WRITES = ("Submit", "Cancel", "Retry", "SetWorker", "KillAttempt")
_EVENTS = frozenset({"heartbeat", "completed", "failed", "fetch_failed", "output_lost", "suspicion"})
_ORDERS = frozenset({"assign", "cancel", "settled", "outputs", "discard"})
_LATE_ORDERS = frozenset({"assign", "cancel", "settled"})
_UNANSWERED_S = 30.0  # longer than any client waits for one try


class Dice:
    """Every n-th message of each kind, by the rules in the page."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._seen: Counter[int] = Counter()

    def late_s(self, number: int) -> float:
        """How late messages of this kind are met now."""
        return self._control.rule_of(number).late_s

    def fall(self, number: int) -> float | None:
        """How late this message is to be met, in seconds; None: not this one."""
        rule = self._control.rule_of(number)
        if not rule.every:
            return None
        self._seen[number] += 1
        if self._seen[number] % rule.every:
            return None
        self._control.meet(number)
        return rule.late_s


class Repeatable:
    """The part of a message that may come again."""

    def __init__(self, field: str, kinds: frozenset[str]) -> None:
        self._field, self._kinds = field, kinds

    def of(self, message: Any) -> Any:
        """A copy with nothing else in it; None when nothing is left."""
        copy = type(message)()
        copy.CopyFrom(message)
        kept = [item for item in getattr(copy, self._field) if item.WhichOneof("kind") in self._kinds]
        copy.ClearField(self._field)
        getattr(copy, self._field).extend(kept)
        return copy if kept else None


def install(control: Control, role: str) -> None:
    """Wraps the ends of the streams, and of the calls, in this process."""
    dice = Dice(control)
    if role == MASTER:
        _wrap_orders(dice)
        for name in _WRITES:
            _wrap_call(name, dice)
    else:
        _wrap_reports(dice)


def _wrap_reports(dice: Dice) -> None:
    """What a worker says on its stream."""
    owner, name, inner = resolve("worker.session:Sessions._outgoing")
    repeatable = Repeatable("events", _EVENTS)
    waiting: deque[tuple[float, Any]] = deque()  # over the end of a session, too

    @functools.wraps(inner)
    async def outgoing(self: Any) -> AsyncIterator[Any]:
        async for message in inner(self):
            yield message
            copy = repeatable.of(message)
            if copy is not None and (late_s := dice.fall(REPORTS)) is not None:
                waiting.append((time.monotonic() + late_s, copy))
            while waiting and waiting[0][0] <= time.monotonic():
                yield waiting.popleft()[1]

    setattr(owner, name, outgoing)


def _wrap_orders(dice: Dice) -> None:
    """What a leader says to a worker."""
    owner, name, inner = resolve("master.streams:Link.messages")
    at_once, later = Repeatable("orders", _ORDERS), Repeatable("orders", _LATE_ORDERS)

    @functools.wraps(inner)
    async def messages(self: Any) -> AsyncIterator[Any]:
        async for message in inner(self):
            settles = any(order.HasField("settled") for order in message.orders)
            if settles and dice.fall(LOST_ORDERS) is not None:
                return  # the stream breaks, and this is lost with it
            yield message
            copy = (later if dice.late_s(ORDERS) else at_once).of(message)
            if copy is None or (late_s := dice.fall(ORDERS)) is None:
                continue
            if late_s:
                asyncio.get_running_loop().call_later(late_s, self.put, copy)
            else:
                yield copy

    setattr(owner, name, messages)


def _wrap_call(method: str, dice: Dice) -> None:
    """A call that changes something: carried out twice, again later, or not answered."""
    owner, name, inner = resolve(f"master.service:ClusterService.{method}")
    later: set[asyncio.Task[None]] = set()

    @functools.wraps(inner)
    async def call(self: Any, request: Any, context: Any) -> Any:
        caller = _Caller(context)
        again = type(request)()
        again.CopyFrom(request)
        answer = await inner(self, request, context)
        if (late_s := dice.fall(CALLS)) is not None:
            task = asyncio.get_running_loop().create_task(_again(inner, self, again, caller, late_s))
            later.add(task)
            task.add_done_callback(later.discard)
            if not late_s:
                await asyncio.wait({task})
        if dice.fall(LOST_CALLS) is not None:
            await asyncio.sleep(_UNANSWERED_S)
        return answer

    setattr(owner, name, call)


async def _again(inner: Any, service: Any, request: Any, caller: _Caller, late_s: float) -> None:
    await asyncio.sleep(late_s)
    try:
        await inner(service, request, caller)
    except Exception:  # noqa: S110  nobody hears what becomes of a repeated call; the checkers see what it did
        pass


class _Caller:
    """Who called, also after the call has ended: as much of a context as the services ask for."""

    def __init__(self, context: Any) -> None:
        self._auth, self._metadata, self._peer = (
            context.auth_context(),
            context.invocation_metadata(),
            context.peer(),
        )

    def auth_context(self) -> Any:
        """See grpc.ServicerContext."""
        return self._auth

    def invocation_metadata(self) -> Any:
        """See grpc.ServicerContext."""
        return self._metadata

    def peer(self) -> str:
        """See grpc.ServicerContext."""
        return str(self._peer)
