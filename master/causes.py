"""What a cause of failure means for the task table: part of `apply`, so equal on every replica.

Whose fault a cause is, `mr.causes` says, and nobody else; a release that changes it there changes the table.
"""

from __future__ import annotations

from mr.causes import CAUSES
from mr.rpc import job_pb2 as pb

# The user's code or data: eats `max_attempts` (T6).
USER = frozenset(int(cause) for cause, info in CAUSES.items() if info.user)
# No other worker can do better: the job fails at once.
FATAL = frozenset(int(cause) for cause, info in CAUSES.items() if info.fatal and not info.agree)
# Perhaps only this worker is blind: the job fails when a second worker agrees, or when there is no second.
FATAL_WHEN_AGREED = frozenset(int(cause) for cause, info in CAUSES.items() if info.fatal and info.agree)
# This worker can't run this job; the job fails when no worker is left.
EXCLUDES_WORKER = frozenset(int(cause) for cause, info in CAUSES.items() if info.excludes_worker)
# Nobody's fault, our own scheduling: not even counted.
HARMLESS = frozenset({int(pb.LEASE_REVOKED), int(pb.WORKER_DRAINED), int(pb.BACKUP_LOST)})
# The machine's, and likely to be so again at once: a task that failed so more than once waits before its next attempt.
LASTING = frozenset(
    {
        int(pb.DISK_FULL),
        int(pb.DISK_ERROR),
        int(pb.OUTPUT_FULL),
        int(pb.CORRUPT_DATA),
        int(pb.CODE_UNAVAILABLE),
        int(pb.INTERNAL),
    }
)

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
