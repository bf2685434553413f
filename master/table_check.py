"""The invariants of the task table, written once: run after every step in tests and after every restore.

Cited by their ids: T1 one winner, T5 one lease, T8 terminal, T10 conservation, T11 counters, T15 bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from master.columns import COMPLETED, IDLE, IN_PROGRESS, Tasks
from master.ids import CLEANUP, COMMIT, MAP, REDUCE, AttemptKey
from master.jobs import FAILED, HISTORY_LENGTH, PUBLISHING, QUEUED, SUCCEEDED, TERMINAL, Job
from master.workers import LOST

if TYPE_CHECKING:
    from master.task_table import TaskTable


def check(table: TaskTable) -> None:
    """Raises AssertionError naming the first broken invariant."""
    running: set[tuple[str, str, AttemptKey]] = set()
    for job in table.jobs.values():
        running |= _check_job(job)
    listed = {(w.id, w.incarnation, key) for w in table.workers.values() for key in w.running}
    assert listed == running, f"workers and tasks disagree on what runs: {listed ^ running}"
    for worker in table.workers.values():
        assert worker.state != LOST or not worker.running, f"{worker.id} is lost and runs"
    assert list(table.live) == [job.id for job in table.jobs.values() if not job.terminal], "live jobs"
    assert table.outputs == {job.spec.output.path: job.id for job in table.live.values()}, "output places"
    assert table.live_requests == {j.request_id: j.id for j in table.live.values() if j.request_id}, (
        "requests"
    )
    assert not table.jobs.keys() & table.ended.keys(), "a job both kept and forgotten"


def _check_job(job: Job) -> set[tuple[str, str, AttemptKey]]:
    running: set[tuple[str, str, AttemptKey]] = set()
    for number, step in enumerate(job.steps):
        for kind, tasks in ((MAP, step.maps), (REDUCE, step.reduces)):
            _check_tasks(tasks, f"{job.id} step {number} kind {kind}")
            assert number <= job.step or tasks.in_state[IDLE] == tasks.count, (
                f"{job.id}: step {number} too early"
            )
            running |= _running(job, number, kind, tasks)
        assert step.digest is None or step.digest == step.maps.winners_digest(), f"{job.id}: stale digest"
        if not job.terminal:
            _check_log(job, number)
    for kind, tasks in ((COMMIT, job.commit), (CLEANUP, job.cleanup)):
        _check_tasks(tasks, f"{job.id} kind {kind}")
        running |= _running(job, 0, kind, tasks)
    assert job.running == len(running), f"{job.id}: running count"
    assert len(job.history) <= HISTORY_LENGTH, f"{job.id}: T15 history"
    assert (job.state in TERMINAL) == job.terminal, job.id
    if job.state == QUEUED:
        assert not job.attempts, f"{job.id}: queued with attempts"
    if job.state in (PUBLISHING, SUCCEEDED):
        assert job.step == len(job.steps) - 1, f"{job.id}: published early"
        assert all(step.done for step in job.steps[-1:]), f"{job.id}: T9 published with tasks open"
    if job.state == FAILED:
        assert job.reason, f"{job.id}: T8 failed without a reason"
    if not job.terminal:
        _check_counters(job)
    return running


def _check_tasks(tasks: Tasks, name: str) -> None:
    assert [tasks.states.count(s) for s in (IDLE, IN_PROGRESS, COMPLETED)] == tasks.in_state, f"{name}: T10"
    assert sum(tasks.in_state) == tasks.count, f"{name}: T10 conservation"
    in_progress = {i for i, state in enumerate(tasks.states) if state == IN_PROGRESS}
    assert in_progress == tasks.live.keys(), f"{name}: in progress without attempts"
    winners = [bool(number) for number in tasks.winner_attempt]
    assert winners == [state == COMPLETED for state in tasks.states], f"{name}: T1 completed without a winner"
    for index, attempts in tasks.live.items():
        numbers = {live.number for live in attempts}
        assert len(numbers) == len(attempts) <= 2, f"{name} {index}: T5"
        assert max(numbers) <= tasks.next_attempt[index], f"{name} {index}: attempt numbers"
        assert len({live.life for live in attempts}) == len(attempts), (
            f"{name} {index}: a backup beside itself"
        )
    first = tasks.states.find(IDLE)
    assert first < 0 or tasks.lowest_idle <= first, f"{name}: an idle task is hidden"


def _running(job: Job, step: int, kind: int, tasks: Tasks) -> set[tuple[str, str, AttemptKey]]:
    return {
        (*job.lives[live.life], AttemptKey(job.id, step, kind, index, live.number))
        for index, attempts in tasks.live.items()
        for live in attempts
    }


def _check_log(job: Job, number: int) -> None:
    step = job.steps[number]
    winners: dict[int, tuple[int, int]] = {}
    for index, attempt, life, lost in step.log.read(0, len(step.log)):
        if lost:
            assert winners.pop(index, None) == (attempt, life), f"{job.id}: lost what was not there"
        else:
            assert index not in winners, f"{job.id}: T1 two winners of map {index}"
            winners[index] = (attempt, life)
    if step.reduces.count:
        held = {
            i: (number, step.maps.winner_life[i])
            for i, number in enumerate(step.maps.winner_attempt)
            if number
        }
        assert winners == held, f"{job.id}: the log of outputs disagrees with the winners"


def _check_counters(job: Job) -> None:
    assert len(job.counter_names) == len(set(job.counter_names)), f"{job.id}: counter names"
    assert set(job.counters) == set(job.counter_names), f"{job.id}: T11 counters without a name"
