"""Why an attempt or a job failed: the closed list, whose fault each is, and what to do next.

One row a cause. The leader reads `fault` (design: user failures are counted apart from machine losses),
people read `next`. Nothing else in the product decides whose fault a cause is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Literal


class Cause(IntEnum):
    """Why an attempt or a job failed: `Cause` of proto/job.proto, by the same names and numbers."""

    CAUSE_NONE = 0
    USER_EXCEPTION = 1
    USER_EXIT = 2
    NATIVE_SIGNAL = 3
    OUT_OF_MEMORY = 4
    TASK_TIMEOUT = 5
    TOO_MANY_BAD_RECORDS = 6
    INPUT_MISSING = 10
    INPUT_CHANGED = 11
    INPUT_UNREADABLE = 12
    BAD_RECORD_FORMAT = 13
    BAD_TYPE = 14
    OUTPUT_EXISTS = 20
    OUTPUT_UNWRITABLE = 21
    PATH_NOT_SHARED = 22
    OUTPUT_IN_USE = 23
    FUNCTION_NOT_FOUND = 30
    MODULE_NOT_FOUND = 31
    PYTHON_MISMATCH = 32
    CODE_UNAVAILABLE = 33
    JOB_FILE_ERROR = 34
    WORKER_LOST = 40
    FETCH_FAILED = 41
    CORRUPT_DATA = 42
    DISK_FULL = 43
    DISK_ERROR = 44
    OUTPUT_LOST = 45
    LEASE_REVOKED = 46
    WORKER_DRAINED = 47
    STALE_INPUTS = 48
    BACKUP_LOST = 49
    CANCELLED_BY_USER = 50
    JOB_DEADLINE = 51
    OUTPUT_FULL = 52
    INTERNAL = 60


Fault = Literal["user", "job", "worker", "machine", "request"]


@dataclass(frozen=True, slots=True)
class CauseInfo:
    """What one cause means.

    `fault` decides what the leader does with the attempt:
    - "user": counts against `max_attempts`, tried again on another worker;
    - "job": trying again is useless; fails the job, at once or (`agree`) when a second worker says the same;
    - "worker": this worker is excluded for this job; the job fails when none is left;
    - "machine": an infrastructure loss, tried again without counting;
    - "request": somebody asked for it; no attempt is to blame.
    `next` is one line: what the reader should do.
    """

    fault: Fault
    next: str
    agree: bool = False

    @property
    def user(self) -> bool:
        """Counts against `max_attempts`."""
        return self.fault == "user"

    @property
    def fatal(self) -> bool:
        """Fails the job without further tries (see `agree`)."""
        return self.fault == "job"

    @property
    def excludes_worker(self) -> bool:
        """The worker gets no more tasks of this job."""
        return self.fault == "worker"

    @property
    def infrastructure(self) -> bool:
        """Tried again and never counted against the user."""
        return self.fault == "machine"


_LOOK = "try that record with `mr run --inline`, or resubmit with --skip-bad 10"

_ROWS: tuple[tuple[Cause, Fault, str], ...] = (
    (Cause.CAUSE_NONE, "request", ""),
    (Cause.USER_EXCEPTION, "user", _LOOK),
    (Cause.USER_EXIT, "user", "a task function ended its process: raise an exception instead of exiting"),
    (
        Cause.NATIVE_SIGNAL,
        "user",
        "native code crashed: run it under `mr run --inline`, or resubmit with --skip-bad 10",
    ),
    (
        Cause.OUT_OF_MEMORY,
        "user",
        "raise the job's memory limit, make splits smaller (--split-size) or use more --reduces",
    ),
    (
        Cause.TASK_TIMEOUT,
        "user",
        "raise the task deadline, make splits smaller (--split-size), or look for an endless loop",
    ),
    (
        Cause.TOO_MANY_BAD_RECORDS,
        "user",
        "look at the skipped records in `mr events`, then fix the function or raise --skip-bad",
    ),
    (
        Cause.BAD_RECORD_FORMAT,
        "user",
        "the input does not fit its format: name the right one, or resubmit with --skip-bad 10",
    ),
    (
        Cause.BAD_TYPE,
        "user",
        "emit None, bool, int, float, str, bytes, tuple, list or dict, or allow pickle in the job",
    ),
    (Cause.INPUT_MISSING, "job", "check the path; every worker must see it under the same name"),
    (Cause.INPUT_CHANGED, "job", "an input changed while the job ran: submit again when nobody writes to it"),
    (
        Cause.INPUT_UNREADABLE,
        "job",
        "check that the user of the workers may read the input, and that it is not damaged",
    ),
    (Cause.OUTPUT_EXISTS, "job", "choose another --output, or pass --overwrite to replace it"),
    (
        Cause.OUTPUT_UNWRITABLE,
        "job",
        "check that the user of the workers may write beside the output directory",
    ),
    (
        Cause.OUTPUT_IN_USE,
        "job",
        "another job writes there: wait for it (`mr jobs`), or choose another --output",
    ),
    (Cause.FUNCTION_NOT_FOUND, "job", "`mr inspect JOB` lists the names that the job file registers"),
    (Cause.JOB_FILE_ERROR, "job", "`mr check JOB` loads the file as a worker would and shows its error"),
    (
        Cause.PATH_NOT_SHARED,
        "worker",
        "mount the output's directory on that worker under the same path, or drain the worker",
    ),
    (Cause.MODULE_NOT_FOUND, "worker", "send it with --py-files, or install it on the workers"),
    (
        Cause.PYTHON_MISMATCH,
        "worker",
        "run workers with the Python of the submitter, or submit from one that they have",
    ),
    (Cause.CODE_UNAVAILABLE, "machine", "no master could serve the job's code: see `mr masters`"),
    (Cause.WORKER_LOST, "machine", "see `mr workers` and the log of that worker"),
    (Cause.FETCH_FAILED, "machine", "check the network between those two workers (`mr events`)"),
    (Cause.CORRUPT_DATA, "machine", "a checksum did not fit: check the disk and the memory of that worker"),
    (Cause.DISK_FULL, "machine", "free space in that worker's work_dir"),
    (
        Cause.OUTPUT_FULL,
        "machine",
        "free space where the job's output goes: its tasks wait for that and go on",
    ),
    (Cause.DISK_ERROR, "machine", "check that worker's disk"),
    (Cause.OUTPUT_LOST, "machine", "a map output vanished from its worker and is made again"),
    (Cause.LEASE_REVOKED, "machine", "the worker was silent for longer than its lease: see its log"),
    (Cause.WORKER_DRAINED, "machine", "the worker was asked to leave; its tasks run elsewhere"),
    (Cause.STALE_INPUTS, "machine", "a map ran again after this reduce had read it; the reduce runs again"),
    (Cause.BACKUP_LOST, "machine", "another attempt of the same task was faster"),
    (Cause.CANCELLED_BY_USER, "request", "submit it again if that was a mistake"),
    (Cause.JOB_DEADLINE, "request", "raise --deadline, or give the job more workers"),
    (Cause.INTERNAL, "machine", "a bug of ours: please report it with the logs of the master and the worker"),
)

# One worker may be alone with its trouble (a missing mount): these fail the job when a second one agrees.
_AGREE = frozenset({Cause.INPUT_MISSING, Cause.INPUT_UNREADABLE, Cause.OUTPUT_UNWRITABLE})

CAUSES: Mapping[int, CauseInfo] = MappingProxyType(
    {cause: CauseInfo(fault, advice, agree=cause in _AGREE) for cause, fault, advice in _ROWS}
)


def info(cause: int) -> CauseInfo:
    """What is known about `cause`; a number from a newer release counts as INTERNAL."""
    return CAUSES.get(cause, CAUSES[Cause.INTERNAL])
