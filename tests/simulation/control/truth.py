"""What really happened, kept apart from the table: an audit of every applied entry against the promises.

It believes events only as far as the workers' own doings bear them out: which map versions a reduce merged is told by
the simulated task, not by the table.
"""

from __future__ import annotations

from collections import Counter

from master import events as ev
from master.ids import CLEANUP, COMMIT, MAP, REDUCE, AttemptKey, TaskKey
from master.jobs import CANCELLED, FAILED, SUCCEEDED
from master.task_table import TaskTable
from mr.rpc import job_pb2


class Truth:
    def __init__(self) -> None:
        self.winners: dict[TaskKey, AttemptKey] = {}
        self.running: set[AttemptKey] = set()
        self.ended: dict[str, int] = {}
        self.merged: dict[AttemptKey, dict[int, int]] = {}  # reduce attempt to map and the version it merged
        self.counters: dict[AttemptKey, dict[str, int]] = {}
        self.cancelled: set[str] = set()  # whose cancel was acknowledged
        self.accepted: set[str] = set()  # whose submit was acknowledged
        self.counts: Counter[str] = Counter()

    def applied(self, table: TaskTable, results: list[list[ev.Event]]) -> None:
        for events in results:
            for event in events:
                self._follow(table, event)

    def _follow(self, table: TaskTable, event: ev.Event) -> None:
        self.counts[event.type] += 1
        match event:
            case ev.AttemptStarted(attempt=key, backup=backup):
                self.counts["backup"] += backup
                assert key.task not in self.winners, f"T4: {key} started though its task is completed"
                assert key.job not in self.ended or key.kind == CLEANUP, f"T8: {key} started after the end"
                self.running.add(key)
                assert sum(k.task == key.task for k in self.running) <= 2, f"T5: {key}"
            case ev.TaskCompleted(attempt=key):
                self._completed(table, key)
            case ev.AttemptFailed(attempt=key) | ev.AttemptEnded(attempt=key):
                assert key in self.running, f"{key} ended, but did not run"
                self.counts["stale inputs"] += event.cause == job_pb2.STALE_INPUTS
                self.running.discard(key)
            case ev.MapOutputLost(attempt=key):
                assert self.winners.pop(key.task) == key, f"T3: {key} lost, but was no winner"
                assert key.kind == MAP, "T3: only map outputs are ever lost"
                assert key.job not in self.ended, f"T8: {key} lost after the end"
            case ev.JobFinished(job=job, state=state):
                assert job not in self.ended, f"T8: {job} ended twice"
                self.ended[job] = state
                self.running = {k for k in self.running if k.job != job}
                self._finished(table, job, state)
            case _:
                pass

    def _completed(self, table: TaskTable, key: AttemptKey) -> None:
        assert key.task not in self.winners, f"T1: {key} won after {self.winners.get(key.task)}"
        assert key in self.running, f"T2: {key} won without being assigned"
        state = self.ended.get(key.job)
        assert state is None or key.kind == CLEANUP, f"T7: {key} won after the end"
        self.running.discard(key)
        self.winners[key.task] = key
        if key.kind == REDUCE:
            merged = self.merged[key]
            maps = (
                TaskKey(key.job, key.step, MAP, i)
                for i in range(table.jobs[key.job].steps[key.step].maps.count)
            )
            now = {task.index: self.winners[task].number if task in self.winners else 0 for task in maps}
            assert merged == now, f"T9: {key} merged {merged}, the winners are {now}"

    def _finished(self, table: TaskTable, job: str, state: int) -> None:
        record = table.jobs[job]
        assert state in (SUCCEEDED, FAILED, CANCELLED)
        if state == SUCCEEDED:
            assert job not in self.cancelled, f"T7: {job} succeeded after its cancel was acknowledged"
            for step, kind, tasks in record.all_tasks():
                if kind in (MAP, REDUCE, COMMIT):
                    done = sum((k.step, k.kind) == (step, kind) for k in self.winners if k.job == job)
                    assert done == tasks.count, f"{job}: {done} of {tasks.count} tasks of kind {kind}"
        total: Counter[str] = Counter()
        for key in self.winners.values():
            if key.job == job and key.kind in (MAP, REDUCE):
                total.update(self.counters[key])
        assert dict(total) == {n: v for n, v in record.counters.items() if v}, f"T11: {job}"
