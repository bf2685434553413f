"""What the leader concludes: stragglers, bad sources, bad links, retention; and what it proposes, once."""

from __future__ import annotations

import pytest

from master import retention
from master.fetches import Fetches, Report, Verdict
from master.ids import MAP, REDUCE, AttemptKey, TaskKey, key_of, task_named
from master.leader_config import LeaderConfig
from master.leader_events import Outcome
from master.proposals import Proposals
from master.stragglers import Durations, adaptive_deadline_ms, may_back_up, slow
from master.task_table import TaskTable
from mr.rpc import job_pb2, table_pb2
from mr.rpc.table_pb2 import Command


def a(index: int, kind: int = MAP, number: int = 1) -> AttemptKey:
    return AttemptKey("j", 0, kind, index, number)


def durations(*seconds: float) -> Durations:
    made = Durations()
    for value in seconds:
        made.add(value)
    return made


STRAGGLERS = [
    # promise, durations of the finished, (elapsed, fraction) of the running, which are slow
    ("nothing is known after two tasks", (10, 10), {1: (100, 0)}, []),
    ("ten times the median is slow", (10, 11, 10, 9), {1: (100, 0), 2: (5, 0)}, [1]),
    ("within the noise is not", (1, 5, 20, 40, 60), {1: (60, 0)}, []),
    ("one outlier hides no straggler", (10, 10, 10, 10, 500), {1: (100, 0)}, [1]),
    ("what is nearly done is left alone", (10, 10, 10), {1: (100, 0.99), 2: (100, 0.3)}, [2]),
    ("the slowest first", (10, 10, 10), {1: (50, 0.5), 2: (50, 0.1), 3: (60, 0)}, [3, 2, 1]),
    ("short tasks are never backed up", (0.1, 0.1, 0.1), {1: (1.5, 0)}, []),
]


@pytest.mark.parametrize(
    ("promise", "finished", "running", "found"), STRAGGLERS, ids=[s[0] for s in STRAGGLERS]
)
def test_stragglers(
    promise: str, finished: tuple[float, ...], running: dict[int, tuple[float, float]], found: list[int]
) -> None:
    elapsed = {a(i): seconds for i, (seconds, _) in running.items()}
    fractions = {a(i): fraction for i, (_, fraction) in running.items() if fraction}
    made = slow(elapsed, fractions, durations(*finished), factor=1.5, least_s=2.0)
    assert [key.index for key in made] == found


def test_durations_forget_the_oldest() -> None:
    made = durations(*[1.0] * 1001, *[9.0] * 1001)
    assert (made.median, made.longest, len(made)) == (9.0, 9.0, 1001)


@pytest.mark.parametrize(
    ("finished", "deadline_ms"),
    [(None, 0), ((5.0,) * 19, 0), ((5.0,) * 20, 600_000), ((100.0,) * 20, 2_000_000)],
)
def test_adaptive_deadline_follows_what_was_seen(
    finished: tuple[float, ...] | None, deadline_ms: int
) -> None:
    """S3-19."""
    assert adaptive_deadline_ms(durations(*finished) if finished else None) == deadline_ms


@pytest.mark.parametrize(
    ("running", "doubled", "more"), [(1, 0, 1), (1, 1, 0), (9, 0, 1), (50, 2, 3), (50, 5, 0)]
)
def test_backups_are_a_share_of_what_runs(running: int, doubled: int, more: int) -> None:
    """T5, P-01: one at least, a tenth at most."""
    assert may_back_up(running, doubled, 0.1) == more


F, L, C = job_pb2.FETCH_FAILED, job_pb2.OUTPUT_LOST, job_pb2.CORRUPT_DATA
WAIT, LOSE, MOVE = Verdict.WAIT, Verdict.LOSE_OUTPUT, Verdict.MOVE_REDUCE
FETCHES = [
    # promise, reports (seconds, reduce, by, cause, movable), verdicts
    ("one failure means nothing", [(0, 1, "w1", F, True)], [WAIT]),
    (
        "one worker again and again: its reduce is moved (FD7)",
        [(0, 1, "w1", F, True)] * 3,
        [WAIT, WAIT, MOVE],
    ),
    ("two workers: the source is bad (FD6)", [(0, 1, "w1", F, True), (1, 2, "w2", F, True)], [WAIT, LOSE]),
    (
        "two reduces on one worker are one witness",
        [(0, 1, "w1", F, True), (1, 2, "w1", F, True)],
        [WAIT, WAIT],
    ),
    ("the source's own word is enough", [(0, 1, "w1", L, True)], [LOSE]),
    ("damaged twice, fetched anew: on the source's disk (FD2)", [(0, 1, "w1", C, True)] * 2, [WAIT, LOSE]),
    ("nowhere to move to: the map runs again", [(0, 1, "w1", F, False)] * 3, [WAIT, WAIT, LOSE]),
    ("old failures do not count", [(0, 1, "w1", F, True), (99, 2, "w2", F, True)], [WAIT, WAIT]),
    (
        "a moved reduce that fails again is a second witness",
        [(0, 1, "w1", F, True)] * 3 + [(1, 1, "w2", F, True)],
        [WAIT, WAIT, MOVE, LOSE],
    ),
]


