"""A call that never returns costs nobody else a thread (FD27)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from worker.aside import aside


async def test_results_and_errors_come_through() -> None:
    assert await aside(10.0, int, "7") == 7
    with pytest.raises(ValueError, match="x"):
        await aside(10.0, int, "x")


async def test_many_hung_calls_hold_up_nothing() -> None:
    stuck = threading.Event()
    hung = [asyncio.create_task(aside(0.05, stuck.wait)) for _ in range(100)]
    assert await asyncio.to_thread(int, "7") == 7
    for task in hung:
        with pytest.raises(TimeoutError):
            await task
    stuck.set()
