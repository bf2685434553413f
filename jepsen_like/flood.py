"""Many small commands at once, so that the log grows fast: cancels of a job that has ended, which change nothing."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from jepsen_like.place import Place
from mr import outcome
from mr.calls import request_id
from mr.client import Client
from mr.errors import Error

CLIENTS = 16
_PATIENCE_S = 15.0  # until some job has ended


def write(place: Place, entries: int, seconds: float, over: threading.Event | None = None) -> int:
    """Has up to `entries` commands committed within `seconds`, or until `over`. Returns how many were answered."""
    over = over or threading.Event()
    job = _ended_job(place)
    if not job:
        return 0
    deadline = time.monotonic() + seconds
    left = iter(range(entries))  # taken from by all threads: next() of a range is one step of the interpreter

    def send() -> int:
        done = 0
        with place.connect(timeout=3.0) as client:
            while time.monotonic() < deadline and not over.is_set() and next(left, None) is not None:
                with suppress(Error):
                    _cancel(client, job)
                    done += 1
        return done

    with ThreadPoolExecutor(CLIENTS, thread_name_prefix="flood") as pool:
        return sum(future.result() for future in [pool.submit(send) for _ in range(CLIENTS)])


def _cancel(client: Client, job: str) -> None:
    from mr.rpc.cluster_pb2 import CancelRequest

    client.calls.call("Cancel", CancelRequest(job=job, request_id=request_id(), reason="flood"))


def _ended_job(place: Place) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(Error), place.connect(timeout=3.0) as client:
            for job in client.jobs(limit=1000):
                if outcome.state_name(job) in outcome.OVER:
                    return str(job.id)
        time.sleep(0.3)
    return ""
