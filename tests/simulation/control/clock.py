"""Virtual time: a heap of things to happen. Equal seeds give equal histories, to the last event."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def after(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + delay, next(self._number), what))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Plays on until `done` or the time is up; True if done."""
        while self._heap and self._heap[0][0] <= until:
            at, _, what = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            what()
            if done():
                return True
        self.now = max(self.now, until)
        return done()
