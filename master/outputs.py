"""Tells running reduces where map outputs lie, little by little, as maps complete (S4-18).

A subscription is a worker's stream that runs reduces of a step. What it is sent are positions of the step's log of
completions and losses, so a worker that comes back, to this leader or the next, goes on where it was. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from master import orders
from master.sessions import Session, Sessions
from master.task_table import TaskTable
from mr.rpc.session_pb2 import Order


class Feeds:
    """Who wants the outputs of which step, and who has not heard of the newest."""

    def __init__(self, table: TaskTable, sessions: Sessions) -> None:
        self._table = table
        self._sessions = sessions
        self._subscribers: dict[tuple[str, int], set[int]] = {}
        self._behind: set[tuple[str, int]] = set()

    def subscribe(self, session: Session, job: str, step: int) -> None:
        """The session runs a reduce of that step."""
        self._subscribers.setdefault((job, step), set()).add(session.number)
        session.cursors.setdefault((job, step), 0)
        self._behind.add((job, step))

    def changed(self, job: str, step: int) -> None:
        """A map output of the step appeared or was lost."""
        if (job, step) in self._subscribers:
            self._behind.add((job, step))

    def forget(self, job: str) -> None:
        """The job has ended."""
        for key in [key for key in self._subscribers if key[0] == job]:
            del self._subscribers[key]
            self._behind.discard(key)

    def news(self) -> Iterator[tuple[Session, list[Order]]]:
        """What each subscriber has not been sent yet. Equal positions share one message."""
        behind, self._behind = self._behind, set()
        for name, step in sorted(behind):
            job = self._table.live.get(name)
            if job is None:
                continue
            length = len(job.steps[step].log)
            made: dict[int, list[Order]] = {}
            numbers = self._subscribers[name, step]
            for number in sorted(numbers):
                session = self._sessions.by_number.get(number)
                if session is None:
                    numbers.discard(number)
                    continue
                start = min(session.cursors.get((name, step), 0), length)
                if start == length:
                    continue
                if start not in made:
                    made[start] = orders.outputs(job, step, start, self._addresses(), self._table.index)
                session.cursors[name, step] = length
                yield session, made[start]

    def _addresses(self) -> dict[str, str]:
        return {worker.id: worker.attach.address for worker in self._table.workers.values()}
