"""What the leader wants in the log: queued, one batch under way at a time, nothing decided twice. Pure.

A wish is a command and what it is about. As long as a wish about a thing is queued or under way, another one about the
same is not taken. When the fate of a batch is unknown, its wishes stay asked, and an empty entry is proposed behind
it: once that is applied, the batch has been applied too or never will be. Then what may still matter is asked again;
a report that is applied a second time is refused by the table and does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from master.ids import AttemptKey
from master.leader_events import Outcome, Propose
from mr.rpc.table_pb2 import Command

RETRY_S = 0.1  # before another proposal, after one that came to nothing

About: TypeAlias = tuple[str | int | AttemptKey, ...]
Wish: TypeAlias = tuple[About, Command]


class Proposals:
    """The queue before consensus. `batch` is the most commands in one proposal."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._number = 0
        self._queue: list[Wish] = []
        self._asked: set[About] = set()
        self._under_way: tuple[int, list[Wish]] | None = None
        self._uncertain: list[Wish] = []
        self._unsure = False
        self._not_before_s = 0.0

    def ask(self, about: About, command: Command) -> None:
        """Queues a decision, once until its proposal is settled."""
        if about not in self._asked:
            self._asked.add(about)
            self._queue.append((about, command))

    def asked(self, kind: str) -> int:
        """How many wishes of a kind are queued or under way."""
        return sum(about[0] == kind for about in self._asked)

    def __len__(self) -> int:
        return len(self._queue)

    def settle(self, number: int, outcome: Outcome, now_s: float) -> bool:
        """A proposal came to an end; False if it was none of the present."""
        if self._under_way is None or number != self._under_way[0]:
            return False
        wishes, self._under_way = self._under_way[1], None
        match outcome:
            case Outcome.UNKNOWN:
                self._uncertain += wishes
                self._unsure = True
                self._not_before_s = now_s + RETRY_S
            case Outcome.NOT_APPLIED:
                self._queue = wishes + self._queue
                self._not_before_s = now_s + RETRY_S
            case Outcome.APPLIED:
                self._queue = self._uncertain + self._queue
                self._uncertain, self._unsure = [], False
        self._asked = {about for about, _ in (*self._queue, *self._uncertain)}
        return True

    def next(self, now_s: float, plan: Callable[[list[Command]], list[Command]]) -> Propose | None:
        """The next proposal, if it is time for one. `plan` adds to a batch, knowing what stands before."""
        if self._under_way is not None or now_s < self._not_before_s:
            return None
        wishes: list[Wish] = []
        commands: list[Command] = []
        if not self._unsure:  # else an empty entry first, to learn what became of the last
            wishes, self._queue = self._queue[: self._batch], self._queue[self._batch :]
            commands = [command for _, command in wishes]
            commands += plan(commands)
        if not commands and not self._unsure:
            return None
        self._number += 1
        self._under_way = (self._number, wishes)
        return Propose(self._number, commands)
