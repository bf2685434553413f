"""Policies: from a view of free slots and ready tasks to a plan. A plan binds nobody until it is committed.

Pure. `ready` comes in the order in which jobs take turns and tasks are numbered; a policy decides who goes where, and
may leave a task for later. To add a policy, write a class and put it into `POLICIES`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from master.ids import MAP, REDUCE, TaskKey


@dataclass(frozen=True, slots=True)
class FreeWorker:
    """A worker with slots to fill. `runs` counts what it runs, by job and kind; only placement rules look at it."""

    id: str
    host: str
    free: int
    kinds: frozenset[int] = frozenset()  # that it takes; empty = all
    runs: Mapping[tuple[str, int], int] = field(default_factory=dict)


class ReadyTask(NamedTuple):
    """A task that may be assigned. `hosts` hold its input, `avoid` are workers where it failed or must not run."""

    task: TaskKey
    hosts: tuple[str, ...] = ()
    avoid: frozenset[str] = frozenset()


class Placement(NamedTuple):
    """One line of a plan."""

    task: TaskKey
    worker: str


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All that a policy may know. `dealt_last` is the worker that got the last card; "" at the start."""

    workers: tuple[FreeWorker, ...]
    ready: tuple[ReadyTask, ...]
    dealt_last: str = ""
    allows: Callable[[FreeWorker, TaskKey, Mapping[tuple[str, str, int], int]], bool] | None = None


class Policy(Protocol):
    """How tasks are spread over workers."""

    eager_reduces: bool  # whether reduces are offered from the start, not only after slow start

    def plan(self, view: ClusterView) -> list[Placement]:
        """A task at most once, a worker at most `free` times."""


class Slots:
    """Free slots while a plan is made: the emptiest worker first, without walking all of them for each task."""

    def __init__(self, view: ClusterView) -> None:
        self._workers = {worker.id: worker for worker in view.workers}
        self._left = {worker.id: worker.free for worker in view.workers if worker.free > 0}
        self._heap = [(-left, worker) for worker, left in self._left.items()]
        heapq.heapify(self._heap)
        self._allows = view.allows
        self._placed: dict[tuple[str, str, int], int] = {}  # (worker, job, kind) in this plan
        self.by_host: dict[str, list[str]] = {}
        for worker in view.workers:
            self.by_host.setdefault(worker.host, []).append(worker.id)

    @property
    def any(self) -> bool:
        """Whether a slot is left anywhere."""
        return bool(self._left)

    def fits(self, worker: str, ready: ReadyTask) -> bool:
        """Whether the worker has a slot left and may take the task."""
        if worker not in self._left or worker in ready.avoid:
            return False
        known = self._workers[worker]
        if known.kinds and ready.task.kind not in known.kinds:
            return False
        return self._allows is None or self._allows(known, ready.task, self._placed)

    def take(self, worker: str, ready: ReadyTask) -> Placement:
        """One slot less."""
        left = self._left[worker] - 1
        if left:
            self._left[worker] = left
            heapq.heappush(self._heap, (-left, worker))
        else:
            del self._left[worker]
        if self._allows is not None:
            key = (worker, ready.task.job, ready.task.kind)
            self._placed[key] = self._placed.get(key, 0) + 1
        return Placement(ready.task, worker)

    def emptiest(self, ready: ReadyTask) -> str | None:
        """The worker with most slots left that fits; the first by id among equals."""
        passed, found = [], None
        while self._heap:
            entry = heapq.heappop(self._heap)
            if self._left.get(entry[1]) != -entry[0]:
                continue  # outdated: the worker has been given something since
            passed.append(entry)
            if self.fits(entry[1], ready):
                found = entry[1]
                break
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found

    def holder(self, ready: ReadyTask) -> str | None:
        """A worker on a host that holds the task's input, if one fits."""
        for host in ready.hosts:
            for worker in self.by_host.get(host, ()):
                if self.fits(worker, ready):
                    return worker
        return None


class Locality:
    """First come, first served, but a worker that already holds the input goes first (P-11)."""

    eager_reduces = False

    def plan(self, view: ClusterView) -> list[Placement]:
        """Local placements first, then each task to the emptiest worker."""
        slots, plan = Slots(view), []
        rest = []
        for ready in view.ready:
            worker = slots.holder(ready) if ready.hosts else None
            if worker:
                plan.append(slots.take(worker, ready))
            else:
                rest.append(ready)
        for ready in rest:
            if not slots.any:
                break
            worker = slots.emptiest(ready)
            if worker:
                plan.append(slots.take(worker, ready))
        return plan


class Deal:
    """Like cards: one task to each worker in turn, by id, going on where the last plan stopped (S1-15)."""

    eager_reduces = False

    def plan(self, view: ClusterView) -> list[Placement]:
        """The next task to the next worker that has room for it."""
        slots, plan = Slots(view), []
        ring = sorted(worker.id for worker in view.workers)
        last = view.dealt_last
        for ready in view.ready:
            start = next((i for i, worker in enumerate(ring) if worker > last), 0)
            turn = next((w for w in ring[start:] + ring[:start] if slots.fits(w, ready)), None)
            if turn:
                plan.append(slots.take(turn, ready))
                last = turn
        return plan


class Pairwise:
    """Idle machines get maps and reduces in pairs: a map here, a reduce there, as long as there are both (S1-16)."""

    eager_reduces = True

    def plan(self, view: ClusterView) -> list[Placement]:
        """Workers by id; each free slot takes the kind that is behind, maps before reduces."""
        slots, plan = Slots(view), []
        waiting = {
            MAP: [r for r in view.ready if r.task.kind != REDUCE],
            REDUCE: [r for r in view.ready if r.task.kind == REDUCE],
        }
        placed = {MAP: 0, REDUCE: 0}
        for worker in sorted(view.workers, key=lambda w: w.id):
            for _ in range(worker.free):
                order = (MAP, REDUCE) if placed[MAP] <= placed[REDUCE] else (REDUCE, MAP)
                for kind in order:
                    ready = next((r for r in waiting[kind] if slots.fits(worker.id, r)), None)
                    if ready:
                        waiting[kind].remove(ready)
                        plan.append(slots.take(worker.id, ready))
                        placed[kind] += 1
                        break
        return plan


POLICIES: dict[str, type[Policy]] = {"locality": Locality, "deal": Deal, "pairwise": Pairwise}


def spread_kinds(worker: FreeWorker, task: TaskKey, placed: Mapping[tuple[str, str, int], int]) -> bool:
    """A worker never runs maps and reduces of one job at the same time (S1-17)."""
    if task.kind not in (MAP, REDUCE):
        return True
    other = REDUCE if task.kind == MAP else MAP
    return not worker.runs.get((task.job, other)) and not placed.get((worker.id, task.job, other))


PLACEMENTS: dict[str, Callable[[FreeWorker, TaskKey, Mapping[tuple[str, str, int], int]], bool] | None] = {
    "": None,
    "spread-kinds": spread_kinds,
}


def round_robin(turns: Iterable[str], queues: Mapping[str, list[ReadyTask]]) -> list[ReadyTask]:
    """Ready tasks in the order of the jobs' turns, each job's own tasks in order."""
    position: dict[str, int] = {}
    result = []
    for job in turns:
        at = position.get(job, 0)
        if at < len(queues[job]):
            result.append(queues[job][at])
            position[job] = at + 1
    return result
