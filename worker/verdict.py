"""What the death of a task process means, in the closed list of causes. Pure.

A task process reports failures of user code itself; here are those it cannot report, because it is dead.
"""

from __future__ import annotations

import signal

from mr.rpc import job_pb2 as job

# A SIGKILL that nobody of ours sent, with this much of the limit in use, was the kernel's for want of memory.
_NEARLY_ALL = 0.9


def of_death(status: str, peak_bytes: int, limit_bytes: int) -> job.Failure:
    """`status` as the keeper tells it ("exit 3", "signal 11"); "" if user code killed the keeper, too."""
    how, _, number_text = status.partition(" ")
    number = int(number_text) if number_text.lstrip("-").isdigit() else 0
    failure = job.Failure(peak_memory=peak_bytes)
    if how == "exit":
        failure.cause, failure.exit_status = job.USER_EXIT, number
        failure.message = f"the task's code ended its process with exit status {number}"
    elif how == "signal":
        failure.exit_status = -number
        if number == signal.SIGKILL and limit_bytes and peak_bytes >= _NEARLY_ALL * limit_bytes:
            return of_memory(peak_bytes, limit_bytes)
        if number == signal.SIGXCPU:
            failure.cause, failure.message = job.TASK_TIMEOUT, "the task used up its CPU time"
        else:
            failure.cause = job.NATIVE_SIGNAL
            failure.message = f"the task process was killed by signal {number} ({signal_name(number)})"
    else:
        failure.cause, failure.exit_status = job.NATIVE_SIGNAL, -signal.SIGKILL
        failure.message = "the task process was killed together with its keeper"
    return failure


def of_memory(used_bytes: int, limit_bytes: int) -> job.Failure:
    """The task's processes together used more than their limit."""
    return job.Failure(
        cause=job.OUT_OF_MEMORY,
        message=f"the task used {used_bytes >> 20} MiB of memory; its limit is {limit_bytes >> 20} MiB",
        peak_memory=used_bytes,
        exit_status=-signal.SIGKILL,
    )


def of_broken_channel(why: str) -> job.Failure:
    """The task process lives but speaks nonsense, or no more."""
    return job.Failure(
        cause=job.USER_EXIT,
        message=f"the task's channel to its worker broke ({why}); did its code close file descriptors?",
    )


def of_forks(count: int) -> job.Failure:
    """The task started more processes than a worker can stand."""
    return job.Failure(cause=job.USER_EXIT, message=f"the task started {count} processes and was killed")


def signal_name(number: int) -> str:
    """SIGSEGV and the like."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
