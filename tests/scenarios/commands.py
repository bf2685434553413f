"""Short words for table commands, and the table's answers as lines. Shared by the stories of table and leader."""

from __future__ import annotations

import hashlib

from master.columns import STATE_NAMES
from master.ids import REDUCE, AttemptKey, key_of, task_named
from master.jobs import QUEUED, RUNNING
from master.task_table import TaskTable
from mr.rpc import job_pb2, table_pb2
from mr.rpc.table_pb2 import Command
from tests.scenarios.story import words

STATES = {
    "drain": table_pb2.WORKER_DRAINING,
    "exclude": table_pb2.WORKER_EXCLUDED,
    "include": table_pb2.WORKER_ACTIVE,
}


def attempt(text: str, job: str) -> AttemptKey:
    """ "m-7#2" of the job."""
    name, _, number = text.partition("#")
    task = task_named(job, name)
    assert task is not None, text
    return AttemptKey(*task, int(number or 1))


def spec(name: str, named: dict[str, str]) -> job_pb2.JobSpec:
    """`maps=3 reduces=2,1` is a job of two steps."""
    made = job_pb2.JobSpec(job_id=name, name=name, maps=int(named.get("maps", "2")), staging=f"/out/.{name}")
    for reduces in named.get("reduces", "1").split(","):
        made.steps.add(mapper="m", reducer="r" if int(reduces) else "", reduces=int(reduces))
    made.output.path = named.get("out", f"/out/{name}")
    made.options.max_attempts = int(named.get("max_attempts", "0"))
    made.options.deadline_ms = int(named.get("deadline_ms", "0"))
    made.options.priority = int(named.get("priority", "0"))
    made.options.skip_bad = int(named.get("skip_bad", "0"))
    made.options.queue = named.get("queue", "")
    made.options.speculate = named.get("speculate", "no") == "yes"
    made.options.policy = named.get("policy", "")
    return made


def result(table: TaskTable, key: AttemptKey, named: dict[str, str]) -> job_pb2.TaskResult:
    """What a winner reports; a reduce has merged the present winners unless `merged=old` is said."""
    made = job_pb2.TaskResult(index_digest=b"\xab")
    made.counters["mr:records_out"] = int(named.get("records", "10"))
    made.file.name = f"{key.task.text}.a{key.number}"
    if key.kind == REDUCE:
        step = table.jobs[key.job].steps[key.step] if key.job in table.jobs else None
        current = step.maps.winners_digest() if step else b""
        made.consumed_digest = hashlib.sha256(b"old").digest() if named.get("merged") == "old" else current
    return made


def command(table: TaskTable, text: str) -> Command:
    """One command from one line."""
    (verb, *plain), named = words(text)
    job = named.get("job", next(iter(table.jobs), "wc"))
    worker = plain[-1] if plain else ""
    life = named.get("life", table.workers[worker].incarnation if worker in table.workers else "1")
    match verb:
        case "office":
            return Command(take_office=table_pb2.TakeOffice(leader=plain[0]))
        case "submit":
            submit = table_pb2.SubmitJob(spec=spec(plain[0], named), identity=named.get("by", "ann"))
            submit.request_id = named.get("request", "")
            return Command(submit=submit)
        case "attach":
            return Command(
                attach=table_pb2.AttachWorker(
                    worker=plain[0],
                    incarnation=named.get("life", "1"),
                    slots=int(named.get("slots", "2")),
                    host=plain[0],
                )
            )
        case "assign":
            return Command(
                assign=table_pb2.AssignTask(
                    attempt=attempt(plain[0], job).proto(),
                    worker=worker,
                    incarnation=life,
                    backup="backup" in plain,
                )
            )
        case "complete":
            key = attempt(plain[0], job)
            return Command(
                complete=table_pb2.CompleteAttempt(
                    attempt=key.proto(), worker=worker, incarnation=life, result=result(table, key, named)
                )
            )
        case "fail":
            failure = job_pb2.Failure(
                cause=job_pb2.Cause.Value(named["cause"]), message=named.get("message", "boom")
            )
            failure.record_number = int(named.get("record", "0"))
            return Command(
                fail=table_pb2.FailAttempt(
                    attempt=attempt(plain[0], job).proto(), worker=worker, incarnation=life, failure=failure
                )
            )
        case "revoke":
            return Command(
                revoke=table_pb2.RevokeAttempt(
                    attempt=attempt(plain[0], job).proto(), cause=job_pb2.LEASE_REVOKED
                )
            )
        case "lose":
            return Command(
                lose_worker=table_pb2.LoseWorker(worker=plain[0], incarnation=life, reason="silent")
            )
        case "lose-output":
            return Command(
                lose_output=table_pb2.LoseOutput(
                    attempt=attempt(plain[0], job).proto(), worker=worker, cause=job_pb2.OUTPUT_LOST
                )
            )
        case "cancel":
            return Command(cancel=table_pb2.CancelJob(job=plain[0], identity=named.get("by", "ann")))
        case "retry":
            return Command(retry=table_pb2.RetryJob(job=plain[0], identity="ann"))
        case "expire":
            return Command(expire=table_pb2.ExpireJob(job=plain[0]))
        case "forget":
            return Command(forget_jobs=table_pb2.ForgetJobs(jobs=plain))
        case "drain" | "exclude" | "include":
            return Command(
                set_worker=table_pb2.SetWorkerState(
                    worker=plain[0],
                    state=STATES[verb],
                    reason=named.get("reason", ""),
                    job=named.get("for", ""),
                )
            )
        case _:
            raise AssertionError(f"no such command: {text}")


def brief(said: Command) -> str:
    """A command as a leader's story shows it."""
    kind = said.WhichOneof("kind") or "nothing"
    body = getattr(said, kind, None)
    parts = [kind.replace("_", " ")]
    if body is not None and "attempt" in body.DESCRIPTOR.fields_by_name:
        parts.append(key_of(body.attempt).text)
    for name in ("worker", "leader", "job", "reason", "jobs"):
        if body is not None and name in body.DESCRIPTOR.fields_by_name and getattr(body, name):
            value = getattr(body, name)
            parts.append(" ".join(value) if name == "jobs" else value)
    if kind == "assign" and said.assign.backup:
        parts.append("backup")
    return " ".join(parts)


def status(table: TaskTable) -> list[str]:
    """The whole table in a few lines."""
    lines = []
    for job in table.jobs.values():
        name = table_pb2.JobState.Name(job.state)
        lines.append(f"{job.id} {name}" + (f" ({job.reason})" if job.reason else ""))
        for step, kind, tasks in job.all_tasks():
            if not tasks.count or (kind not in (0, 1) and not tasks.next_attempt[0]):
                continue
            states = ", ".join(f"{n} {s}" for n, s in zip(tasks.in_state, STATE_NAMES, strict=True) if n)
            lines.append(f"  step {step} {job_pb2.Kind.Name(kind)}: {states}")
        if job.reruns:
            lines.append("  ran again: " + ", ".join(f"{r} {n}" for r, n in sorted(job.reruns.items())))
        if job.counters and job.state not in (QUEUED, RUNNING):
            lines.append("  counters: " + ", ".join(f"{n}={v}" for n, v in sorted(job.counters.items())))
    for worker in table.workers.values():
        state = (
            table_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_").removesuffix("_STATE").lower()
        )
        running = " ".join(key.text for key in sorted(worker.running))
        lines.append(f"{worker.id} {state}" + (f" runs {running}" if running else ""))
    return lines
