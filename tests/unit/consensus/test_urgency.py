"""Raft's threads are preferred where that is allowed, and nothing else is."""

from __future__ import annotations

import os
import threading

import pytest

from consensus import urgency


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.root
def test_what_an_urgent_thread_starts_is_urgent_and_it_is_normal_again_afterwards():
    before = nice()
    found: list[int] = []
    with urgency.urgent():
        child = threading.Thread(target=lambda: found.append(nice()))
        child.start()
        child.join()
    assert found == [urgency.NICE]
    assert nice() == before


def test_without_the_privilege_nothing_happens(monkeypatch):
    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(urgency.os, "setpriority", refused)
    before = nice()
    urgency.make_urgent()
    with urgency.urgent():
        assert nice() == before
