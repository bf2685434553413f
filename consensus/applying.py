"""What is committed, on its way to the state machine: one queue, in log order, from the tick thread to the
loop.

Entries, results, leadership, snapshot marks and restores travel in the same queue, so that each happens
exactly where it belongs in the log: a snapshot taken at a mark ends at the last entry applied before it,
and a leadership callback sees every entry committed before it. Only the loop touches the state machine, and
only the loop resolves waiters.

`apply` must not raise. If it does, the same entry would raise on every replica and after every restart: the
process ends and says which entry it was (hazards 20, 21), and `refuse_entry` skips that one everywhere.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from consensus.fence import Entry
from consensus.replica import CommitUnknown, ConsensusError, Leadership, RefusedToStart, StateMachine

REGULAR = 0  # the first byte of a command that is the state machine's


class Waiter(Protocol):
    """Who waits for an outcome: an asyncio future, or the simulation's stand-in."""

    def done(self) -> bool:
        """Somebody resolved it already, or it was given up."""

    def set_result(self, result: Any, /) -> None:
        """The outcome."""

    def set_exception(self, exception: Any, /) -> None:
        """Why there is none."""


@dataclass(slots=True)
class Proposal:
    """A command on its way into the log."""

    command: bytes
    waiter: Any


@dataclass(slots=True)
class Batch:
    """Committed entries, and who waits for some of them (by index)."""

    entries: Sequence[Entry]
    waiters: Mapping[int, Waiter]


@dataclass(slots=True)
class Confirmed:
    """These waiters have what they waited for: `value`, or the applied index when that is None."""

    waiters: Sequence[Waiter]
    value: Any


@dataclass(slots=True)
class Failed:
    """These waiters get an error."""

    waiters: Sequence[Waiter]
    error: ConsensusError


@dataclass(slots=True)
class Lead:
    """Leadership changed, as this replica knows it."""

    leadership: Leadership


@dataclass(slots=True)
class Mark:
    """Take a snapshot here. `waiter`, if any, learns where it ends."""

    waiter: Waiter | None


@dataclass(slots=True)
class Restore:
    """The stored snapshot takes the place of the whole state."""

    index: int
    term: int


Item = Batch | Confirmed | Failed | Lead | Mark | Restore


class Poisoned(Exception):
    """`apply` raised. The text names the entry and how to skip it."""


def digest(command: bytes) -> str:
    """How `--refuse-entry` names a command: SHA-256 in hex."""
    return hashlib.sha256(command).hexdigest()


class Applier:
    """`put` is called by the tick thread; everything else by the loop.

    `wake` (any thread) sees to it that `run` is called soon. `keep(index, term, serialise, waiter)` stores
    a snapshot elsewhere. `fetch()` reads the stored one elsewhere and gives it to `loaded`.
    """

    def __init__(
        self,
        machine: StateMachine,
        *,
        applied: int,
        term: int,
        refuse: tuple[int, str] | None,
        wake: Callable[[], None],
        keep: Callable[[int, int, Callable[[], bytes], Waiter | None], None],
        fetch: Callable[[], None],
    ) -> None:
        self.applied = applied
        self.leadership = Leadership(term=0, leader=None, mine=False)
        self.callbacks: list[Callable[[Leadership], None]] = []
        self.term = term
        self._machine = machine
        self._refuse = refuse
        self._wake, self._keep, self._fetch = wake, keep, fetch
        self._queue: deque[Item] = deque()
        self._batch: Batch | None = None  # begun and not finished
        self._position = 0
        self._fetching = False

    def put(self, item: Item) -> None:
        """Any thread."""
        self._queue.append(item)
        self._wake()

    def run(self, enough: Callable[[], bool]) -> bool:
        """Works until the queue is empty (False) or `enough` says so (True: call again). Raises Poisoned."""
        while not self._fetching:
            if self._batch is not None:
                if not self._apply_some(enough):
                    return True
            elif self._queue:
                self._take(self._queue.popleft())
            else:
                return False
        return False

    def _take(self, item: Item) -> None:
        match item:
            case Batch():
                self._batch, self._position = item, 0
            case Confirmed(waiters, value):
                for waiter in waiters:
                    _resolve(waiter, self.applied if value is None else value)
            case Failed(waiters, error):
                for waiter in waiters:
                    _fail(waiter, error)
            case Lead(leadership):
                self.leadership = leadership
                for callback in self.callbacks:
                    callback(leadership)
            case Mark(waiter):
                self._keep(self.applied, self.term, self._machine.snapshot(), waiter)
            case Restore(index, _):
                if index > self.applied:
                    self._fetching = True
                    self._fetch()

    def _apply_some(self, enough: Callable[[], bool]) -> bool:
        """Applies entries of the current batch; True when it is finished."""
        batch = self._batch
        assert batch is not None
        entries, waiters = batch.entries, batch.waiters
        while self._position < len(entries):
            command, index, term = entries[self._position]
            self._position += 1
            self._apply(command, index, term, waiters.get(index) if waiters else None)
            if enough() and self._position < len(entries):
                return False
        self._batch = None
        return True

    def _apply(self, command: bytes, index: int, term: int, waiter: Waiter | None) -> None:
        if index <= self.applied:  # a newer snapshot than the one announced was there already
            if waiter is not None:
                _fail(waiter, CommitUnknown("a snapshot went past the entry"))
            return
        result: Any = None
        if command[0] == REGULAR:
            body = command[1:]
            if not self._refused(index, body):
                try:
                    result = self._machine.apply(index, body)
                except RefusedToStart:  # the entry is sound, and of a newer release: nothing is to be skipped
                    raise
                except Exception as error:
                    raise Poisoned(
                        f"applying entry {index} failed: {error!r}. Every replica fails at this entry. "
                        f"To skip it, start all of them with --refuse-entry {index}:{digest(body)}"
                    ) from error
        self.applied, self.term = index, term
        if waiter is not None:
            _resolve(waiter, result)

    def _refused(self, index: int, body: bytes) -> bool:
        return (
            self._refuse is not None and self._refuse[0] == index and digest(body).startswith(self._refuse[1])
        )

    def loaded(self, index: int, term: int, data: bytes) -> None:
        """The snapshot that `fetch` read."""
        self._machine.restore(data)
        self.applied, self.term = index, term
        self._fetching = False
        self._wake()


def _resolve(waiter: Waiter, result: Any) -> None:
    if not waiter.done():
        waiter.set_result(result)


def _fail(waiter: Waiter, error: ConsensusError) -> None:
    if not waiter.done():
        waiter.set_exception(error)
