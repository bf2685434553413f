"""What the leader keeps an eye on: how long attempts run, who has waited for long, which workers do badly.

Nothing of it is replicated: a new leader starts with clean eyes. Times are the leader's monotonic seconds. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from master.columns import IDLE
from master.events import AttemptFailed
from master.fetches import Fetches
from master.ids import MAP, REDUCE, AttemptKey
from master.jobs import PUBLISHING, Job
from master.leader_config import LeaderConfig
from master.planner import avoided
from master.stragglers import Durations, adaptive_deadline_ms, may_back_up, slow, without_backup
from master.task_table import TaskTable
from mr.rpc import job_pb2, session_pb2, table_pb2

WATCH_S = 0.2  # between looks at leases and deadlines
TIDY_S = 5.0  # between looks at what may be forgotten
CLOCK_S = 1.0  # of a deadline, a failover loses no more
BACKUPS_S = 0.5  # between looks for stragglers
SUSPICIONS_S = 30.0  # how long a suspicion counts

# How many strikes a failure is against its worker. What is the user's own is none.
STRIKES: dict[int, int] = {
    job_pb2.DISK_FULL: 3,
    job_pb2.DISK_ERROR: 2,
    job_pb2.CODE_UNAVAILABLE: 1,
    job_pb2.INTERNAL: 1,
}

Group = tuple[str, int, int]  # job, step, kind


@dataclass(slots=True)
class Watched:
    """The running attempts of one kind in one step, and how long finished ones took."""

    started: dict[AttemptKey, float] = field(default_factory=dict)
    durations: Durations = field(default_factory=Durations)


class Attention:
    """The leader's eyes."""

    def __init__(self, table: TaskTable, config: LeaderConfig) -> None:
        self._table = table
        self._config = config
        self.fetches = Fetches(config.fetch_patience, config.fetch_memory_s)
        self.suspicions: dict[tuple[str, str], tuple[float, session_pb2.Suspicion]] = {}  # (by, of)
        self.groups: dict[Group, Watched] = {}
        self.last_done_s: dict[str, float] = {}  # job to when a task of it was last completed
        self._maps_done: dict[tuple[str, int], float] = {}
        self._deadlines: dict[str, float] = {}
        self._served: dict[str, float] = {}
        self._strikes: dict[str, list[tuple[float, int]]] = {}
        self._watched_s = self._backups_s = self._tidied_s = self._logged_s = float("-inf")

    def due(self, now_s: float) -> bool:
        """Whether it is time to look again."""
        if now_s - self._watched_s < WATCH_S:
            return False
        self._watched_s = now_s
        return True

    def tidy_due(self, now_s: float) -> bool:
        """Whether it is time to drop what is too old."""
        if now_s - self._tidied_s < TIDY_S:
            return False
        self._tidied_s = now_s
        self.fetches.forget(now_s)
        return True

    def logged(self, now_s: float) -> None:
        """An entry was applied, and with it the time."""
        self._logged_s = now_s

    def clock_due(self, now_s: float) -> bool:
        """Whether the log must hear how late it is: the next leader counts a deadline from what entries say, and a job
        with one long task makes none."""
        return bool(self._deadlines) and now_s - self._logged_s >= CLOCK_S

    # -- jobs --

    def job_seen(self, job: Job, now_s: float) -> None:
        """A live job, new or found at taking office. Its deadline counts time with a leader only."""
        self._served.setdefault(job.id, now_s)
        if job.spec.options.deadline_ms and job.id not in self._deadlines:
            used_ms = self._table.uptime_ms - job.submitted_uptime_ms
            self._deadlines[job.id] = now_s + (job.spec.options.deadline_ms - used_ms) / 1000

    def job_over(self, job: str) -> None:
        """Nothing of it matters any more."""
        for kept in (self._served, self._deadlines, self.last_done_s):
            kept.pop(job, None)
        for group in [group for group in self.groups if group[0] == job]:
            del self.groups[group]
        for step in [step for step in self._maps_done if step[0] == job]:
            del self._maps_done[step]

    def expired(self, now_s: float) -> list[str]:
        """Jobs whose deadline has passed."""
        return [
            name
            for name, at in self._deadlines.items()
            if at <= now_s and name in self._table.live and self._table.live[name].state != PUBLISHING
        ]

    def served(self, jobs: set[str], now_s: float) -> None:
        """These jobs got a slot."""
        for job in jobs:
            self._served.pop(job, None)  # so that those longest without a slot stand first
            self._served[job] = now_s

    def starved(self, job: str, now_s: float) -> float:
        """Seconds without a new slot, if they are too many; else 0 (T13)."""
        waited_s = now_s - self._served.get(job, now_s)
        return waited_s if waited_s > self._config.starved_s else 0.0

    def starving(self, now_s: float, most: int) -> list[str]:
        """Up to `most` jobs without a new slot for too long, longest first."""
        waiting = itertools.takewhile(lambda job: self.starved(job, now_s) > 0, self._served)
        return list(itertools.islice(waiting, most))

    # -- attempts --

    def started(self, key: AttemptKey, now_s: float) -> None:
        """An attempt runs, as far as this leader knows since now."""
        self.groups.setdefault((key.job, key.step, key.kind), Watched()).started[key] = now_s

    def maps_done(self, job: str, step: int, now_s: float) -> None:
        """From here on a reduce of the step works, it no longer waits."""
        self._maps_done[job, step] = now_s

    def ended(self, key: AttemptKey, now_s: float, *, won: bool) -> None:
        """An attempt is over; a winner's time is a sample."""
        group = self.groups.get((key.job, key.step, key.kind))
        if group is None:
            return
        since = group.started.pop(key, None)
        if won:
            self.last_done_s[key.job] = now_s
            if since is not None:
                group.durations.add(now_s - self._work_began(key, since))

    def elapsed(self, key: AttemptKey, now_s: float) -> float:
        """Seconds that it has worked; 0 when it is not known to run."""
        group = self.groups.get((key.job, key.step, key.kind))
        since = group.started.get(key) if group else None
        return now_s - self._work_began(key, since) if since is not None else 0.0

    def _work_began(self, key: AttemptKey, since: float) -> float:
        if key.kind == REDUCE:
            return max(since, self._maps_done.get((key.job, key.step), since))
        return since

    def deadline_ms(self, job: Job, key: AttemptKey) -> int:
        """After how long an attempt gives itself up (S3-19); 0 = never."""
        if key.kind not in (MAP, REDUCE):
            return 0
        fixed = job.spec.options.task_deadline_ms
        group = self.groups.get((key.job, key.step, key.kind))
        return fixed or adaptive_deadline_ms(group.durations if group else None)

    def stragglers(
        self, job: Job, progress: Mapping[AttemptKey, session_pb2.Progress], now_s: float
    ) -> list[AttemptKey]:
        """Running attempts that are far slower than their kind, slowest first."""
        found = []
        for kind in (MAP, REDUCE):
            group = self.groups.get((job.id, job.step, kind))
            if group is None or (kind == REDUCE and not job.current.maps.done):
                continue
            found += slow(
                {key: now_s - self._work_began(key, since) for key, since in group.started.items()},
                {key: progress[key].fraction for key in group.started if key in progress},
                group.durations,
                factor=self._config.backup_factor,
                least_s=self._config.backup_least_s,
            )
        return found

    def backups(
        self, spare: dict[str, int], progress: Mapping[AttemptKey, session_pb2.Progress], now_s: float
    ) -> list[table_pb2.AssignTask]:
        """Backup attempts for stragglers on workers with slots to spare, where nothing of the kind is idle."""
        if now_s - self._backups_s < BACKUPS_S:
            return []
        self._backups_s = now_s
        chosen: list[table_pb2.AssignTask] = []
        for job in self._table.live.values():
            if not spare:
                break
            if job.running and job.state != PUBLISHING and job.spec.options.speculate:
                chosen += self._backups_of(job, spare, progress, now_s)
        return chosen

    def _backups_of(
        self,
        job: Job,
        spare: dict[str, int],
        progress: Mapping[AttemptKey, session_pb2.Progress],
        now_s: float,
    ) -> Iterator[table_pb2.AssignTask]:
        allowed: dict[int, int] = {}
        for kind, tasks in ((MAP, job.current.maps), (REDUCE, job.current.reduces)):
            doubled = sum(len(attempts) > 1 for attempts in tasks.live.values())
            allowed[kind] = (
                0
                if tasks.in_state[IDLE]
                else may_back_up(len(tasks.live), doubled, self._config.backup_share)
            )
        for key in self.stragglers(job, progress, now_s):
            tasks = job.current.maps if key.kind == MAP else job.current.reduces
            if not allowed[key.kind] or not without_backup([key], tasks.live):
                continue
            runner = job.worker_of(tasks.live[key.index][0].life)
            barred = avoided(self._table, job, key.task, 0) | {runner}  # a backup need not be
            takers = [w for w in spare if w not in barred and self._takes(w, key.kind)]
            if not takers:
                continue
            taker = max(takers, key=lambda w: (spare[w], w))
            spare[taker] -= 1
            if not spare[taker]:
                del spare[taker]
            allowed[key.kind] -= 1
            yield table_pb2.AssignTask(
                attempt=key._replace(number=tasks.next_attempt[key.index] + 1).proto(),
                worker=taker,
                incarnation=self._table.workers[taker].incarnation,
                backup=True,
            )

    def _takes(self, worker: str, kind: int) -> bool:
        kinds = self._table.workers[worker].kinds
        return not kinds or kind in kinds

    # -- workers --

    def suspected(self, by: str, suspicion: session_pb2.Suspicion, now_s: float) -> None:
        """One worker can't reach another, or can again."""
        if suspicion.reachable:
            self.suspicions.pop((by, suspicion.worker), None)
        else:
            self.suspicions[by, suspicion.worker] = (now_s, suspicion)

    def unreachable(self, now_s: float) -> dict[str, set[str]]:
        """Worker to those that can't reach it, of late."""
        found: dict[str, set[str]] = {}
        for (by, of), (at, _) in self.suspicions.items():
            if now_s - at < SUSPICIONS_S:
                found.setdefault(of, set()).add(by)
        return found

    @staticmethod
    def blame(event: AttemptFailed) -> int:
        """How many strikes a failure is against its worker."""
        return STRIKES.get(event.cause, 0)

    def strike(self, worker: str, weight: int, now_s: float) -> bool:
        """Counts; True when the worker has had enough of them lately."""
        kept = [(at, w) for at, w in self._strikes.get(worker, []) if now_s - at < self._config.exclude_s]
        kept.append((now_s, weight))
        self._strikes[worker] = kept
        if sum(w for _, w in kept) < self._config.exclude_after:
            return False
        del self._strikes[worker]
        return True