@pytest.mark.parametrize(("promise", "said", "verdicts"), FETCHES, ids=[f[0] for f in FETCHES])
def test_fetches(
    promise: str, said: list[tuple[float, int, str, int, bool]], verdicts: list[Verdict]
) -> None:
    fetches = Fetches(patience=3, memory_s=60)
    made = [
        fetches.report(Report(a(0), a(reduce, REDUCE), by, cause), at, movable=movable)
        for at, reduce, by, cause, movable in said
    ]
    assert made == verdicts


def wish(proposals: Proposals, name: str) -> None:
    proposals.ask((name,), Command(take_office=table_pb2.TakeOffice(leader=name)))


def names(proposals: Proposals, now_s: float = 0.0) -> list[str] | None:
    made = proposals.next(now_s, lambda before: [])
    return [command.take_office.leader for command in made.commands] if made else None


def test_one_proposal_at_a_time_and_nothing_twice() -> None:
    proposals = Proposals(batch=10)
    wish(proposals, "x")
    wish(proposals, "x")
    assert names(proposals) == ["x"]
    wish(proposals, "x")  # still under way
    wish(proposals, "y")
    assert names(proposals) is None
    proposals.settle(1, Outcome.APPLIED, 0.0)
    wish(proposals, "x")  # settled: it may be asked again
    assert names(proposals) == ["y", "x"]


def test_a_refused_proposal_is_made_again_after_a_pause() -> None:
    proposals = Proposals(batch=10)
    wish(proposals, "x")
    names(proposals)
    proposals.settle(1, Outcome.NOT_APPLIED, 5.0)
    assert names(proposals, 5.01) is None
    assert names(proposals, 5.2) == ["x"]


def test_an_unknown_fate_is_cleared_up_by_an_empty_entry() -> None:
    """FT7: until then what was asked stays asked; after it, it is asked again, and the table refuses a repetition."""
    proposals = Proposals(batch=10)
    wish(proposals, "x")
    names(proposals)
    proposals.settle(1, Outcome.UNKNOWN, 0.0)
    wish(proposals, "x")
    wish(proposals, "y")
    assert names(proposals, 1.0) == []
    proposals.settle(2, Outcome.UNKNOWN, 1.0)
    assert names(proposals, 2.0) == []
    proposals.settle(3, Outcome.APPLIED, 2.0)
    assert names(proposals, 2.0) == ["x", "y"]


def test_an_answer_to_an_old_proposal_changes_nothing() -> None:
    proposals = Proposals(batch=10)
    wish(proposals, "x")
    names(proposals)
    assert not proposals.settle(7, Outcome.APPLIED, 0.0)
    assert names(proposals) is None


def finished(count: int, at_ms: int = 1000) -> TaskTable:
    table = TaskTable()
    for number in range(count):
        spec = job_pb2.JobSpec(job_id=f"j{number}", maps=10)
        spec.steps.add(reduces=0)
        spec.output.path = f"/out/{number}"
        said = [
            Command(submit=table_pb2.SubmitJob(spec=spec)),
            Command(expire=table_pb2.ExpireJob(job=spec.job_id)),
        ]
        table.apply(number + 1, table_pb2.Entry(term=1, now_ms=at_ms + number, commands=said))
        table.jobs[spec.job_id].cleanup_given_up = True
    return table


@pytest.mark.parametrize(
    ("kept", "forgotten"),
    [
        (LeaderConfig(id="a"), []),
        (LeaderConfig(id="a", retention_jobs=3), ["j0", "j1"]),
        (LeaderConfig(id="a", retention_tasks=20), ["j0", "j1", "j2"]),
        (LeaderConfig(id="a", retention_s=0.002), ["j0", "j1"]),
    ],
)
def test_the_oldest_finished_jobs_become_history(kept: LeaderConfig, forgotten: list[str]) -> None:
    """T15: by number, by tasks, by age."""
    assert retention.to_forget(finished(5), kept) == forgotten


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("m-7", TaskKey("j", 0, MAP, 7)),
        ("m-00007", TaskKey("j", 0, MAP, 7)),
        ("2.r-3", TaskKey("j", 2, REDUCE, 3)),
        ("commit", TaskKey("j", 0, job_pb2.COMMIT, 0)),
        ("x-1", None),
        ("m-", None),
        ("m-x", None),
        (".m-1", None),
        ("", None),
    ],
)
def test_task_names(text: str, task: TaskKey | None) -> None:
    assert task_named("j", text) == task
    if task is not None:
        assert task_named("j", task.text) == task
        attempt = AttemptKey(*task, 3)
        assert key_of(attempt.proto()) == attempt
