"""The named points and the launcher: every name resolves, what is armed strikes once and says so, the rest passes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from jepsen_like import failpoints, faults_points
from jepsen_like.control import KILL, Control, Rule
from jepsen_like.fault import Fault, Missed
from jepsen_like.faults import FAULTS
from jepsen_like.points import NUMBERS, POINTS, TASK
from mr.rpc import session_pb2 as session

NAMED = {point.name: point for point in POINTS}


@pytest.mark.parametrize("name", NAMED)
def test_every_point_still_exists(name: str) -> None:
    """A function that is renamed must be renamed in the table, or its fault would miss for ever."""
    _, _, function = failpoints.resolve(NAMED[name].at)
    assert callable(function)


@pytest.mark.parametrize("name", NAMED)
def test_every_point_is_a_fault(name: str) -> None:
    fault = FAULTS[f"kill-at-{name}"]
    assert NAMED[name].says in (fault.__doc__ or "")
    assert fault.cites == NAMED[name].cites


def test_one_point_is_armed_at_a_time() -> None:
    """A node has one page: two faults that arm a point would disarm each other, so they exclude each other."""
    arming = [fault for fault in FAULTS.values() if fault.__module__ == faults_points.__name__]
    assert len(arming) == len(POINTS) + 1
    assert len({fault.group for fault in arming}) == 1


# One process that takes a job from its map to its publication, through the launcher's wrappers.
STORY = """
import sys
from pathlib import Path
from jepsen_like import failpoints
from jepsen_like.points import POINTS
passed = []
for point in POINTS:
    if point.role == "task":
        failpoints.wrap(point, lambda point: passed.append(point.name))
from mr.cli import main
sys.argv = ["mr", "run", sys.argv[1], sys.argv[2], "-o", sys.argv[3], "--inline"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("\\n".join(dict.fromkeys(passed)))
"""
JOB = """
import mr
@mr.mapper
def split(line):
    for word in line.split():
        yield word, 1
@mr.reducer
def count(word, counts):
    yield word, sum(counts)
job = mr.Job("count", [mr.step(split, count, reduces=2)], input=mr.text(), output=mr.tsv(), sort_buffer="1MiB")
"""


def test_a_whole_job_comes_to_every_point_of_a_task(tmp_path: Path) -> None:
    """FT1, FD12: that a name resolves is not enough, a job must come by."""
    (tmp_path / "count.py").write_text(JOB)
    (tmp_path / "in.txt").write_text(" ".join(f"word{number}" for number in range(9_000)) + "\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", STORY, tmp_path / "count.py", tmp_path / "in.txt", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wanted = {point.name for point in POINTS if point.role == TASK} - {"cleaning"}  # of a job that failed
    assert wanted <= set(done.stdout.splitlines())


VICTIM = """
import sys
from pathlib import Path
from jepsen_like import failpoints
from jepsen_like.control import Control
from jepsen_like.points import POINTS
passed = failpoints.trap(Control(Path(sys.argv[1])))
for name in sys.argv[2:]:
    passed(next(point for point in POINTS if point.name == name))
    print(name, flush=True)
"""


def play(page: Path, *names: str) -> tuple[int, list[str]]:
    """A process that comes to these points, one after the other: its status, and which it survived."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", VICTIM, page, *names],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.split()


def test_a_process_dies_where_it_is_told_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "control"
    control = Control(page)
    story = ("elected", "batch-synced", "elected", "batch-synced", "elected")
    assert play(page, *story) == (0, list(story))
    control.arm(NUMBERS["batch-synced"], KILL, passages=1)
    assert play(page, *story) == (-signal.SIGKILL, ["elected", "batch-synced", "elected"])
    hit = control.hit()
    assert hit
    assert hit["point"] == "batch-synced"
    assert play(page, *story) == (0, list(story)), "it strikes once"
    control.arm(NUMBERS["batch-synced"], KILL)
    assert control.hit() is None, "the proof of an earlier death proves nothing"
    control.disarm()
    assert play(page, *story) == (0, list(story))
    control.close()


def test_only_one_of_two_processes_of_a_node_dies(tmp_path: Path) -> None:
    first, second = Control(tmp_path / "control"), Control(tmp_path / "control")
    first.arm(3, KILL)
    assert first.armed(3)
    assert second.armed(3)
    assert not first.armed(4)
    assert first.prove(3, "x") == KILL
    assert second.prove(3, "x") == 0
    first.close()
    second.close()


def test_rules_and_counts_are_seen_on_both_sides(tmp_path: Path) -> None:
    harness, process = Control(tmp_path / "control"), Control(tmp_path / "control")
    assert process.rule_of(2) == Rule(0)
    harness.rule(2, Rule(3, 0.5))
    assert process.rule_of(2) == Rule(3, 0.5)
    assert process.rule_of(1) == Rule(0)
    process.meet(2)
    process.meet(2)
    assert (harness.met(2), harness.met(1)) == (2, 0)
    harness.close()
    process.close()


