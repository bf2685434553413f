"""What people read about a job: its acceptance, progress, leader changes, end and failure, as lines of
text. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mr import outcome, units
from mr.causes import info
from mr.shapes import cause_name

if TYPE_CHECKING:
    from mr.rpc.cluster_pb2 import JobEvent, JobStatus, KindStatus, StepStatus, SubmitReply
    from mr.rpc.job_pb2 import JobSpec

# Events of a job that people are told of as they happen; the rest is in `mr events`.
_NEWS = frozenset({"AttemptFailed", "WorkerBarred", "CleanupGivenUp", "StepStarted"})


def accepted(reply: SubmitReply, spec: JobSpec) -> str:
    """The first line of `mr submit`."""
    queue, priority = spec.options.queue or "default", spec.options.priority
    if reply.existed:
        return f"job {reply.job}   was submitted before: the same job"
    where = f"accepted: term {reply.term}, index {reply.index}, leader {reply.leader}"
    return f"job {reply.job}   queue {queue}   prio {priority}   {where}"


def taken_in(spec: JobSpec, code_files: int, code_bytes: int) -> str:
    """The second line: code and input."""
    code = f"code {spec.code_digest.hex()[:6]} ({units.plural(code_files, 'file')}, {units.size(code_bytes)})"
    amount = f"{units.plural(spec.input_files, 'file')}, {units.size(spec.input_bytes)}"
    return f"{code}   input {amount}, {units.plural(spec.maps, 'split')}"


def progress(status: JobStatus, rate: float = 0.0) -> list[str]:
    """The lines of the step in hand: map and, unless it is map-only, reduce. `rate` is input bytes a
    second."""
    state = outcome.state_name(status)
    if not status.steps or state == "QUEUED":
        return [f"{state.lower()}   {status.reason}".rstrip()]
    step = _current(status)
    lead = f"step {step.step}  " if len(status.steps) > 1 else ""
    if state in {"PUBLISHING", "SUCCEEDED"}:
        commit = "ok" if state == "SUCCEEDED" else "…"
        reduce = f"   reduce {_count(step.reduce)}" if step.reduce.total else ""
        return [f"{lead}map     {_count(step.map)}{reduce}   commit {commit}"]
    lines = [lead + _kind_line("map", step.map, rate)]
    if step.reduce.total:
        fetched = ""
        if step.reduce.in_progress and step.reduce.fetched < step.map.total:
            fetched = f"  fetched {step.reduce.fetched}/{step.map.total} outputs"
        lines.append(lead + _kind_line("reduce", step.reduce, 0.0) + fetched)
    return lines


def leader_change(before: JobStatus, after: JobStatus, gap_s: float | None) -> str:
    """One line on a change of leader between two statuses of a job."""
    again = sum(after.reruns.values()) - sum(before.reruns.values())
    took = f" after {units.duration(gap_s)}" if gap_s is not None else ""
    tail = f"{units.plural(again, 'finished task')} run{'s' if again == 1 else ''} again"
    if before.leader == after.leader:
        return f"leader {after.leader} elected again, term {after.term}{took}; {tail}"
    return f"leader {before.leader} lost, {after.leader} elected{took}; {tail}"


def news(event: JobEvent) -> str:
    """A line for an event that people are told of at once, or ""."""
    return (
        event.text if event.type in _NEWS and not (event.type == "StepStarted" and "0" in event.text) else ""
    )


def outputs_lost(events: list[JobEvent]) -> list[str]:
    """One line for each worker whose finished maps run again."""
    lost = Counter(event.worker for event in events)
    return [
        f"{worker} lost: {units.plural(n, 'finished map')} run{'s' if n == 1 else ''} again"
        for worker, n in lost.items()
    ]


def done(status: JobStatus, seconds: float) -> str:
    """The last line of a job that succeeded."""
    counters = status.counters
    step = status.steps[-1] if status.steps else None
    files = (step.reduce.total or step.map.total) if step else 0
    parts = [f"done {units.duration(seconds)}", units.plural(files, "file")]
    if "mr:bytes_out" in counters:
        parts[-1] += f"  {units.size(counters['mr:bytes_out'])}"
    if status.manifest_digest:
        parts.append(f"manifest {status.manifest_digest[:6]}")
    if "mr:map_records_in" in counters:
        parts.append(f"records {units.number(counters['mr:map_records_in'])}")
    parts.append(f"skipped {units.number(status.skipped)}")
    return "   ".join(parts)


def failure(status: JobStatus) -> list[str]:
    """The failure form: why, where, who tried, what next."""
    failed = status.failure
    task = outcome.failed_task(status)
    tried = [attempt for attempt in status.story if attempt.failure.cause]
    lines = [f"FAILED  {_what(status, task, len(tried))}"]
    if failed.cause:
        lines.append(f"  cause   {cause_name(failed.cause)}   {failed.message}".rstrip())
    if failed.where or failed.input:
        record = f"  {failed.record}" if failed.record else ""
        place = f"input {failed.input}{record}" if failed.input else ""
        lines.append(f"  where   {failed.where:<32} {place}".rstrip())
    if tried:
        workers = " ".join(attempt.worker for attempt in tried)
        memory = f"peak memory {units.size(failed.peak_memory)}" if failed.peak_memory else ""
        lines.append(f"  tried   {workers:<32} {memory}".rstrip())
    if advice := info(failed.cause).next:
        lines.append(f"  next    {advice}")
    if failed.traceback:
        lines += ["  traceback", *(f"    {text}" for text in failed.traceback.rstrip().splitlines())]
    return lines


def status_text(status: JobStatus, now_ms: int) -> str:
    """`mr status ID`."""
    state = outcome.state_name(status)
    head = f"job {status.id}   {status.name}   {state}   queue {status.queue or 'default'}"
    head += f"   prio {status.priority}"
    if status.owner:
        head += f"   by {status.owner}"
    lines = [head]
    end = status.ended_ms or now_ms
    took = units.duration(max(0, end - status.submitted_ms) / 1000) if status.submitted_ms else "-"
    changes = units.plural(status.leader_changes, "leader change")
    lines.append(
        f"{took}   {units.plural(status.attempts, 'attempt')}   {changes}   leader {status.leader or 'none'}"
    )
    for step in status.steps:
        lead = f"step {step.step}  " if len(status.steps) > 1 else ""
        lines.append(lead + _kind_line("map", step.map, 0.0))
        if step.reduce.total:
            lines.append(lead + _kind_line("reduce", step.reduce, 0.0))
    again = ", ".join(f"{reason} {n}" for reason, n in sorted(status.reruns.items()))
    lines.append(f"run again: {again or 'nothing'}")
    if status.skipped:
        lines.append(f"skipped records: {units.number(status.skipped)}")
    lines.append(
        f"output {status.output}"
        + (f"   manifest {status.manifest_digest[:12]}" if status.manifest_digest else "")
    )
    if state == "FAILED":
        lines += failure(status)
    elif status.reason:
        lines.append(f"reason {status.reason}")
    if status.finish_note:
        lines.append(f"note   {status.finish_note}")
    return "\n".join(lines)


def _what(status: JobStatus, task: str, times: int) -> str:
    if not task or not times:
        return status.reason or status.failure.message or status.id
    kind = {"m": "map", "r": "reduce", "c": "commit"}.get(task.rpartition(".")[2][0], "task")
    records = {attempt.failure.input for attempt in status.story if attempt.failure.input}
    same = ", same record" if times > 1 and len(records) == 1 else ""
    return f"{kind} {task} failed {units.plural(times, 'time')}{same}"


def _current(status: JobStatus) -> StepStatus:
    """The first step that is not complete, else the last."""
    for step in status.steps:
        if step.map.completed < step.map.total or step.reduce.completed < step.reduce.total:
            return step
    return status.steps[-1]


def _kind_line(name: str, kind: KindStatus, rate: float) -> str:
    share = 100 * kind.completed // kind.total if kind.total else 100
    parts = [
        f"{name:<7} {_count(kind):>9} {share:>3}%",
        f"{kind.in_progress} running",
        f"{kind.failed_attempts} failed",
        f"{kind.backups} backup",
    ]
    if rate:
        parts.append(f"{units.size(rate)}/s")
    return "   ".join(parts)


def _count(kind: KindStatus) -> str:
    return f"{kind.completed}/{kind.total}"
