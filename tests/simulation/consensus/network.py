"""Links that delay, drop, repeat, reorder and break, on virtual time.

tcp      in order; what was under way when a session broke is gone
stale    the same, but an old session's frames still arrive after a new one stands
reorder  any order
dup      any order, and one frame in seven arrives twice
drop     one frame in twenty is lost
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

MODES = ("tcp", "stale", "reorder", "dup", "drop")
SILENCE_S = 2.0  # after this long without a byte a session is given up (keepalive)


class Network:
    """Every pair has one session; each direction may be stalled. `peers` are told on_up and on_down.

    `slow` names kinds of messages of which a share comes late: (share, seconds at most). `twice` those of which a
    share comes again, in whatever network."""

    def __init__(
        self,
        mode: str,
        members: list[str],
        rng: random.Random,
        *,
        now: Callable[[], float],
        at: Callable[[float, Callable[[], None]], None],
        peers: dict[str, Any],
        slow: Mapping[str, tuple[float, float]],
        twice: Mapping[str, tuple[float, float]],
    ) -> None:
        self.mode, self.members, self.rng = mode, members, rng
        self.slow, self.twice = slow, twice
        self.now, self.at, self.peers = now, at, peers
        self.standing: dict[tuple[str, str], bool] = {}
        self.session: dict[tuple[str, str], int] = {}
        self.stalled: dict[tuple[str, str], float] = {}
        self.unsettled: dict[
            tuple[str, str], float
        ] = {}  # until when a stall, or what follows of it, may strike
        self.arrival: dict[tuple[str, str], float] = {}
        self.calm = False
        self.sent = 0

    @property
    def forgets_old_sessions(self) -> bool:
        """What was under way in a session that broke never arrives."""
        return self.mode == "tcp"

    def outlives(self, life: int, now: int) -> bool:
        """A message to one life of a process arrives in another."""
        return life == now or self.mode == "stale"

    @staticmethod
    def pair(a: str, b: str) -> tuple[str, str]:
        return (a, b) if a < b else (b, a)

    def send(self, a: str, b: str, message: Any, deliver: Callable[[], None]) -> bool:
        """Queues a message from a to b; False when no session stands."""
        pair = self.pair(a, b)
        if not self.standing.get(pair):
            return False
        rng, way = self.rng, (a, b)
        self.sent += 1
        delay = rng.expovariate(200.0)
        if not self.calm and rng.random() < 0.02:
            delay += rng.uniform(0, 1.0)
        if message["type"] in self.slow and not self.calm:
            share, longest = self.slow[message["type"]]
            if rng.random() < share:
                delay += rng.uniform(0, longest)
        when = max(self.now() + delay, self.stalled.get(way, 0.0) + delay)
        if self.mode in ("tcp", "stale"):
            when = self.arrival[way] = max(when, self.arrival.get(way, 0.0) + 1e-6)
        if self.mode == "drop" and not self.calm and rng.random() < 0.05:
            return True
        session = self.session[pair]
        self.at(when - self.now(), lambda: self._arrive(pair, session, deliver))
        if self.mode == "dup" and rng.random() < 0.15:
            again = when - self.now() + rng.uniform(0, 1.5)
            self.at(again, lambda: self._arrive(pair, session, deliver))
        share, longest = self.twice.get(message["type"], (0.0, 0.0))
        if share and not self.calm and rng.random() < share:
            again = when - self.now() + rng.uniform(0, longest)
            self.at(again, lambda: self._arrive(pair, session, deliver))
        return True

    def _arrive(self, pair: tuple[str, str], session: int, deliver: Callable[[], None]) -> None:
        if self.forgets_old_sessions and session != self.session[pair]:
            return
        if self.standing.get(pair):
            deliver()

    def connect(self, a: str, b: str) -> None:
        """A session stands if both live and neither way is stalled."""
        pair = self.pair(a, b)
        if self.standing.get(pair) or not (self.peers[a].alive and self.peers[b].alive):
            return
        if max(self.stalled.get((a, b), 0.0), self.stalled.get((b, a), 0.0)) > self.now():
            return
        self.standing[pair] = True
        self.session[pair] = self.session.get(pair, 0) + 1
        self.arrival.pop((a, b), None)
        self.arrival.pop((b, a), None)
        for here, there in ((a, b), (b, a)):
            self.peers[here].on_up(there)

    def reset(self, a: str, b: str) -> None:
        """The session breaks; both ends notice."""
        pair = self.pair(a, b)
        if not self.standing.get(pair):
            return
        self.standing[pair] = False
        for here, there in ((a, b), (b, a)):
            if self.peers[here].alive:
                self.peers[here].on_down(there)

    def stall(self, a: str, b: str, duration: float) -> None:
        """Nothing goes from a to b for a while; if that lasts, the session is given up."""
        self.stalled[a, b] = self.unsettled[a, b] = self.now() + duration
        if duration > SILENCE_S:
            given_up = SILENCE_S * self.rng.uniform(1, 1.2)  # perhaps when it is over already
            self.unsettled[a, b] = self.now() + max(duration, given_up)
            self.at(given_up, lambda: self.reset(a, b))

    def heal(self) -> None:
        self.stalled.clear()
        self.calm = True
