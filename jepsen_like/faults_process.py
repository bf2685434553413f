"""Processes that die, or are asked to go."""

from __future__ import annotations

import signal
import subprocess
import time
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, Missed, follower_of, leader_of, worker_of
from jepsen_like.place import Place
from mr.errors import Error

_TERM_S = 40.0  # a worker may finish what it runs for 25 s


class Kill(Fault):
    """SIGKILL to some nodes at once; they come back when it heals."""

    group: ClassVar[str] = "process"
    hurt_s = (0.2, 5.0)

    def __init__(self) -> None:
        self.killed: list[dict[str, Any]] = []

    def victims(self, place: Place, rng: Random) -> list[str]:
        """Who dies."""
        raise NotImplementedError

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self.killed += [place.kill(id) for id in self.victims(place, rng)]
        if not any(death["lived"] for death in self.killed):
            raise Missed("all were down already")
        return {"killed": self.killed}

    def heal(self, place: Place) -> None:
        """See Fault."""
        for death in self.killed:
            place.start(death["node"])

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Processes that lived, and ended by this signal."""
        deaths = [d for d in self.killed if d["lived"] and d["status"] == -signal.SIGKILL]
        return {"kills": len(deaths), "pids": [d["pid"] for d in deaths]} if deaths else None


class KillLeader(Kill):
    """The leader dies (FC1, FT9, FT10)."""

    name = "kill-leader"
    weight = 3.0
    cites: ClassVar[tuple[str, ...]] = ("FC1", "FT8", "FT9", "FT10", "FT15")

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See Kill."""
        return [leader_of(place, rng)]


class SlowSuccession(KillLeader):
    """The leader dies while the disks of the others are slow: whoever follows it does not know for half a second which
    entries are committed, and may not answer what it does not know (FC1, FC16, C11)."""

    name = "slow-succession"
    weight = 1.0
    hurt_s = (2.0, 5.0)
    needs: ClassVar[tuple[str, ...]] = ("shim",)
    masters = 3
    cites = ("FC1", "FC16", "FT8")
    _FSYNC_S = 0.5

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        done = super().hurt(place, rng)
        for id in self._others(place):
            place.shims[id].delay_syncs(self._FSYNC_S)
        return done | {"fsync_s": self._FSYNC_S}

    def heal(self, place: Place) -> None:
        """See Fault."""
        for id in self._others(place):
            place.shims[id].delay_syncs(0)
        super().heal(place)

    def _others(self, place: Place) -> list[str]:
        return sorted(set(place.masters) - {death["node"] for death in self.killed})


class KillFollower(Kill):
    """A master that does not lead dies."""

    name = "kill-follower"
    cites = ("FC2",)

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See Kill."""
        return [follower_of(place, rng)]


class KillMasters(Kill):
    """All masters die at once (FC3)."""

    name = "kill-all-masters"
    hurt_s = (0.2, 3.0)
    cites = ("FC3",)

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See Kill."""
        return sorted(place.masters)


class KillWorker(Kill):
    """A worker dies, and its map outputs are away until it is back (FT1, FD1)."""

    name = "kill-worker"
    weight = 2.0
    cites = ("FT1", "FD1", "FD22")

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See Kill."""
        return [worker_of(place, rng)]


class KillWorkers(Kill):
    """All workers die at once (FT3)."""

    name = "kill-all-workers"
    hurt_s = (0.5, 6.0)
    cites = ("FT3",)

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See Kill."""
        return sorted(place.workers)


class KillBurst(Kill):
    """Nodes of any kind die at random moments, one soon after the other, and are started at once."""

    name = "kill-burst"
    weight = 2.0
    hurt_s = (0.1, 1.0)
    cites = ("FC2", "FC4", "FC24", "FT1")

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        for _ in range(rng.randint(3, 6)):
            time.sleep(rng.uniform(0.0, 0.6))
            id = leader_of(place, rng) if rng.random() < 0.3 else rng.choice(sorted(place.servers))
            self.killed.append(place.kill(id))
            place.start(id)
        return {"killed": self.killed}


