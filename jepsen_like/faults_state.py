"""State that is lost or altered: power cuts, damaged files, a disk that is gone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, Missed, follower_of, leader_of, master_of
from jepsen_like.faults_disk import DiskFault
from jepsen_like.place import Place, empty
from mr.errors import Error

_CATCH_UP_S = 45.0


class PowerCut(DiskFault):
    """A master loses power: it dies, and what it had not synced is gone (FC5)."""

    name = "power-cut"
    weight = 2.0
    hurt_s = (0.2, 3.0)
    needs: ClassVar[tuple[str, ...]] = ("lossy",)
    cites: ClassVar[tuple[str, ...]] = ("FC5", "FC24")

    def __init__(self) -> None:
        self.cut: list[dict[str, Any]] = []

    def victims(self, place: Place, rng: Random) -> list[str]:
        """Who loses power, all at once."""
        return [leader_of(place, rng) if rng.random() < 0.5 else master_of(place, rng)]

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        victims = self.victims(place, rng)
        deaths = [place.kill(id) for id in victims]  # all are dead before the first disk forgets
        for death in deaths:
            disk = place.disks[death["node"]]
            before = disk.lost()
            after = disk.lose(torn=rng.choice([0, rng.randrange(1, 1 << 30)]))
            lost = {name: after[name] - before[name] for name in ("bytes", "names", "files")}
            self.cut.append({**death, **lost})
        if not any(death["lived"] for death in deaths):
            raise Missed("all were down already")
        return {"cut": self.cut}

    def heal(self, place: Place) -> None:
        """See Fault."""
        for cut in self.cut:
            place.start(cut["node"])

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Processes that died, and bytes and names that were lost."""
        real = [c for c in self.cut if c["status"] == -signal.SIGKILL and (c["bytes"] or c["names"])]
        if not real:
            return None
        return {
            "cuts": len(real),
            "bytes": sum(c["bytes"] for c in real),
            "names": sum(c["names"] for c in real),
        }


class PowerCutAll(PowerCut):
    """All masters lose power at once (FC5)."""

    name = "power-cut-all"
    weight = 1.0
    cites = ("FC5", "FC3")

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See PowerCut."""
        return sorted(place.masters)


class PowerCutVote(PowerCut):
    """The leader dies, and a voter loses power while another is elected (FC6)."""

    name = "power-cut-vote"
    weight = 1.0
    masters = 3
    cites = ("FC6",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        leader = leader_of(place, rng)
        self._killed = place.kill(leader)
        time.sleep(rng.uniform(0.2, 0.8))
        self._voter = rng.choice([id for id in sorted(place.masters) if id != leader])
        return super().hurt(place, rng)

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See PowerCut."""
        return [self._voter]

    def heal(self, place: Place) -> None:
        """See Fault."""
        super().heal(place)
        place.start(self._killed["node"])


class DamagedMapOutput(DiskFault):
    """A finished map output on a worker is altered, cut short or deleted (FD2)."""

    name = "damaged-map-output"
    weight = 2.0
    hurt_s = (3.0, 5.0)
    cites = ("FD2",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self._done: list[dict[str, Any]] = []
        deadline = time.monotonic() + 2.5
        while not self._done and time.monotonic() < deadline:
            for id in rng.sample(sorted(place.workers), len(place.workers)):
                found = sorted(place.workers[id].work_dir.glob("jobs/*/map/*.seg"))
                for path in rng.sample(found, min(len(found), 3)):
                    self._done += [{"node": id, **what} for what in _damage(path, rng)]
            time.sleep(0.05)
        if not self._done:
            raise Missed("no worker had a map output")
        return {"damaged": self._done}

    def heal(self, place: Place) -> None:
        """See Fault. There is nothing to undo: the cluster makes it again."""

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Files whose bytes changed."""
        return {"files": len(self._done), "how": self._done} if self._done else None


class DamagedMaster(DiskFault):
    """A bit is altered, or a file is gone, in the state of a stopped master (FC19, FC20).

    It refuses, or is well again from its peers; one that refuses gets a new disk and comes back without a vote."""

    name = "damaged-master"
    hurt_s = (0.5, 2.0)
    masters = 3
    cites = ("FC19", "FC20")

    def __init__(self) -> None:
        self._id = ""
        self._done: list[dict[str, Any]] = []
        self.refused = ""

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        await_together(place)
        self._id = follower_of(place, rng)
        place.kill(self._id)
        self.damage(place, rng)
        return {"node": self._id, "damaged": self._done}

    def damage(self, place: Place, rng: Random) -> None:
        """What is done to its folder."""
        folder = place.server(self._id).data_dir / "raft"
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
        kept = [
            path for path in files if path.name not in ("lock", "LOCK") and not path.name.startswith("LOG")
        ]
        self._done += _damage(rng.choice(kept), rng)

    def heal(self, place: Place) -> None:
        """See Fault."""
        if not self._id:
            return
        try:
            place.start(self._id, tries=1)
            await_together(place)
        except Error as error:
            self.refused = str(error)[:300]
            place.replace(self._id)
            await_together(place)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Files whose bytes changed, and what the member said to it."""
        return {"damaged": self._done, "refused": self.refused} if self._done else None


class WipedMaster(DamagedMaster):
    """The whole state of a stopped master is gone (FC20)."""

    name = "wiped-master"

    def damage(self, place: Place, rng: Random) -> None:
        """See DamagedMaster."""
        folder = place.server(self._id).data_dir
        count = sum(path.is_file() for path in folder.rglob("*"))
        empty(folder)
        self._done.append({"file": str(folder), "how": "emptied", "files": count})


def await_together(place: Place, timeout: float = _CATCH_UP_S) -> None:
    """Returns when every master runs and has applied what the leader had committed. Raises Error: these faults take a
    disk away, and may do so only while the others have everything."""
    deadline = time.monotonic() + timeout
    told: dict[str, str] = {}
    while time.monotonic() < deadline:
        leader = place.leader()
        rows = {id: place.cluster.ask(server, 1.0) for id, server in place.masters.items()}
        told = {id: f"{row.role} {row.applied} {row.note}" if row else "silent" for id, row in rows.items()}
        if leader and all(row and row.applied >= leader.commit and not row.note for row in rows.values()):
            return
        time.sleep(0.2)
    raise Error(f"the masters are not together after {timeout:.0f} s: {told}")


def _damage(path: Path, rng: Random) -> list[dict[str, Any]]:
    """Alters one file in one of several ways; nothing when it went away meanwhile."""
    how = rng.choice(["flip", "flip", "truncate", "delete"])
    try:
        size = path.stat().st_size
        at = rng.randrange(size)
        match how:
            case "flip":
                with path.open("r+b", buffering=0) as file:
                    old = os.pread(file.fileno(), 1, at)[0]
                    os.pwrite(file.fileno(), bytes([old ^ 1 << rng.randrange(8)]), at)
                    os.fsync(file.fileno())
            case "truncate":
                os.truncate(path, at)
            case "delete":
                path.unlink()
    except (OSError, ValueError):
        return []
    return [{"file": str(path), "how": how, "at": at, "size": size}]


FAULTS: tuple[type[Fault], ...] = (
    PowerCut,
    PowerCutAll,
    PowerCutVote,
    DamagedMapOutput,
    DamagedMaster,
    WipedMaster,
)