def test_a_launcher_before_a_launcher_knows_its_role() -> None:
    assert failpoints.role_of(["tests.planted.launch", "bug", "worker.main", "--id", "w1"]) == "worker"
    assert failpoints.role_of(["mr.task", "--serve"]) == "task"
    with pytest.raises(ValueError, match=r"master\.main"):
        failpoints.role_of(["somewhere.else"])


class Node:
    """A server of which only its life matters."""

    def __init__(self, pid: int) -> None:
        self.pid, self.alive = pid, True
        self.process = SimpleNamespace(pid=pid, wait=lambda _: -9)


def point_place(tmp_path: Path) -> Any:
    controls = {id: Control(tmp_path / id) for id in ("a", "b", "c")}
    servers = {id: Node(pid) for pid, id in enumerate(controls, 100)}
    started: list[str] = []
    return SimpleNamespace(
        masters=servers,
        workers={},
        servers=servers,
        server=servers.__getitem__,
        controls=controls,
        disks={},
        started=started,
        start=started.append,
        hold=lambda _: __import__("threading").RLock(),
    )


def test_a_point_that_nobody_comes_to_is_missed_and_disarmed(tmp_path: Path) -> None:
    there = point_place(tmp_path)
    fault = FAULTS["kill-at-batch-synced"]()
    assert isinstance(fault, faults_points.AtPoint)
    fault.patience_s = 0.05  # type: ignore[misc]  # for this test
    with pytest.raises(Missed, match="batch-synced"):
        fault.hurt(there, Random(1))
    assert not any(control.armed(NUMBERS["batch-synced"]) for control in there.controls.values())
    fault.heal(there)
    assert fault.proof(there) is None
    assert not there.started


def test_who_came_to_the_point_is_proven_and_started_again(tmp_path: Path) -> None:
    there = point_place(tmp_path)
    fault = FAULTS["kill-at-batch-synced"]()
    arm, number = Control.arm, NUMBERS["batch-synced"]

    class Struck(Control):
        def arm(self, point: int, deed: int, passages: int = 0) -> None:
            arm(self, point, deed, passages)
            line = {"point": "batch-synced", "pid": 101, "t": 1}
            self.hit_file.write_text(json.dumps(line))

    there.controls["b"] = Struck(tmp_path / "b")
    done = fault.hurt(there, Random(1))
    assert [death["node"] for death in done["deaths"]] == ["b"]
    fault.heal(there)
    assert there.started == ["b"]
    assert fault.proof(there) == {"point": "batch-synced", "kills": 1, "pids": [101]}
    assert not any(control.armed(number) for control in there.controls.values())


def test_a_repeated_message_holds_nothing_that_opens_a_session() -> None:
    from jepsen_like import replays

    events = replays.Repeatable("events", replays._EVENTS)
    attach = session.WorkerEvent(attach=session.Attach(worker="w1"))
    beat = session.WorkerEvent(heartbeat=session.Heartbeat(sequence=7))
    both = session.WorkerMessage(events=[attach, beat])
    assert events.of(both) == session.WorkerMessage(events=[beat])
    assert both.events[0] == attach, "the original is as it was"
    assert events.of(session.WorkerMessage(events=[attach])) is None


@pytest.mark.parametrize(("every", "met"), [(0, []), (1, [0, 1, 2, 3, 4, 5]), (3, [2, 5])])
def test_every_nth_message_is_met(tmp_path: Path, every: int, met: list[int]) -> None:
    from jepsen_like import replays

    control = Control(tmp_path / "control")
    dice = replays.Dice(control)
    control.rule(replays.CALLS, Rule(every, 1.5))
    fallen = [dice.fall(replays.CALLS) for _ in range(6)]
    assert [number for number, late_s in enumerate(fallen) if late_s == 1.5] == met
    assert control.met(replays.CALLS) == len(met)
    control.close()


RPC = [fault for fault in FAULTS.values() if fault.group == "rpc"]


@pytest.mark.parametrize("kind", RPC, ids=lambda fault: fault.name)
def test_a_message_fault_sets_its_rule_clears_it_and_counts(tmp_path: Path, kind: type[Fault]) -> None:
    """FT6, FT7."""
    there = point_place(tmp_path)
    there.workers = there.masters
    fault = kind()
    fault.hurt(there, Random(2))
    number = fault.rule_number  # type: ignore[attr-defined]  # those of the group have it
    assert all(control.rule_of(number).every for control in there.controls.values())
    there.controls["b"].meet(number)
    fault.heal(there)
    assert not any(control.rule_of(number).every for control in there.controls.values())
    assert fault.proof(there) == {"messages": 1}
    idle = kind()
    idle.hurt(there, Random(2))
    idle.heal(there)
    assert idle.proof(there) is None, "what was met before proves nothing"
