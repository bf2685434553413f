"""What may leave, and when: nothing before what it rests on is on disk. Pure but for the `transmit` it is given.

The journal numbers its changes. A message rests on the newest change of term, vote or right to vote; a positive answer
to an append also on the entries it acknowledges. Messages wait in order; a positive answer that waits for its entries
is one record, because a newer one says all that an older one would. So a slow disk delays acknowledgements and votes,
and no heartbeat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from consensus.wire import Message

Transmit = Callable[[str, Message, bool], bool]
"""(peer, message, bulk) -> False when it could not be queued."""


class Outbox:
    """Between a node and its link. `silence_s`: a leader hears from us at least this often, disk or no disk."""

    def __init__(self, journal: Any, transmit: Transmit, silence_s: float) -> None:
        self._journal, self._transmit, self._silence_s = journal, transmit, silence_s
        self._rests_on = 0  # the journal's number of the last change that every message rests on
        self._held: deque[tuple[int, str, Message, bool]] = deque()
        self._owed: tuple[str, Message] | None = None  # an answer that is true in memory only
        self._answered_at = float("-inf")

    @property
    def holds(self) -> bool:
        """Messages wait for the disk."""
        return bool(self._held)

    def rest_on_what_was_written(self) -> None:
        """From now on every message waits for what the journal has been given so far."""
        self._rests_on = self._journal.written

    def send(self, peer: str, message: Message, bulk: bool = False) -> bool:
        """Sends at once if what it rests on is on disk, else as soon as it is."""
        if self._held or self._journal.durable < self._rests_on:
            self._held.append((self._rests_on, peer, message, bulk))
            return True
        return self._transmit(peer, message, bulk)

    def answer(self, peer: str, answer: Message, now: float, *, entries: bool, urgent: bool) -> None:
        """Answers an append that brought `entries` or none: what is on disk now, and the rest when it is."""
        durable = self._journal.durable_index
        if not answer["success"]:
            self._owed = None
        elif answer["next_node_idx"] - 1 > durable:
            self._owed = (peer, answer)
            if entries and not urgent and now - self._answered_at < self._silence_s:
                return
            answer = answer | {"next_node_idx": durable + 1}
        self._answered_at = now
        self.send(peer, answer)

    def owe(self, peer: str, answer: Message) -> None:
        """Sends a positive answer as soon as it is true on disk."""
        self._owed = (peer, answer)

    def release(self, term: int) -> None:
        """Something became durable: what waited for it leaves, unless it was said in a term that is over."""
        while self._held and self._held[0][0] <= self._journal.durable:
            _, peer, message, bulk = self._held.popleft()
            self._transmit(peer, message, bulk)
        if self._owed is not None and self._owed[1]["next_node_idx"] - 1 <= self._journal.durable_index:
            (peer, answer), self._owed = self._owed, None
            if answer["term"] == term:
                self.send(peer, answer)
