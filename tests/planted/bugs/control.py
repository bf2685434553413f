"""Bugs of the task table and of the leader: what is assigned, accepted, lost, ended."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.planted.bug import QUIET, Bug, work

STORM = {"workers": 3, "lossy": False, "calm_s": 45.0, "registers": False, "scenes": "none"}
SHORT_LEASE = {"MR_MASTER__WORKER_LEASE": "5s"}
PACED = (work("long", 0, files=14, lines=20, reduces=2, map_s=1.0), work("wordcount", 1, files=6, map_s=0.5))
SLOW_REDUCES = (
    work("sort", 0, files=4, lines=40, reduces=3, key_s=0.12),
    work("sort", 1, files=4, lines=40, reduces=3, key_s=0.12),
)


def rerun_after_failover() -> None:
    """A new leader starts every unfinished step from its beginning."""
    from master.columns import COMPLETED
    from master.task_table import TaskTable

    take_office = TaskTable._take_office

    def again(self: Any, command: Any) -> Any:
        for job in self.live.values():
            step = job.current
            for index in range(step.maps.count):
                if step.maps.states[index] == COMPLETED and step.needs_map_outputs():
                    life = step.maps.winner_life[index]
                    number = step.maps.winner_attempt[index]
                    job.take_back_counters(step.maps.counters[index])
                    step.maps.lose(index)
                    step.log.add(index, number, life, lost=True)
                    step.digest = None
        return take_office(self, command)

    TaskTable._take_office = again  # type: ignore[method-assign]


def lost_output_ignored() -> None:
    """A dead worker's finished maps stay finished, and what cannot be fetched is never run again."""
    from master import worker_commands
    from master.events import Refused

    worker_commands._outputs_needed = lambda job, step: False
    worker_commands.lose_output = lambda table, command: [Refused("ignored")]


def stale_inputs_accepted() -> None:
    """A reduce is accepted whatever version of the maps it merged."""
    from master import attempt_commands

    complete = attempt_commands.complete

    def lenient(table: Any, command: Any) -> Any:
        key = attempt_commands.key_of(command.attempt)
        found = attempt_commands._live_attempt(table, key, command.worker, command.incarnation)
        if key.kind != attempt_commands.REDUCE or not isinstance(found, tuple):
            return complete(table, command)
        return attempt_commands._win(table, found[0], key, found[2], command.result, staged=True)

    attempt_commands.complete = lenient


def late_completion_accepted() -> None:
    """A map attempt that was given up is told that it won all the same when it reports."""
    from master import reports
    from master.ids import MAP

    has_won = reports.has_won
    reports.has_won = lambda desk, key, life: has_won(desk, key, life) or key.kind == MAP


def request_ids_ignored() -> None:
    """A request id is not remembered."""
    from master.task_table import TaskTable

    TaskTable.request_of = lambda self, request_id: None  # type: ignore[method-assign]


def cancel_lost_in_failover() -> None:
    """A cancel is answered at once and put into the log a moment later."""
    from master import events as ev
    from master import service
    from master.machine import AppliedEntry
    from mr.rpc.table_pb2 import CANCELLED

    commit = service.ClusterService._commit

    async def eager(self: Any, command: Any, *wanted: Any) -> Any:
        if not command.HasField("cancel"):
            return await commit(self, command, *wanted)

        async def later() -> None:
            await asyncio.sleep(2.0)
            await commit(self, command, *wanted)

        task = asyncio.create_task(later())
        task.add_done_callback(lambda done: done.exception())
        ended = ev.JobFinished(command.cancel.job, CANCELLED, "")
        return AppliedEntry(index=0, entry=self._driver.entry([command]), results=[[ended]]), ended

    service.ClusterService._commit = eager  # type: ignore[method-assign]


def counters_counted_twice() -> None:
    """The counters of the first winner are added twice."""
    from master.jobs import Job

    add = Job.add_counters

    def twice(self: Any, result: Any) -> bytes:
        if not self.counters:
            add(self, result)
        return add(self, result)

    Job.add_counters = twice  # type: ignore[method-assign]


