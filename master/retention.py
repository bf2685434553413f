"""Which finished jobs become history (T15). Pure."""

from __future__ import annotations

from master.jobs import SUCCEEDED
from master.leader_config import LeaderConfig
from master.specs import task_count
from master.task_table import TaskTable

AT_ONCE = 100


def to_forget(table: TaskTable, config: LeaderConfig) -> list[str]:
    """The oldest finished jobs beyond what is kept, by number, by age and by tasks."""
    finished = sorted(
        (job for job in table.jobs.values() if job.terminal and not job.running),
        key=lambda job: (job.ended_ms, job.order),
    )
    tasks = sum(task_count(job.spec) for job in finished)
    surplus = len(finished) - config.retention_jobs
    found: list[str] = []
    for job in finished:
        old = table.now_ms - job.ended_ms > config.retention_s * 1000
        cleaned = job.state == SUCCEEDED or job.cleanup.done or job.cleanup_given_up
        if not (surplus > 0 or old or tasks > config.retention_tasks) or len(found) == AT_ONCE:
            break
        surplus -= 1
        tasks -= task_count(job.spec)
        if cleaned or old:
            found.append(job.id)
    return found
