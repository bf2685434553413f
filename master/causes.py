"""What a cause of failure means for the task table: part of `apply`, so equal on every replica.

`mr.errors.CAUSES` tells people whose fault a cause is; a test holds that both agree.
"""

from __future__ import annotations

from mr.rpc import job_pb2 as pb

# The user's code or data: eats `max_attempts` (T6).
USER = frozenset(
    {
        pb.USER_EXCEPTION,
        pb.USER_EXIT,
        pb.NATIVE_SIGNAL,
        pb.OUT_OF_MEMORY,
        pb.TASK_TIMEOUT,
        pb.TOO_MANY_BAD_RECORDS,
        pb.BAD_RECORD_FORMAT,
        pb.BAD_TYPE,
    }
)
# No other worker can do better: the job fails at once.
FATAL = frozenset({pb.INPUT_CHANGED, pb.FUNCTION_NOT_FOUND, pb.JOB_FILE_ERROR, pb.OUTPUT_EXISTS})
# Perhaps only this worker is blind: the job fails when a second worker agrees, or when there is no second.
FATAL_WHEN_AGREED = frozenset({pb.INPUT_MISSING, pb.INPUT_UNREADABLE, pb.OUTPUT_UNWRITABLE})
# This worker can't run this job; the job fails when no worker is left.
EXCLUDES_WORKER = frozenset({pb.MODULE_NOT_FOUND, pb.PYTHON_MISMATCH, pb.PATH_NOT_SHARED})
# Nobody's fault: our own scheduling.
HARMLESS = frozenset({pb.LEASE_REVOKED, pb.WORKER_DRAINED, pb.BACKUP_LOST, pb.STALE_INPUTS})

# How a lost map output is named in `reruns`.
RERUN_REASONS: dict[int, str] = {
    pb.WORKER_LOST: "worker lost",
    pb.OUTPUT_LOST: "output lost",
    pb.CORRUPT_DATA: "corrupt data",
    pb.FETCH_FAILED: "fetch failed",
    pb.DISK_ERROR: "disk error",
    pb.STALE_INPUTS: "stale inputs",
}


def name(cause: int) -> str:
    """The cause as people see it; a number that a newer release knows stays a number."""
    return pb.Cause.Name(cause) if cause in pb.Cause.values() else f"CAUSE_{cause}"  # type: ignore[arg-type]  # an open enum
