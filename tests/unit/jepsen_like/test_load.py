"""Lost disks, followers far behind, starved workers, floods of connections: each hurts, heals, and proves it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from jepsen_like import cpu, faults_load, flood
from jepsen_like.fault import Missed
from jepsen_like.faults_load import ConnectionFlood, FarBehind, Starved, WorkerDiskLost
from jepsen_like.leftovers import Marker


def worker_place(work_dir: Path, *, lived: bool = True) -> Any:
    node = SimpleNamespace(alive=lived, pid=os.getpid(), work_dir=work_dir)
    death = {"node": "w1", "pid": 7, "lived": lived, "status": -signal.SIGKILL}
    started: list[str] = []
    return SimpleNamespace(
        workers={"w1": node},
        server=lambda _: node,
        kill=lambda _: death,
        hold=lambda _: threading.RLock(),
        start=started.append,
        started=started,
    )


def test_a_lost_disk_leaves_the_record_and_nothing_else(tmp_path: Path) -> None:
    """FD1, FD22."""
    for name in ("state.json", "journal.jsonl", "jobs/x/map/0.m-00000.a1.seg", "code/abc/job.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    there = worker_place(tmp_path)
    fault = WorkerDiskLost()
    fault.hurt(there, Random(1))
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]
    fault.heal(there)
    assert there.started == ["w1"]
    assert fault.proof(there) == {"kills": 1, "files": 4}


def test_the_disk_of_a_dead_worker_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("x")
    there = worker_place(tmp_path, lived=False)
    with pytest.raises(Missed):
        WorkerDiskLost().hurt(there, Random(1))
    assert (tmp_path / "state.json").exists()


@pytest.mark.parametrize(
    ("applied", "snapshot", "proven"),
    [(150, 140, True), (150, 90, False), (120, 110, False)],
    ids=["by a snapshot", "from the log", "not yet"],
)
def test_far_behind_is_proven_by_a_snapshot(
    monkeypatch: pytest.MonkeyPatch, applied: int, snapshot: int, proven: bool
) -> None:
    """FC15, FC26."""
    monkeypatch.setattr(flood, "write", lambda *_: 50)
    moments = iter(range(0, 10_000, 10))
    monkeypatch.setattr(faults_load.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(faults_load.time, "sleep", lambda _: None)
    rows = iter([SimpleNamespace(applied=100, snapshot_index=90)])
    later = SimpleNamespace(applied=applied, snapshot_index=snapshot)
    there = SimpleNamespace(
        masters={"b": None},
        leader=lambda: None,
        server=lambda _: SimpleNamespace(alive=True),
        cluster=SimpleNamespace(ask=lambda *_: next(rows, later)),
        kill=lambda *_: {},
        start=lambda _: None,
        hold=lambda _: threading.RLock(),
    )
    fault = FarBehind()
    assert fault.hurt(there, Random(1))["entries"] == 50  # type: ignore[arg-type]  # as much of a place as it asks for
    fault.heal(there)  # type: ignore[arg-type]  # see above
    assert bool(fault.proof(there)) == proven  # type: ignore[arg-type]  # see above


@pytest.mark.root
@pytest.mark.skipif(bool(cpu.possible()), reason=f"NO PROCESS WAS STARVED: {cpu.possible()}")
def test_a_starved_process_waits_and_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FT19."""
    monkeypatch.setattr(Starved, "shares", (0.01,))  # less than it gets on a machine with much else to do
    busy = subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
    marker = Marker()
    try:
        node = SimpleNamespace(alive=True, pid=busy.pid)
        there: Any = SimpleNamespace(workers={"w1": node}, server=lambda _: node, marker=marker)
        fault = Starved()
        assert fault.hurt(there, Random(1))["processes"] == 1
        group = Path("/sys/fs/cgroup/cpu") / f"{marker.prefix}-w1"
        deadline = time.monotonic() + 20
        while "nr_throttled 0" in (group / "cpu.stat").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        fault.heal(there)
        found = fault.proof(there)
        assert found
        assert found["throttled"] > 0
        assert (group / "cpu.cfs_quota_us").read_text().strip() == "-1"
    finally:
        busy.kill()
        busy.wait()
        marker.sweep()
    assert not group.exists(), "nothing of it is left"


def test_a_flood_of_connections_is_counted_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FC30."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        port = server.getsockname()[1]
        taken: list[socket.socket] = []

        def take() -> None:
            with suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        monkeypatch.setattr(ConnectionFlood, "most", 40)
        fault = ConnectionFlood()
        fault._opened = {port: 0}
        there: Any = SimpleNamespace(
            masters={"a": SimpleNamespace(alive=True)},
            leader=lambda: SimpleNamespace(id="a"),
            addresses={"a": "127.0.0.1"},
        )
        fault.hurt(there, Random(1))
        deadline = time.monotonic() + 20
        while fault._opened[port] < 60 and time.monotonic() < deadline:
            time.sleep(0.01)
        fault.heal(there)
        found = fault.proof(there)
        assert found
        assert found["connections"][port] >= 60
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.settimeout(10)
        assert connection.recv(1) == b"", "closed from the other side"
        connection.close()
