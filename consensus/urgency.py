"""Threads that the cluster waits for run first, where the system allows it.

A heartbeat passes through half a dozen threads; on a machine with more work than cores each of them may wait a time
slice, and together longer than an election timeout. Linux keeps a priority per thread, and new threads inherit it, so
gRPC's own threads get it too when they are made by an urgent one. Without the privilege (root, CAP_SYS_NICE, or
LimitNICE in a systemd unit) nothing changes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NICE = -10


def make_urgent() -> None:
    """Raises the priority of the calling thread, for its life."""
    _set(NICE)


@contextmanager
def urgent() -> Iterator[None]:
    """Raises the priority of the calling thread for a while: what it starts meanwhile keeps it."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    _set(NICE)
    try:
        yield
    finally:
        _set(before)


def _set(nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except PermissionError:
        pass  # best effort: the timeouts allow for a normal load
