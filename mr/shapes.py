"""The JSON of `--json`: what each object holds. Names and meanings are stable; keys are only ever added.

Times are milliseconds since 1970 (`*_ms`) or seconds (`seconds`, `*_s`); sizes are bytes; digests are hex.
Absent values are null, never a magic number. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mr import outcome
from mr.causes import Cause, info

if TYPE_CHECKING:
    from mr.rpc import cluster_pb2 as pb
    from mr.rpc.job_pb2 import Failure, TaskId


def job(status: pb.JobStatus, *, now_ms: int = 0) -> dict[str, Any]:
    """`mr status --json`, and each element of `mr jobs --json`.

    `reruns` maps a reason to how many finished tasks ran again for it: empty when none did. `attempts`
    counts all that were started, backups too. `failure` is null unless the job failed.
    """
    return {
        "id": status.id,
        "name": status.name,
        "state": outcome.state_name(status),
        "reason": status.reason,
        "owner": status.owner,
        "queue": status.queue or "default",
        "priority": status.priority,
        "submitted_ms": status.submitted_ms or None,
        "started_ms": status.started_ms or None,
        "ended_ms": status.ended_ms or None,
        "seconds": seconds(status, now_ms),
        "steps": [
            {"step": step.step, "map": _kind(step.map), "reduce": _kind(step.reduce)} for step in status.steps
        ],
        "counters": dict(sorted(status.counters.items())),
        "reruns": dict(sorted(status.reruns.items())),
        "attempts": status.attempts,
        "leader_changes": status.leader_changes,
        "skipped": status.skipped,
        "output": status.output,
        "manifest": status.manifest_digest or None,
        "code": status.code_digest.hex() or None,
        "failure": _failure(status),
        "note": status.finish_note,
        "applied_index": status.applied_index,
        "term": status.term,
        "leader": status.leader or None,
    }


def result(status: pb.JobStatus, *, wall_s: float | None = None) -> dict[str, Any]:
    """The last line of `mr submit --json` and `mr run --json`."""
    return {
        "id": status.id,
        "state": outcome.state_name(status),
        "reason": status.reason,
        "attempts": status.attempts,
        "reruns": dict(sorted(status.reruns.items())),
        "leader_changes": status.leader_changes,
        "output": status.output,
        "manifest": status.manifest_digest or None,
        "seconds": round(wall_s, 3) if wall_s is not None else seconds(status, 0),
        "skipped": status.skipped,
        "failure": _failure(status),
        "exit_code": outcome.exit_code(status),
    }


def seconds(status: pb.JobStatus, now_ms: int) -> float | None:
    """From acceptance to the end, or until `now_ms`; None when that is not known."""
    end = status.ended_ms or now_ms
    return round(max(0, end - status.submitted_ms) / 1000, 3) if end and status.submitted_ms else None


def master(one: pb.MasterInfo) -> dict[str, Any]:
    """`mr masters --json`. `role` is leader, follower, candidate, non-voter, waiting or down."""
    return {
        "id": one.id,
        "address": one.address,
        "role": one.role,
        "term": one.term,
        "commit": one.commit,
        "applied": one.applied,
        "lag": one.lag,
        "disk_ms": round(one.disk_ms, 3),
        "version": one.version,
        "knows": one.knows,
        "cluster_version": one.cluster_version,
        "up_s": one.up_ms / 1000,
        "cluster_id": one.cluster_id,
        "http": one.http or None,
        "raft_address": one.raft_address or None,
        "log_entries": one.log_entries,
        "snapshot_index": one.snapshot_index,
        "memory_bytes": one.memory_bytes,
        "note": one.note,
    }


def worker(one: pb.WorkerInfo) -> dict[str, Any]:
    """`mr workers --json`. `state` is active, draining, excluded or lost."""
    return {
        "id": one.id,
        "incarnation": one.incarnation,
        "address": one.address,
        "host": one.host,
        "state": one.state,
        "reason": one.reason,
        "slots": one.slots,
        "busy": one.busy,
        "memory_bytes": one.memory_bytes,
        "labels": list(one.labels),
        "version": one.version,
        "python": one.python,
        "isolation": one.isolation,
        "seen_s": one.last_seen_ms / 1000,
        "held_outputs": one.held_outputs,
        "disk_free_bytes": one.disk_free_bytes,
        "until_ms": one.until_ms or None,
        "attached_ms": one.attached_ms or None,
    }


def task(one: pb.TaskInfo) -> dict[str, Any]:
    """`mr tasks --json`. `state` is idle, in_progress or completed."""
    return {
        "task": _task_text(one.task),
        "step": one.task.step,
        "kind": _kind_name(one.task.kind),
        "index": one.task.index,
        "state": one.state,
        "worker": one.winner_worker or None,
        "attempt": one.winner_attempt or None,
        "user_failures": one.user_failures,
        "bytes": one.split.bytes or None,
        "pieces": [{"path": p.path, "start": p.start, "end": p.end} for p in one.split.pieces],
        "attempts": [attempt(each) for each in one.attempts],
    }


def attempt(one: pb.AttemptInfo) -> dict[str, Any]:
    """One attempt in `mr tasks --json`. `state` is running, won, failed, lost or revoked."""
    return {
        "attempt": one.attempt.number,
        "worker": one.worker,
        "state": one.state,
        "backup": one.backup,
        "started_ms": one.started_ms or None,
        "ended_ms": one.ended_ms or None,
        "fraction": round(one.progress.fraction, 3),
        "phase": one.progress.phase,
        "status": one.progress.status,
        "cause": cause_name(one.failure.cause) if one.failure.cause else None,
        "message": one.failure.message,
    }


def event(one: pb.JobEvent) -> dict[str, Any]:
    """`mr events --json`. `index` is the log index, null for what is not in the log."""
    found = {
        "index": one.index or None,
        "at_ms": one.at_ms or None,
        "type": one.type,
        "text": one.text,
        "task": _task_text(one.attempt.task) if one.HasField("attempt") else None,
        "attempt": one.attempt.number if one.HasField("attempt") else None,
        "worker": one.worker or None,
        "fields": dict(sorted(one.fields.items())),
    }
    return found | ({"status": job(one.status)} if one.HasField("status") else {})


def log(one: pb.LogLine) -> dict[str, Any]:
    """Each line of `mr logs --json`: a chunk of one attempt's log; `note` says why there is none."""
    return {
        "task": _task_text(one.attempt.task),
        "attempt": one.attempt.number,
        "worker": one.worker or None,
        "text": one.data.decode(errors="replace"),
        "note": one.note,
    }