class ColdRestart(Kill):
    """A master is away while entries are written; then the others die, and it comes first with the older log (FC4)."""

    name = "cold-restart"
    hurt_s = (4.0, 7.0)
    cites = ("FC4",)
    masters = 3

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        late = follower_of(place, rng)
        self.killed.append(place.kill(late))
        return {"away": late}

    def heal(self, place: Place) -> None:
        """See Fault."""
        late = [death["node"] for death in self.killed]
        for id in sorted(place.masters):
            if id not in late:
                self.killed.append(place.kill(id))
        for death in self.killed:
            place.start(death["node"])


class RollingRestart(Fault):
    """Every master is stopped by SIGTERM and started again, one after the other (FC28)."""

    name = "rolling-restart"
    group = "process"
    hurt_s = (0.5, 2.0)
    cites = ("FC28",)

    def __init__(self) -> None:
        self.ended: list[dict[str, Any]] = []

    def victims(self, place: Place, rng: Random) -> list[str]:
        """Who is restarted, in this order."""
        return rng.sample(sorted(place.masters), len(place.masters))

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        for id in self.victims(place, rng):
            self.ended.append(terminate(place, id))
            place.start(id)
            time.sleep(0.5)
        return {"ended": self.ended}

    def heal(self, place: Place) -> None:
        """See Fault."""
        for end in self.ended:
            place.start(end["node"])

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Processes that ended by themselves when asked to."""
        done = [end for end in self.ended if end["lived"] and end["status"] is not None]
        return {"terminations": len(done), "statuses": [end["status"] for end in done]} if done else None


class TerminateLeader(RollingRestart):
    """The leader is told to go, and hands over first."""

    name = "terminate-leader"
    cites = ("FC28",)

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See RollingRestart."""
        return [leader_of(place, rng)]


class DrainWorker(RollingRestart):
    """A worker is told to go, and leaves when nobody needs it."""

    name = "terminate-worker"
    cites = ("FT21",)

    def victims(self, place: Place, rng: Random) -> list[str]:
        """See RollingRestart."""
        return [worker_of(place, rng)]


class Transfer(Fault):
    """Leadership is moved by command while work goes on."""

    name = "transfer-leadership"
    group = "process"
    hurt_s = (0.1, 1.0)
    masters = 3
    cites = ("FC28",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self._before = place.leader()
        to = follower_of(place, rng)
        if self._before is None:
            raise Missed("nobody leads")
        try:
            with place.connect(timeout=10) as client:
                transfer(client, to)
        except Error as error:
            raise Missed(f"refused: {error}") from error
        return {"to": to}

    def heal(self, place: Place) -> None:
        """See Fault."""

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Another one leads, in a newer term."""
        now = place.leader()
        if self._before is None or now is None or now.term == self._before.term:
            return None
        return {"from": self._before.id, "to": now.id, "term": now.term}


def terminate(place: Place, id: str) -> dict[str, Any]:
    """SIGTERM, and SIGKILL when that does not end it. Says how it ended."""
    server = place.server(id)
    told = place.kill(id, signal.SIGTERM)
    process = server.process
    if process is not None:
        try:
            told["status"] = process.wait(timeout=_TERM_S)
        except subprocess.TimeoutExpired:
            told |= place.kill(id) | {"late": True}
    return told


def transfer(client: Any, to: str) -> None:
    """Asks the leader to hand over to `to`. Raises mr.Error."""
    from mr.rpc.cluster_pb2 import TransferRequest

    client.calls.call("Transfer", TransferRequest(to=to), timeout=10.0)


FAULTS: tuple[type[Fault], ...] = (
    KillLeader,
    SlowSuccession,
    KillFollower,
    KillMasters,
    KillWorker,
    KillWorkers,
    KillBurst,
    ColdRestart,
    RollingRestart,
    TerminateLeader,
    DrainWorker,
    Transfer,
)
