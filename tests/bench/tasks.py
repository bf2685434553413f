"""The paper's largest job (M = 200,000, R = 5,000, 2,000 workers) as log entries, part of it done."""

from __future__ import annotations

from collections.abc import Iterator

from mr.rpc import job_pb2, table_pb2

_ENTRY = 500  # commands in one log entry
_DONE = 20_000  # maps that are completed


def job_of(maps: int, *, reduces: int = 5_000, workers: int = 2_000) -> Iterator[bytes]:
    """Serialised entries that make a table of one running job."""
    spec = job_pb2.JobSpec(
        job_id="large",
        name="large",
        steps=[
            job_pb2.Step(mapper="m", reducer="r", reduces=reduces, partitioner="hash", record_path="object")
        ],
        input=job_pb2.Input(patterns=["/in"], format="text"),
        output=job_pb2.Output(path="/out", format="tsv"),
        code_digest=b"c" * 32,
        splits_digest=b"s" * 32,
        maps=maps,
        staging="/.out.mr-large",
        python="3.11",
        job_file="job.py",
    )
    commands = [
        table_pb2.Command(take_office=table_pb2.TakeOffice(leader="a")),
        table_pb2.Command(submit=table_pb2.SubmitJob(spec=spec, request_id="one")),
    ]
    for number in range(workers):
        attach = table_pb2.AttachWorker(worker=f"w{number}", incarnation="1", address="h:1", slots=8)
        commands.append(table_pb2.Command(attach=attach))
    for index in range(min(_DONE, maps)):
        task = job_pb2.TaskId(job="large", step=0, kind=job_pb2.MAP, index=index)
        who = {
            "attempt": job_pb2.AttemptId(task=task, number=1),
            "worker": f"w{index % workers}",
            "incarnation": "1",
        }
        commands.append(table_pb2.Command(assign=table_pb2.AssignTask(**who)))
        result = job_pb2.TaskResult()
        commands.append(table_pb2.Command(complete=table_pb2.CompleteAttempt(**who, result=result)))
    for start in range(0, len(commands), _ENTRY):
        entry = table_pb2.Entry(term=1, now_ms=1, commands=commands[start : start + _ENTRY])
        yield entry.SerializeToString()
