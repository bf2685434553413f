"""When to stand for election and whether to help another: timers, pre-votes, and who still hears a leader. Pure.

A member stands only after a majority said that it would vote for it (pre-vote, thesis 9.6), and says so itself only
when it has lost the leader too: it was silent for the shortest election timeout, or its connection was reset.
"""

from __future__ import annotations

import random

from consensus.config import ReplicaConfig
from consensus.fence import Ballot, Voter


class Electing:
    """One member's patience. Times are its own monotonic seconds, given by the caller."""

    def __init__(self, config: ReplicaConfig, rng: random.Random, now: float) -> None:
        self.ballot = Ballot()
        self._config, self._rng = config, rng
        self._heard_at = float("-inf")  # when a leader of our term was last heard
        self._cut = False  # the connection to it broke since
        self._willing: set[str] | None = None  # who would vote for us; None while nobody was asked
        self._lost = 0  # elections without a winner, in a row
        self._planned = float("inf")  # when the driver promised to be back
        self._excused_until = float("-inf")
        self._excuse = (
            float("-inf"),
            float("-inf"),
        )  # for which quorum one was used, and until when it holds
        self.deadline = now + self.patience()

    def patience(self) -> float:
        """How long to wait for a leader, or for votes: longer after elections that nobody won, because then votes
        come late (slow disks) and a candidate must wait for them."""
        timing = self._config.timing
        factor = 2 ** min(max(self._lost - 2, 0), 3)
        return float(self._rng.uniform(timing.election_min_s, timing.election_max_s) * factor)

    def heard(self, now: float) -> None:
        """The leader of our term spoke."""
        self._heard_at, self.deadline = now, now + self.patience()
        self._cut, self._willing, self._lost = False, None, 0

    def postpone(self, now: float) -> None:
        """We voted for another, or left office: the next turn is somebody else's."""
        self.deadline = now + self.patience()

    def cut(self, leader: str, now: float) -> None:
        """The connection to the leader was reset. The survivors stand soon, each a little after the one before it,
        so that they do not split the votes."""
        self._cut = True
        timing = self._config.timing
        rank = [p for p in sorted(self._config.peers) if p != leader].index(self._config.id)
        self.deadline = min(self.deadline, now + timing.reset_step_s * (rank + self._rng.random() / 4))

    def wakes(self, now: float) -> None:
        """Were we not running ourselves (stopped, starved, swapped out)? Then silence proves nothing: what the others
        sent meanwhile is still on its way to us, and our answers to them. Two heartbeats are waited for."""
        beat = self._config.timing.heartbeat_s
        if now - self._planned > beat:
            self._excused_until = now + 2 * beat
            self.deadline = max(self.deadline, self._excused_until)

    def sleeps(self, until: float) -> None:
        """The driver comes back by then at the latest."""
        self._planned = until

    def lease_over(self, now: float, quorum_at: float) -> bool:
        """Must a leader give up whose newest confirmed round began at `quorum_at`? After a pause of its own it asks
        once more before it does; nothing rests on the lease alone."""
        if now - quorum_at <= self._config.timing.lease_s:
            return False
        if self._excuse[0] != quorum_at and now < self._excused_until:
            self._excuse = quorum_at, self._excused_until
        return self._excuse[0] != quorum_at or now >= self._excuse[1]

    def voter(self, term: int, *, votes: bool, leads: bool, knows_leader: bool, now: float) -> Voter:
        """What decides whether we help a candidate."""
        fresh = now - self._heard_at < self._config.timing.election_min_s
        alive = knows_leader and fresh and not self._cut
        return Voter(term=term, votes=votes, leads=leads, leader_alive=alive)

    def ask(self, now: float) -> bool:
        """Begins to ask who would vote for us. True when nobody needs to be asked."""
        self.deadline = now + self.patience()
        self._willing = {self._config.id}
        return self._config.majority == 1

    def would_vote(self, peer: str) -> bool:
        """`peer` would. True when that makes a majority."""
        if self._willing is None:
            return False
        self._willing.add(peer)
        return len(self._willing) >= self._config.majority

    def stand(self, term: int, now: float) -> None:
        """We stand in `term`, with our own vote."""
        self._willing = None
        self._lost += 1
        self.deadline = now + self.patience()
        self.ballot.count(term, self._config.id)

    def won(self) -> None:
        """We lead."""
        self._lost = 0
