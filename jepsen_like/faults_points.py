"""Processes that end at a named point of the code: every row of `points` is a fault.

A master kills itself there, and in half of the cases its disk then loses what was not synced. A worker kills itself; a
task process stops, and then its whole worker is killed, so that nothing on that machine comes further than the point.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

from jepsen_like import errand, flood
from jepsen_like.control import KILL, STOP
from jepsen_like.fault import Fault, Missed, follower_of, leader_of
from jepsen_like.faults_pause import Zombie
from jepsen_like.place import Place
from jepsen_like.points import MASTER, NUMBERS, POINTS, TASK, Point
from mr.errors import Error

_LAG = 700  # entries: two snapshots of the attacked cluster lie in between (place.SETTINGS)
_DIES_S = 5.0


class AtPoint(Fault):
    """A process ends at one point. Armed on every node of the kind: who comes before it is disarmed is hurt."""

    group: ClassVar[str] = "process"
    hurt_s = (0.2, 3.0)
    weight = 0.3
    point: ClassVar[Point]
    passages: ClassVar[int] = 1  # at most so many of a node, this one included, before it ends there
    patience_s: ClassVar[float] = 20.0

    def __init__(self) -> None:
        self.deaths: list[dict[str, Any]] = []
        self.others: list[str] = []  # who was killed to bring it about

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        over = threading.Event()
        bringing = threading.Thread(target=self.bring_about, args=(place, rng, over), daemon=True)
        nodes = sorted(place.masters if self.point.role == MASTER else place.workers)
        power = bool(place.disks) and self.point.role == MASTER and rng.random() < 0.5
        torn = rng.choice([0, rng.randrange(1, 1 << 30)])
        try:
            arm(place, nodes, self.point, rng.randrange(self.passages))
            bringing.start()
            await_hit(place, nodes, self.patience_s)
        finally:
            disarm(place, nodes)
            over.set()
        self.deaths += [self._end(place, id, hit, power, torn) for id, hit in hits(place, nodes)]
        bringing.join()
        if not self.deaths:
            raise Missed(f"nobody came to {self.point.name} within {self.patience_s:g} s")
        return {
            "point": self.point.name,
            "says": self.point.says,
            "deaths": self.deaths,
            "first": self.others,
        }

    def bring_about(self, place: Place, rng: Random, over: threading.Event) -> None:
        """Does what makes a process come to the point; ordinary work does most."""

    def heal(self, place: Place) -> None:
        """See Fault."""
        for id in [*(death["node"] for death in self.deaths), *self.others]:
            place.start(id)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """The process wrote that it came to the point, and then ended by SIGKILL."""
        real = [death for death in self.deaths if death["status"] == -signal.SIGKILL]
        cuts = [death for death in real if death.get("bytes") or death.get("names")]
        if not real:
            return None
        found = {"point": self.point.name, "kills": len(real) - len(cuts), "pids": [d["pid"] for d in real]}
        return found | ({"cuts": len(cuts), "bytes": sum(d["bytes"] for d in cuts)} if cuts else {})

    def _end(self, place: Place, id: str, hit: dict[str, Any], power: bool, torn: int) -> dict[str, Any]:
        """What became of the process that came to the point."""
        with place.hold(id):
            if self.point.role == TASK:
                return {**place.kill(id), "task": hit}
            process = place.server(id).process
            status = None
            if process is not None and process.pid == hit["pid"]:  # else somebody has started it again
                try:
                    status = process.wait(_DIES_S)
                except subprocess.TimeoutExpired:
                    place.kill(id)
            lost = {}
            if power and not place.server(id).alive:
                before = place.disks[id].lost()
                after = place.disks[id].lose(torn)
                lost = {name: after[name] - before[name] for name in ("bytes", "names", "files")}
            return {"node": id, "pid": hit["pid"], "status": status, **lost}


class AtWork(AtPoint):
    """A point that tasks come to: jobs are sent by."""

    def bring_about(self, place: Place, rng: Random, over: threading.Event) -> None:
        """See AtPoint."""
        errand.run(place, "hostile-exit" if self.point.name == "cleaning" else "spill", over)


class AtElection(AtPoint):
    """A point of an election: the leader is killed to have one."""

    masters = 3

    def bring_about(self, place: Place, rng: Random, over: threading.Event) -> None:
        """See AtPoint."""
        leader = leader_of(place, rng)
        place.kill(leader)
        self.others.append(leader)


class AtSnapshot(AtPoint):
    """A point of a snapshot: entries are written until one is due."""

    passages = 2

    def bring_about(self, place: Place, rng: Random, over: threading.Event) -> None:
        """See AtPoint."""
        flood.write(place, 2 * _LAG, self.patience_s, over)


class AtTransfer(AtPoint):
    """A point of receiving a snapshot: a follower is away until it needs one."""

    patience_s = 30.0
    masters = 3

    def bring_about(self, place: Place, rng: Random, over: threading.Event) -> None:
        """See AtPoint."""
        late = follower_of(place, rng)
        with place.hold(late):  # nobody else brings it back meanwhile
            place.kill(late)
            self.others.append(late)
            flood.write(place, _LAG, self.patience_s, over)
        with suppress(Error):  # it may die at once, at the point
            place.start(late, tries=1)


class Often(AtPoint):
    """A point that is passed again and again."""

    passages = 20


class ZombieAtRename(Zombie):
    """A worker that may publish stops before the rename, for longer than its lease, then goes on (FT5)."""

    name = "zombie-before-rename"
    group = AtPoint.group  # a node has one page, so one point is armed at a time
    cites = ("FT5", "FT8", "FD13")
    _point = next(point for point in POINTS if point.name == "output-unrenamed")

    def victim(self, place: Place, rng: Random) -> str:
        """See Pause. The worker whose task process has come to the point, and stands there."""
        nodes, over = sorted(place.workers), threading.Event()
        errands = threading.Thread(target=errand.run, args=(place, "spill", over), daemon=True)
        try:
            arm(place, nodes, self._point, 0)
            errands.start()
            await_hit(place, nodes, AtPoint.patience_s)
        finally:
            disarm(place, nodes)
            over.set()
        first, *others = [id for id, _ in hits(place, nodes)] or [""]
        for id in others:  # two came at once: one is enough
            place.kill(id)
            place.start(id)
        if not first:
            raise Missed(f"nobody came to {self._point.name}")
        return first

    def whole_machine(self, rng: Random) -> bool:
        """See Pause. The task process stands already, and must be woken with its worker."""
        return True


def arm(place: Place, nodes: Iterable[str], point: Point, passages: int) -> None:
    """Who of `nodes` comes to `point` next, after some passages, ends there."""
    for id in nodes:
        place.controls[id].arm(NUMBERS[point.name], STOP if point.role == TASK else KILL, passages)


def disarm(place: Place, nodes: Iterable[str]) -> None:
    """From now on everybody passes. Returns when who was on the way has come to the point."""
    for id in nodes:
        place.controls[id].disarm()
    time.sleep(0.05)


def hits(place: Place, nodes: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """Who has come to the point, and what the process wrote."""
    found = [(id, place.controls[id].hit()) for id in nodes]
    return [(id, hit) for id, hit in found if hit is not None]


def await_hit(place: Place, nodes: Iterable[str], patience_s: float) -> None:
    """Returns when somebody has come, or after that time."""
    deadline = time.monotonic() + patience_s
    while not hits(place, nodes) and time.monotonic() < deadline:
        time.sleep(0.005)


_HOW: dict[str, type[AtPoint]] = {
    "vote-synced": AtElection,
    "elected": AtElection,
    "snapshot-unrenamed": AtSnapshot,
    "snapshot-renamed": AtSnapshot,
    "snapshot-untrimmed": AtSnapshot,
    "snapshot-piece": AtTransfer,
    "snapshot-received": AtTransfer,
    "snapshot-installed": AtTransfer,
    "batch-unsynced": Often,
    "batch-synced": Often,
    "committed-unanswered": AtWork,
    "assign-unsent": Often,
    "settled-unsent": Often,
    "publication-heard": AtWork,
}


def _fault(point: Point) -> type[AtPoint]:
    """The fault of one row."""
    base = _HOW.get(point.name, AtPoint if point.role == MASTER else AtWork)
    what = {MASTER: "A master dies", TASK: "A worker dies"}.get(point.role, "A worker dies")
    return type(
        "At" + point.name.title().replace("-", ""),
        (base,),
        {
            "__doc__": f"{what} when {point.says}.",
            "__module__": __name__,
            "name": f"kill-at-{point.name}",
            "point": point,
            "cites": point.cites,
        },
    )


FAULTS: tuple[type[Fault], ...] = (*(_fault(point) for point in POINTS), ZombieAtRename)
