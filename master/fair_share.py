"""Whose turn it is: slots are shared equally between queues, then between users, then between jobs by priority.

Pure. A slot goes to the claim whose holder has the least for its weight; among equals the older job goes first. A job
that has had nothing for long goes before all others, once, so nobody starves (T13).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Claim:
    """One job that could use slots now. `wants` is how many, `running` how many it has."""

    job: str
    queue: str
    owner: str
    priority: int  # 0..100
    order: int  # of acceptance
    running: int
    wants: int
    starved_s: float = 0.0  # how long it has had no new slot, if that is too long

    @property
    def weight(self) -> float:
        """Priority 100 gets eleven times the share of priority 0."""
        return 1 + self.priority / 10


_Jobs: TypeAlias = list[tuple[float, float, int, Claim]]


def turns(
    claims: Iterable[Claim],
    slots: int,
    held_by_queue: dict[str, int],
    held_by_user: dict[tuple[str, str], int],
) -> list[str]:
    """The jobs that get the next `slots` slots, in turn. `held_…` count slots held now, by jobs that claim or not."""
    waiting: dict[str, dict[str, _Jobs]] = {}
    given: dict[str, int] = {}
    for claim in claims:
        heap = waiting.setdefault(claim.queue, {}).setdefault(claim.owner, [])
        heapq.heappush(heap, (-claim.starved_s, claim.running / claim.weight, claim.order, claim))
    # Users by (who of theirs starves most, slots held), queues by the same of their first user.
    users: dict[str, list[tuple[float, int, str]]] = {}
    for queue, owners in waiting.items():
        users[queue] = [(owners[o][0][0], held_by_user.get((queue, o), 0), o) for o in owners]
        heapq.heapify(users[queue])
    queues = [(users[queue][0][0], held_by_queue.get(queue, 0), queue) for queue in waiting]
    heapq.heapify(queues)
    result: list[str] = []
    while queues and len(result) < slots:
        _, queue_held, queue = heapq.heappop(queues)
        _, user_held, owner = heapq.heappop(users[queue])
        jobs = waiting[queue][owner]
        _, _, order, claim = heapq.heappop(jobs)
        result.append(claim.job)
        given[claim.job] = count = given.get(claim.job, 0) + 1
        if count < claim.wants:
            heapq.heappush(jobs, (0.0, (claim.running + count) / claim.weight, order, claim))
        if jobs:
            heapq.heappush(users[queue], (jobs[0][0], user_held + 1, owner))
        if users[queue]:
            heapq.heappush(queues, (users[queue][0][0], queue_held + 1, queue))
    return result
