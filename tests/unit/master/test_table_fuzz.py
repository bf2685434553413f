"""Whatever decodes as an Entry is applied without an exception, leaves a sound table, and equally on every replica."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from master.task_table import TaskTable
from mr.rpc import job_pb2, table_pb2
from mr.rpc.table_pb2 import Command

jobs = st.sampled_from(["j1", "j2", "", "no/id"])
workers = st.sampled_from(["w1", "w2", ""])
lives = st.sampled_from(["1", "2", ""])
small = st.integers(0, 3)
wild = st.integers(0, 2**32 - 1)
numbers = st.one_of(small, wild)
counters = st.dictionaries(
    st.sampled_from(["mr:bytes_in", "u:x", ""]), st.integers(-(2**63), 2**63 - 1), max_size=3
)


@st.composite
def attempts(draw: st.DrawFn) -> job_pb2.AttemptId:
    made = job_pb2.AttemptId(number=draw(st.one_of(st.integers(0, 4), wild)))
    made.task.job, made.task.step = draw(jobs), draw(numbers)
    made.task.kind = draw(st.sampled_from([0, 1, 2, 3, 4, 7, 99]))
    made.task.index = draw(numbers)
    return made


@st.composite
def specs(draw: st.DrawFn) -> job_pb2.JobSpec:
    spec = job_pb2.JobSpec(job_id=draw(jobs), maps=draw(st.one_of(small, st.just(2**32 - 1))))
    for _ in range(draw(st.integers(0, 2))):
        spec.steps.add(reduces=draw(st.one_of(small, st.just(2**32 - 1))))
    spec.output.path = draw(st.sampled_from(["/a", "/b"]))
    spec.options.max_attempts, spec.options.priority = draw(numbers), draw(numbers)
    return spec


@st.composite
def results(draw: st.DrawFn) -> job_pb2.TaskResult:
    made = job_pb2.TaskResult(counters=draw(counters), consumed_digest=draw(st.binary(max_size=4)))
    made.partition_bytes.extend(draw(st.lists(st.integers(0, 2**64 - 1), max_size=3)))
    made.partition_records.extend(draw(st.lists(st.integers(0, 2**64 - 1), max_size=3)))
    made.file.name = draw(st.sampled_from(["", "f"]))
    return made


@st.composite
def commands(draw: st.DrawFn) -> Command:
    attempt, worker, life = draw(attempts()), draw(workers), draw(lives)
    failure = job_pb2.Failure(message=draw(st.text(max_size=5)))
    failure.cause = draw(st.sampled_from([*job_pb2.Cause.values(), 77]))
    state = draw(st.sampled_from([*table_pb2.WorkerState.values(), 9]))
    request = draw(st.sampled_from(["", "r1", "r2"]))
    return draw(
        st.sampled_from(
            [
                Command(),
                Command(take_office=table_pb2.TakeOffice(leader=worker)),
                Command(submit=table_pb2.SubmitJob(spec=draw(specs()), request_id=request)),
                Command(cancel=table_pb2.CancelJob(job=draw(jobs))),
                Command(retry=table_pb2.RetryJob(job=draw(jobs), request_id=request)),
                Command(expire=table_pb2.ExpireJob(job=draw(jobs))),
                Command(forget_jobs=table_pb2.ForgetJobs(jobs=[draw(jobs)])),
                Command(attach=table_pb2.AttachWorker(worker=worker, incarnation=life, slots=draw(numbers))),
                Command(lose_worker=table_pb2.LoseWorker(worker=worker, incarnation=life)),
                Command(
                    assign=table_pb2.AssignTask(
                        attempt=attempt, worker=worker, incarnation=life, backup=draw(st.booleans())
                    )
                ),
                Command(
                    complete=table_pb2.CompleteAttempt(
                        attempt=attempt, worker=worker, incarnation=life, result=draw(results())
                    )
                ),
                Command(
                    fail=table_pb2.FailAttempt(
                        attempt=attempt, worker=worker, incarnation=life, failure=failure
                    )
                ),
                Command(
                    lose_output=table_pb2.LoseOutput(attempt=attempt, worker=worker, cause=failure.cause)
                ),
                Command(revoke=table_pb2.RevokeAttempt(attempt=attempt, cause=failure.cause)),
                Command(set_worker=table_pb2.SetWorkerState(worker=worker, state=state, job=draw(jobs))),
                Command(set_version=table_pb2.SetClusterVersion(version=draw(numbers))),
            ]
        )
    )


entries = st.builds(
    lambda term, now, said: table_pb2.Entry(term=term, now_ms=now, commands=said),
    st.one_of(small, st.integers(0, 2**64 - 1)),
    st.one_of(small, st.integers(0, 2**64 - 1)),
    st.lists(commands(), max_size=8),
)


def begun() -> TaskTable:
    """Two workers and a running job: so that wild commands hit something."""
    table = TaskTable()
    spec = job_pb2.JobSpec(job_id="j1", maps=2)
    spec.steps.add(reduces=2)
    said = [
        Command(attach=table_pb2.AttachWorker(worker="w1", incarnation="1", slots=2)),
        Command(attach=table_pb2.AttachWorker(worker="w2", incarnation="1", slots=2)),
        Command(submit=table_pb2.SubmitJob(spec=spec, request_id="r1")),
    ]
    for index, worker in enumerate(("w1", "w2")):
        attempt = job_pb2.AttemptId(task=job_pb2.TaskId(job="j1", index=index), number=1)
        said.append(Command(assign=table_pb2.AssignTask(attempt=attempt, worker=worker, incarnation="1")))
    table.apply(1, table_pb2.Entry(term=0, commands=said))
    return table


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(entries, max_size=6))
def test_apply_never_raises_and_replicas_agree(said: list[table_pb2.Entry]) -> None:
    one, other = begun(), begun()
    for index, entry in enumerate(said, start=2):
        results = one.apply(index, entry)
        assert len(results) == len(entry.commands)
        one.check()
        other.restore(other.snapshot()())  # a replica that was restarted in between
        assert other.apply(index, table_pb2.Entry.FromString(entry.SerializeToString())) == results
        assert one.digest() == other.digest()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_that_decode_are_applied(data: bytes) -> None:
    try:
        entry = table_pb2.Entry.FromString(data)
    except Exception:  # no entry: the machine refuses such bytes before the table sees them
        return
    table = begun()
    table.apply(2, entry)
    table.check()
