"""What the table asks of a JobSpec before it becomes a job. Pure."""

from __future__ import annotations

import re
from collections.abc import Container

from mr.rpc import job_pb2

JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
TASKS_MOST = 2_000_000  # of one job, all steps together
STEPS_MOST = 100


def why_bad(spec: job_pb2.JobSpec) -> str:
    """Why no job can be made of it; "" if one can."""
    if not JOB_ID.fullmatch(spec.job_id):
        return f"{spec.job_id[:100]!r} is no job id: letters, digits, '.', '_', '-', at most 128"
    if not 1 <= len(spec.steps) <= STEPS_MOST:
        return f"a job has 1 to {STEPS_MOST} steps, this one has {len(spec.steps)}"
    if task_count(spec) > TASKS_MOST:
        return f"a job has at most {TASKS_MOST} tasks, this one has {task_count(spec)}"
    if spec.options.priority > 100:
        return f"priority {spec.options.priority} is not within 0 to 100"
    return ""


def task_count(spec: job_pb2.JobSpec) -> int:
    """Maps and reduces of all steps."""
    total, maps = 0, spec.maps
    for step in spec.steps:
        total += maps + step.reduces
        maps = step.reduces or maps
    return total


def same_job(one: job_pb2.JobSpec, other: job_pb2.JobSpec) -> bool:
    """Whether two specs of one id mean the same job: then the second is a retry. The nonce may differ."""
    return all(
        getattr(one, field) == getattr(other, field)
        for field in ("plan_digest", "code_digest", "splits_digest", "maps", "args")
    ) and (one.output.path == other.output.path)


def next_try(job: str, taken: Container[str]) -> str:
    """The id of the next try of a job: "wc-7f3k2" gives "wc-7f3k2-r1", that gives "wc-7f3k2-r2"."""
    base = re.sub(r"-r[0-9]+$", "", job)[:120]
    number = 1
    while f"{base}-r{number}" in taken:
        number += 1
    return f"{base}-r{number}"