def split_given_twice() -> None:
    """Map 1 gets the split of map 0."""
    from master import dispatch

    plan_loaded = dispatch.plan_loaded

    def doubled(desk: Any, event: Any) -> None:
        if len(event.plan.splits) > 1:
            event.plan.splits[1].CopyFrom(event.plan.splits[0])
        plan_loaded(desk, event)

    dispatch.plan_loaded = doubled


def cancelled_shown_as_succeeded() -> None:
    """Whoever asks is told SUCCEEDED of a cancelled job."""
    from master import views
    from mr.rpc import table_pb2

    job_status = views.job_status

    def flattering(*args: Any, **kwargs: Any) -> Any:
        status = job_status(*args, **kwargs)
        if status is not None and status.state == table_pb2.CANCELLED:
            status.state = table_pb2.SUCCEEDED
        return status

    views.job_status = flattering


def budget_of_two() -> None:
    """Two failures of the user's code fail a job, though four attempts are promised."""
    from master import attempt_commands

    why_hopeless = attempt_commands.why_hopeless

    def impatient(table: Any, job: Any, tasks: Any, key: Any, cause: int) -> str:
        if tasks.user_failures[key.index] >= 2:
            return f"{key.task.text} failed twice"
        return why_hopeless(table, job, tasks, key, cause)

    attempt_commands.why_hopeless = impatient


def cancel_taken_while_publishing() -> None:
    """A cancel ends a job also while its output is being published; whoever does that may be through already."""
    from master import attempt_commands, job_commands
    from master.events import Refused
    from master.ids import COMMIT, AttemptKey
    from master.jobs import CANCELLED, JOB_TRANSITIONS, PUBLISHING

    cancel = job_commands.cancel
    JOB_TRANSITIONS[PUBLISHING, "cancelled"] = CANCELLED  # type: ignore[index]

    def eager(table: Any, command: Any) -> Any:
        found = cancel(table, command)
        job = table.jobs.get(command.job)
        if job is not None and job.state == PUBLISHING and any(isinstance(one, Refused) for one in found):
            for live in tuple(job.commit.live.get(0, ())):
                key = AttemptKey(job.id, 0, COMMIT, 0, live.number)
                attempt_commands.end(table, job, job.commit, key, live)
            return job_commands.finish(table, job, "cancelled", "cancelled")
        return found

    job_commands.cancel = eager


def deadline_forgotten_in_failover() -> None:
    """A job's deadline is noted when it is accepted; one that runs when a leader takes office has none."""
    from master.attention import Attention
    from master.jobs import QUEUED

    seen = Attention.job_seen

    def job_seen(self: Any, job: Any, now_s: float) -> None:
        seen(self, job, now_s)
        if job.state != QUEUED:
            self._deadlines.pop(job.id, None)

    Attention.job_seen = job_seen  # type: ignore[method-assign]


def worker_taken_off_the_line() -> None:
    """The end of a worker's old stream ends the session that has replaced it."""
    from master.sessions import Sessions

    open_, close = Sessions.open, Sessions.close
    replaced_by: dict[int, str] = {}

    def opened(self: Any, number: int, attach: Any, now_s: float) -> Any:
        replaced = open_(self, number, attach, now_s)
        if replaced is not None:
            replaced_by[replaced.number] = attach.worker
        return replaced

    def closed(self: Any, number: int) -> Any:
        if number in replaced_by:
            self.by_worker.pop(replaced_by.pop(number), None)
        return close(self, number)

    Sessions.open, Sessions.close = opened, closed  # type: ignore[method-assign]


