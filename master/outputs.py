"""Tells running reduces where map outputs lie, little by little, as maps complete (S4-18).

A subscription is a worker's stream that runs reduces of a step. What it is sent are positions of the step's log of
completions and losses, so a worker that comes back, to this leader or the next, goes on where it was. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from master import orders
from master.jobs import Job
from master.sessions import Session, Sessions
from master.task_table import TaskTable
from mr.rpc.session_pb2 import Order

Step: TypeAlias = tuple[str, int]

CHUNK = 2000  # map outputs in one order: some 100 KiB
AT_ONCE = 50  # subscribers that hear of every change
SENDS_A_SECOND = 1000  # of news about one step: with more of them each hears less often, in bigger pieces


class Feeds:
    """Who wants the outputs of which step, and who has not heard of the newest."""

    def __init__(self, table: TaskTable, sessions: Sessions) -> None:
        self._table = table
        self._sessions = sessions
        self._subscribers: dict[Step, set[int]] = {}
        self._behind: set[Step] = set()
        self._told_s: dict[Step, float] = {}
        self._chunks: dict[tuple[str, int, int], Order] = {}  # full pieces of a log, which never change

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
            self._told_s.pop(key, None)
        for piece in [piece for piece in self._chunks if piece[0] == job]:
            del self._chunks[piece]

    def news(self, now_s: float) -> Iterator[tuple[Session, list[Order]]]:
        """What each subscriber has not been sent yet, if it is time to tell."""
        if not self._behind:
            return
        addresses: dict[str, str] = {}
        for key in sorted(self._behind):
            job = self._table.live.get(key[0])
            if job is None:
                self._behind.discard(key)
                continue
            pause_s = (len(self._subscribers[key]) - AT_ONCE) / SENDS_A_SECOND
            if (
                pause_s > 0
                and now_s - self._told_s.get(key, float("-inf")) < pause_s
                and not job.steps[key[1]].maps.done
            ):
                continue
            self._behind.discard(key)
            self._told_s[key] = now_s
            if not addresses:
                addresses = {worker.id: worker.address for worker in self._table.workers.values()}
            yield from self._tell(job, key[1], addresses)

    def _tell(self, job: Job, step: int, addresses: dict[str, str]) -> Iterator[tuple[Session, list[Order]]]:
        """One step's news. Equal positions share their messages."""
        length, numbers = len(job.steps[step].log), self._subscribers[job.id, step]
        made: dict[int, list[Order]] = {}
        for number in sorted(numbers):
            session = self._sessions.by_number.get(number)
            if session is None:
                numbers.discard(number)
                continue
            start = min(session.cursors.get((job.id, step), 0), length)
            if start == length:
                continue
            if start not in made:
                made[start] = list(self._pieces(job, step, start, addresses))
            session.cursors[job.id, step] = length
            yield session, made[start]

    def _pieces(self, job: Job, step: int, start: int, addresses: dict[str, str]) -> Iterator[Order]:
        """The log from `start` on; its full pieces are made once for all who come."""
        length, index = len(job.steps[step].log), self._table.index
        while start < length:
            stop = min(start - start % CHUNK + CHUNK, length)
            if stop - start < CHUNK:
                yield orders.outputs(job, step, start, stop, addresses, index)
            else:
                piece = (job.id, step, start)
                if piece not in self._chunks:
                    self._chunks[piece] = orders.outputs(job, step, start, stop, addresses, index)
                yield self._chunks[piece]
            start = stop
