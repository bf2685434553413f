"""Links that are cut: whom the leader, a worker or a client does not reach, and in which direction."""

from __future__ import annotations

import threading
from random import Random
from typing import Any

from jepsen_like.fault import Fault, leader_of, worker_of
from jepsen_like.faults_net import NetFault
from jepsen_like.links import among, between
from jepsen_like.net import CLIENT, Link
from jepsen_like.place import Place


class Partition(NetFault):
    """Links are cut; nobody is told."""

    hurt_s = (1.0, 8.0)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """Which ones, each in its direction."""
        raise NotImplementedError

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        links = self.links(place, rng)
        place.links.cut(links)
        return {"cut": links}


class LeaderFromMasters(Partition):
    """The other masters do not reach the leader; workers and clients do (FC8)."""

    name = "leader-from-masters"
    weight = 2.0
    masters = 3
    cites = ("FC8", "FT12")

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        return between([leader], [id for id in place.masters if id != leader])


class LeaderAlone(Partition):
    """Nobody reaches the leader (FC7)."""

    name = "leader-alone"
    weight = 2.0
    cites = ("FC7",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        return between([leader], [CLIENT, *(id for id in place.servers if id != leader)])


class Halves(Partition):
    """All nodes fall into two parts, clients with one of them."""

    name = "halves"
    cites = ("FC7", "FT11")

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        nodes = [CLIENT, *sorted(place.servers)]
        rng.shuffle(nodes)
        half = len(nodes) // 2
        return between(nodes[:half], nodes[half:])


class Minority(Partition):
    """Two of five masters, the leader among them half the time, are away from the others (FC13)."""

    name = "minority"
    masters = 5
    cites = ("FC13",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        others = rng.sample([id for id in sorted(place.masters) if id != leader], 2)
        few = [leader, others[0]] if rng.random() < 0.5 else others
        return between(few, [id for id in place.servers if id not in few])


class Bridge(Partition):
    """Two masters, the leader one of them, see each other only through a third (FC10)."""

    name = "bridge"
    masters = 3
    cites = ("FC10",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        return between([leader], [rng.choice([id for id in sorted(place.masters) if id != leader])])


class Ring(Partition):
    """Each of five masters sees its two neighbours only (FC11)."""

    name = "ring"
    masters = 5
    cites = ("FC11",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        ring = rng.sample(sorted(place.masters), len(place.masters))
        seen = {frozenset((ring[n], ring[n - 1])) for n in range(len(ring))}
        return [(a, b) for a, b in among(ring) if frozenset((a, b)) not in seen]


class MastersApart(Partition):
    """No master reaches another; clients and workers reach them all (C15: nothing may be acknowledged)."""

    name = "masters-apart"
    masters = 3
    cites = ("FC8",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        return among(sorted(place.masters))


class LeaderDeaf(Partition):
    """The leader is heard by all masters and hears none (FC9)."""

    name = "leader-deaf"
    masters = 3
    cites = ("FC9",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        return [(id, leader) for id in place.masters if id != leader]


class LeaderMute(Partition):
    """The leader hears all masters and is heard by none (FC9)."""

    name = "leader-mute"
    masters = 3
    cites = ("FC9",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        return [(leader, id) for id in place.masters if id != leader]


class WorkersApart(Partition):
    """Workers do not reach each other; masters see them all (FD6)."""

    name = "workers-apart"
    hurt_s = (3.0, 12.0)
    cites = ("FD6",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        return among(sorted(place.workers))


class WorkerPairApart(Partition):
    """One worker does not reach another; others do (FD7)."""

    name = "workers-pair-apart"
    hurt_s = (3.0, 12.0)
    cites = ("FD7",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        one, other = (rng.sample(sorted(place.workers), 2) * 2)[:2]
        return between([one], [other])


class WorkerFromLeader(Partition):
    """A worker does not reach the leader, but the other masters (FT12)."""

    name = "worker-from-leader"
    cites = ("FT12",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        return between([worker_of(place, rng)], [leader_of(place, rng)])


class WorkerFromMasters(Partition):
    """A worker reaches no master, for less than its lease or more (FT11)."""

    name = "worker-from-masters"
    hurt_s = (2.0, 14.0)
    cites = ("FT11",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        return between([worker_of(place, rng)], sorted(place.masters))


class WorkerDeaf(Partition):
    """A worker is heard by the masters and hears none, or the reverse (FT13)."""

    name = "worker-one-way"
    hurt_s = (2.0, 14.0)
    cites = ("FT13",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        worker, turned = worker_of(place, rng), rng.random() < 0.5
        return [(worker, id) if turned else (id, worker) for id in sorted(place.masters)]


class ClientsFromLeader(Partition):
    """Clients do not reach the leader; everybody else does."""

    name = "clients-from-leader"
    cites = ("FC7",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        return between([CLIENT], [leader_of(place, rng)])


class LostReplies(Partition):
    """What clients and workers ask the leader arrives; its answers do not (FT7)."""

    name = "lost-replies"
    hurt_s = (1.0, 5.0)
    cites = ("FT7",)

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        return [(leader, id) for id in (CLIENT, *sorted(place.workers))]


class Flapping(Partition):
    """The links of the leader to the other masters come and go, each second (FC12)."""

    name = "flapping"
    hurt_s = (5.0, 10.0)
    masters = 3
    cites = ("FC12",)

    def __init__(self) -> None:
        super().__init__()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def links(self, place: Place, rng: Random) -> list[Link]:
        """See Partition."""
        leader = leader_of(place, rng)
        return between([leader], [id for id in place.masters if id != leader])

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        links = self.links(place, rng)
        self._thread = threading.Thread(target=self._flap, args=(place, links), daemon=True)
        self._thread.start()
        return {"cut": links}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        self._note(place)

    def _flap(self, place: Place, links: list[Link]) -> None:
        while not self._stop.is_set():
            place.links.cut(links)
            self._stop.wait(1.0)
            self._note(place)
            self._stop.wait(1.0)

    def _note(self, place: Place) -> None:
        for name, count in place.links.struck().items():
            self.struck[name] = self.struck.get(name, 0) + count
        place.links.heal()


FAULTS: tuple[type[Fault], ...] = (
    LeaderFromMasters,
    LeaderAlone,
    Halves,
    Minority,
    Bridge,
    Ring,
    MastersApart,
    LeaderDeaf,
    LeaderMute,
    WorkersApart,
    WorkerPairApart,
    WorkerFromLeader,
    WorkerFromMasters,
    WorkerDeaf,
    ClientsFromLeader,
    LostReplies,
    Flapping,
)