def failure(one: Failure) -> dict[str, Any]:
    """Why an attempt or a job failed, and what to do next."""
    return {
        "cause": cause_name(one.cause),
        "message": one.message,
        "where": one.where,
        "input": one.input,
        "record": one.record,
        "traceback": one.traceback,
        "peak_memory": one.peak_memory or None,
        "exit_status": one.exit_status or None,
        "next": info(one.cause).next,
    }


def cause_name(number: int) -> str:
    """USER_EXCEPTION and the like; the number as text for a cause of a newer release."""
    return Cause(number).name if number in Cause._value2member_map_ else str(number)


def _failure(status: pb.JobStatus) -> dict[str, Any] | None:
    if outcome.state_name(status) != "FAILED":
        return None
    tried = [attempt(each) for each in status.story]
    return {"task": outcome.failed_task(status) or None, **failure(status.failure), "attempts": tried}


def _kind(one: pb.KindStatus) -> dict[str, int]:
    fields = (
        "total",
        "idle",
        "in_progress",
        "completed",
        "failed_attempts",
        "backups",
        "bytes_done",
        "bytes_total",
    )
    return {name: getattr(one, name) for name in fields}


def _task_text(task: TaskId) -> str:
    from mr.names import task_text

    return task_text(task)


def _kind_name(number: int) -> str:
    from mr.rpc.job_pb2 import Kind

    return Kind.Name(number).lower()  # type: ignore[arg-type]  # a Kind by its number
