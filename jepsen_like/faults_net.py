"""Links that are cut, one-way, lossy, slow, reset or altered."""

from __future__ import annotations

import random
import socket
import threading
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, leader_of, worker_of
from jepsen_like.links import DATA, GRPC, RAFT, NetLinks, among, between
from jepsen_like.net import CLIENT, Link
from jepsen_like.place import Place
from jepsen_like.proxy import Treatment


class NetFault(Fault):
    """All faults of the network are one group, so a heal may heal everything."""

    group: ClassVar[str] = "net"
    cites: ClassVar[tuple[str, ...]] = ("FC22",)

    def __init__(self) -> None:
        self.struck: dict[str, int] = {}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self.struck = place.links.struck()
        place.links.heal()

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Packets that met a rule, or bytes and connections that a proxy treated."""
        struck = {name: count for name, count in self.struck.items() if count}
        return {"struck": struck} if struck else None


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


class Loss(NetFault):
    """A tenth to a third of all packets between masters, or between all nodes, vanishes (FC22)."""

    name = "loss"
    hurt_s = (4.0, 10.0)
    needs = ("netns",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        share = rng.uniform(0.1, 0.3)
        nodes = sorted(place.masters) if rng.random() < 0.5 else sorted(place.servers)
        assert isinstance(place.links, NetLinks), "only there is it possible"
        place.links.lose(among(nodes), share)
        return {"share": round(share, 3), "among": nodes}


class LowBandwidth(NetFault):
    """What the leader and a worker send leaves at 16 to 64 kbit/s (FC22)."""

    name = "low-bandwidth"
    hurt_s = (4.0, 10.0)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        nodes, kbit = [leader_of(place, rng), worker_of(place, rng)], rng.choice([16, 32, 64])
        place.links.squeeze(nodes, kbit)
        return {"nodes": nodes, "kbit": kbit}


class Resets(NetFault):
    """Connections of one node are reset, and refused."""

    name = "resets"
    hurt_s = (0.5, 4.0)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        node = leader_of(place, rng) if rng.random() < 0.5 else rng.choice(sorted(place.servers))
        place.links.reset(between([node], [id for id in sorted(place.servers) if id != node]))
        return {"node": node}


class CutAfter(NetFault):
    """Every connection with the leader, and perhaps between workers, is reset after so many bytes (FD4)."""

    name = "cut-after-bytes"
    hurt_s = (4.0, 10.0)
    cites = ("FD4",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        count = rng.choice([4_000, 8_000, 20_000])
        leader = leader_of(place, rng)
        links = between([leader], [id for id in sorted(place.servers) if id != leader])
        if rng.random() < 0.5:
            links += among(sorted(place.workers))
        place.links.cut_after(links, count)
        return {"bytes": count, "links": len(links)}


class Treated(NetFault):
    """What only a proxy can do, to some of the links."""

    hurt_s = (3.0, 9.0)
    between_workers = 0.5  # how often it is the links between workers, and not those of the leader

    def treatment(self, rng: Random) -> Treatment:
        """What is done."""
        raise NotImplementedError

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        treatment = self.treatment(rng)
        if rng.random() < self.between_workers:
            who, links = "workers", among(sorted(place.workers))
        else:
            who = leader_of(place, rng)
            links = between([who], [id for id in sorted(place.servers) if id != who])
        place.links.treat(links, treatment)
        changed = {k: v for k in treatment.__slots__ if (v := getattr(treatment, k))}
        return {"links of": who, **changed}

    def proof(self, place: Place) -> dict[str, Any] | None:
        """What proxies did: packets reset on the way to them are no proof."""
        struck = {name: count for name, count in self.struck.items() if count and " " in name}
        return {"struck": struck} if struck else None


class Delay(Treated):
    """20 to 300 ms, with jitter."""

    name = "delay"

    def treatment(self, rng: Random) -> Treatment:
        """See Treated."""
        return Treatment(delay_s=rng.choice([0.02, 0.1, 0.3]), jitter_s=rng.choice([0.01, 0.1]))


class BitFlips(Treated):
    """Bits are altered in flight (FD3). TLS turns them into broken connections."""

    name = "bit-flips"
    cites = ("FD3",)

    def treatment(self, rng: Random) -> Treatment:
        """See Treated."""
        return Treatment(flip_every=rng.choice([500, 5_000, 50_000]))


class Trickle(Treated):
    """A few hundred bytes a second (FD5)."""

    name = "trickle"
    cites = ("FD5",)

    def treatment(self, rng: Random) -> Treatment:
        """See Treated."""
        return Treatment(bytes_per_s=rng.choice([100, 2_000]))


class BlackHole(Treated):
    """Connections open, and nothing ever passes (FD5)."""

    name = "black-hole"
    cites = ("FD5",)

    def treatment(self, rng: Random) -> Treatment:
        """See Treated."""
        return Treatment(hold=True)


class HalfOpen(Treated):
    """The far end is gone and the near end is not told (FC30)."""

    name = "half-open"
    cites = ("FC30", "FT7")

    def treatment(self, rng: Random) -> Treatment:
        """See Treated."""
        return Treatment(half_open=True)


class HostileBytes(Fault):
    """Random bytes, broken greetings and connections that say nothing, to every port of every node (FC30)."""

    name = "hostile-bytes"
    group = "hostile"
    hurt_s = (1.0, 4.0)
    cites = ("FC30", "S1", "S6")

    def __init__(self) -> None:
        self._silent: list[socket.socket] = []
        self._sent: dict[str, int] = {}

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        for id in sorted(place.servers):
            for port in (GRPC, RAFT) if id in place.masters else (DATA,):
                for greeting in _greetings(rng):
                    self._send(f"{id}:{port}", (place.addresses[id], port), greeting)
                self._stay((place.addresses[id], port))
        return {"ports": sorted(self._sent), "silent connections": len(self._silent)}

    def heal(self, place: Place) -> None:
        """See Fault."""
        for connection in self._silent:
            connection.close()

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Bytes that a port took."""
        return {"bytes": sum(self._sent.values()), "ports": len(self._sent)} if self._sent else None

    def _send(self, name: str, address: tuple[str, int], data: bytes) -> None:
        try:
            with socket.create_connection(address, timeout=1.0) as connection:
                connection.sendall(data)
                self._sent[name] = self._sent.get(name, 0) + len(data)
        except OSError:
            pass  # the node may be down, or may close on us

    def _stay(self, address: tuple[str, int]) -> None:
        for _ in range(10):
            try:
                self._silent.append(socket.create_connection(address, timeout=1.0))
            except OSError:
                return


def _greetings(rng: random.Random) -> list[bytes]:
    return [
        rng.randbytes(rng.randint(1, 5000)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(200),
        b"\x16\x03\x01\xff\xff\x01" + rng.randbytes(300),  # TLS, and longer than it is
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 8 + rng.randbytes(50),
    ]


FAULTS: tuple[type[Fault], ...] = (
    LeaderFromMasters,
    LeaderAlone,
    Halves,
    Minority,
    Bridge,
    Ring,
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
    Loss,
    LowBandwidth,
    Resets,
    CutAfter,
    Delay,
    BitFlips,
    Trickle,
    BlackHole,
    HalfOpen,
    HostileBytes,
)
