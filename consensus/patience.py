"""How long one attempt to reach a peer may take.

Short, so that a peer behind a partition is tried again soon after it heals; longer after each attempt that ran out of
time, so that machines too busy for a quick handshake meet all the same instead of giving up for ever, each time a
little too early. Pure.
"""

from __future__ import annotations

FIRST_S = 1.0
MOST_S = 4.0
_GROWTH = 2.0
_GREETING = 2.0  # times as long: behind the connection comes a disk that remembers whom it met
_NEARLY = 0.9  # of the time: an attempt that took so much of it ran out of it


class Patience:
    """With one peer."""

    def __init__(self) -> None:
        self.seconds = FIRST_S

    @property
    def greeting_s(self) -> float:
        """How long one attempt may take until the peer has said who it is. Without a bound of its own such a call can
        wait for ever: seen when the process behind a connection died in this very moment."""
        return self.seconds * _GREETING

    def ended(self, took_s: float, *, met: bool) -> None:
        """An attempt is over. One that was refused sooner says nothing about how long it takes to be heard."""
        if met:
            self.seconds = FIRST_S
        elif took_s >= _NEARLY * self.seconds:
            self.seconds = min(MOST_S, self.seconds * _GROWTH)