BUGS = [
    Bug(
        name="rerun-after-failover",
        breaks="T4",
        plant=rerun_after_failover,
        run={
            **STORM,
            "seconds": 14.0,
            "works": PACED,
            "script": ((4.0, "kill-leader", 1.0), (9.0, "kill-leader", 1.0)),
        },
    ),
    Bug(
        name="lost-output-ignored",
        breaks="T12",
        plant=lost_output_ignored,
        run={
            **STORM,
            "seconds": 12.0,
            "works": PACED,
            "script": ((4.0, "kill-worker", 1.0), (7.0, "kill-worker", 1.0)),
            "calm_s": 30.0,
        },
    ),
    Bug(
        name="stale-inputs-accepted",
        breaks="T9",
        plant=stale_inputs_accepted,
        run={
            **STORM,
            "seconds": 16.0,
            "works": SLOW_REDUCES,
            "script": ((4.0, "kill-worker", 0.5), (7.0, "kill-worker", 0.5), (10.0, "kill-worker", 0.5)),
        },
    ),
    Bug(
        name="late-completion-accepted",
        breaks="T1",
        plant=late_completion_accepted,
        run={
            **STORM,
            "seconds": 26.0,
            # so long that its maps still run when the one who slept comes back
            "works": (work("long", 0, files=30, lines=20, reduces=2, map_s=1.0),),
            "settings": SHORT_LEASE,
            "script": ((3.0, "zombie-worker", 9.0),),
        },
    ),
    Bug(
        name="request-ids-ignored",
        breaks="C10",
        plant=request_ids_ignored,
        run={**QUIET, "registers": True, "seconds": 16.0, "works": (work("tiny", 0, files=1, reduces=1),)},
    ),
    Bug(
        name="cancel-lost-in-failover",
        breaks="T7, C11",
        plant=cancel_lost_in_failover,
        run={
            **STORM,
            "seconds": 14.0,
            "works": (
                *(work("wordcount", n, at_s=2.0 * n, map_s=1.5, cancel_after_s=0.5) for n in range(5)),
                work("tiny", 9, files=1, reduces=1),  # one that ends by itself: else no output is judged
            ),
            "script": ((4.0, "kill-leader", 1.0), (8.0, "kill-leader", 1.0)),
        },
    ),
    Bug(name="counters-counted-twice", breaks="T11", plant=counters_counted_twice, run=QUIET),
    Bug(name="split-given-twice", breaks="D1", plant=split_given_twice, run=QUIET),
    Bug(
        name="cancelled-shown-as-succeeded",
        breaks="T7, T14",
        plant=cancelled_shown_as_succeeded,
        run={**QUIET, "works": (work("wordcount", 0), work("wordcount", 1, map_s=2.0, cancel_after_s=0.5))},
    ),
    Bug(
        name="budget-of-two",
        breaks="T6",
        plant=budget_of_two,
        run={**QUIET, "works": (work("flaky", 0, files=2, reduces=1), work("wordcount", 1))},
    ),
    Bug(
        name="cancel-taken-while-publishing",
        breaks="T7, T8, D5",
        plant=cancel_taken_while_publishing,
        run={
            **QUIET,
            "seconds": 22.0,
            # many parts: so long does a publication take that some cancel meets it on a quick machine too
            "works": (
                work("sort", 90, at_s=0.0),
                *(
                    work(
                        "wordcount", n, files=2, reduces=12, at_s=1.2 * n, cancel_after_s=0.0, regretted=True
                    )
                    for n in range(16)
                ),
            ),
        },
    ),
    Bug(
        name="deadline-forgotten-in-failover",
        breaks="T6, T12",
        plant=deadline_forgotten_in_failover,
        run={
            **STORM,
            "seconds": 20.0,
            "works": (work("wordcount", 0),),
            "scenes": "late",
            "script": tuple((2.5 + 2.5 * n, "kill-leader", 0.5) for n in range(6)),
            "calm_s": 25.0,
        },
    ),
    Bug(
        name="worker-taken-off-the-line",
        breaks="T12",
        plant=worker_taken_off_the_line,
        run={
            **STORM,
            "seconds": 35.0,
            "works": PACED,
            # a worker gives up a stream soon, and many times: about one in four meets a master that still has it
            "settings": {"MR_MASTER__WORKER_HEARTBEAT": "0.3s"},
            "script": tuple((1.0 + 3.0 * n, "worker-one-way", 2.0) for n in range(11)),
        },
    ),
]
