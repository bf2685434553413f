"""Proposals on their way into the log and out of it: the queue, and who waits for which entry. Bounded in both.

The queue is filled by the loop and emptied by the tick thread; everything else belongs to the tick thread. A waiter is
bound to an index *and* a term: only the entry that was proposed resolves it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from consensus.applying import Proposal
from consensus.config import Limits
from consensus.core import REGULAR
from consensus.fence import Entry


class Proposals:
    """Of one member. `taken_bytes` counts what has left the queue, ever."""

    def __init__(self, limits: Limits) -> None:
        self.taken_bytes = 0
        self._limits = limits
        self._queue: deque[Proposal] = deque()
        self._waiting: dict[int, tuple[int, Any, int]] = {}  # index -> (term, waiter, bytes)
        self._open_bytes = 0  # of entries that are not committed

    def __len__(self) -> int:
        return len(self._queue)

    def append(self, proposal: Proposal) -> None:
        """Queues one. Any thread."""
        self._queue.append(proposal)

    def withdraw(self, proposal: Proposal) -> bool:
        """Takes one back. False when it is in the log already, or on its way there. Any thread."""
        try:
            self._queue.remove(proposal)
        except (ValueError, IndexError):  # the latter when the other thread takes from it meanwhile
            return False
        return True

    def take(self, journal: Any, term: int, commit: int) -> None:
        """Moves what is queued into the log, as entries of one append, as far as the limits allow."""
        limits, index, size = self._limits, journal[-1][1], 0
        while self._queue and size < limits.append_bytes and self._open_bytes < limits.uncommitted_bytes:
            if index - commit >= limits.uncommitted_entries:
                return
            try:
                proposal = self._queue.popleft()
            except IndexError:
                return  # withdrawn meanwhile
            index += 1
            length = len(proposal.command)
            journal.add(REGULAR + proposal.command, index, term)
            self._waiting[index] = (term, proposal.waiter, length)
            self.taken_bytes += length
            self._open_bytes += length
            size += length

    def refuse(self) -> list[Any]:
        """Empties the queue; returns who waited."""
        refused = []
        while self._queue:
            try:
                proposal = self._queue.popleft()
            except IndexError:
                break
            self.taken_bytes += len(proposal.command)
            refused.append(proposal.waiter)
        return refused

    def claim(self, entries: Sequence[Entry]) -> dict[int, Any]:
        """Who waits for these committed entries, by index."""
        claimed: dict[int, Any] = {}
        if self._waiting:
            for _, index, term in entries:
                expected = self._waiting.pop(index, None)
                if expected is not None:
                    assert expected[0] == term, "a leader's own entry was replaced while it led"
                    claimed[index] = expected[1]
                    self._open_bytes -= expected[2]
        return claimed

    def forget(self) -> list[Any]:
        """Leadership is lost: who waits for entries that are in the log and not committed."""
        doubtful = [waiter for _, waiter, _ in self._waiting.values()]
        self._waiting.clear()
        self._open_bytes = 0
        return doubtful
