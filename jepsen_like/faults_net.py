"""Links that are lossy, slow, reset or altered; and bytes that nobody asked for."""

from __future__ import annotations

import random
import socket
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, leader_of, worker_of
from jepsen_like.links import DATA, GRPC, RAFT, NetLinks, among, between
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
        return Treatment(flip_every=rng.choice([200, 1_000, 4_000]))


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
