"""What can be done to the connections between nodes, the same words for both kinds of network.

`NetLinks` uses the rules of the namespaces, and for what rules cannot do diverts connections through proxies;
`ProxyLinks` has only proxies. Both count what they did, so that a run can prove it. Nodes are named by id; `CLIENT` is
whoever is no node.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from itertools import permutations

from jepsen_like.net import CLIENT, Link, Network
from jepsen_like.proxy import Gate, ProxyProcess, Treatment

GRPC, RAFT, DATA = 7070, 7071, 7075  # every node has an address of its own, so all have the same ports


def ports(node_is_master: bool) -> tuple[int, ...]:
    """What a node listens on."""
    return (GRPC, RAFT) if node_is_master else (DATA,)


def between(some: Collection[str], others: Collection[str]) -> list[Link]:
    """Every link from one side to the other, both directions."""
    return [link for a in some for b in others if a != b for link in ((a, b), (b, a))]


def among(nodes: Collection[str]) -> list[Link]:
    """Every link between two of them, both directions."""
    return list(permutations(nodes, 2))


class Links(ABC):
    """All links of a place."""

    @abstractmethod
    def cut(self, links: Iterable[Link]) -> None:
        """Nothing passes; nobody is told."""

    @abstractmethod
    def reset(self, links: Iterable[Link]) -> None:
        """Connections are refused, open ones reset."""

    @abstractmethod
    def cut_after(self, links: Iterable[Link], count: int) -> None:
        """Each connection is reset after `count` bytes."""

    @abstractmethod
    def squeeze(self, nodes: Iterable[str], kbit: int) -> None:
        """What these nodes send leaves at `kbit` per second."""

    @abstractmethod
    def treat(self, links: Iterable[Link], treatment: Treatment) -> None:
        """See Treatment. Connections may be reset when it begins and when it ends."""

    @abstractmethod
    def heal(self) -> None:
        """All links are well."""

    @abstractmethod
    def struck(self) -> dict[str, int]:
        """What was done since the last heal: packets by node, or bytes and connections by name."""


class NetLinks(Links):
    """By rules in the namespaces (needs root)."""

    def __init__(self, network: Network, masters: Collection[str], proxies: ProxyProcess) -> None:
        self.network = network
        self._masters = frozenset(masters)
        self._proxies = proxies
        self._before: dict[str, int] = {}
        self._treated: set[Link] = set()
        self._gates: dict[tuple[Link, int], tuple[str, int]] = {}

    def cut(self, links: Iterable[Link]) -> None:
        """See Links."""
        self.network.cut(links)

    def lose(self, links: Iterable[Link], share: float) -> None:
        """That share of the packets vanishes."""
        self.network.lose(links, share)

    def reset(self, links: Iterable[Link]) -> None:
        """See Links."""
        self.network.reset(links)

    def cut_after(self, links: Iterable[Link], count: int) -> None:
        """See Links."""
        self.network.cut_after(links, count)

    def squeeze(self, nodes: Iterable[str], kbit: int) -> None:
        """See Links."""
        self.network.squeeze(nodes, kbit)

    def treat(self, links: Iterable[Link], treatment: Treatment) -> None:
        """See Links. The client's links are left alone: they leave from the machine's own namespace."""
        wanted = {link for link in links if CLIENT not in link}
        either = wanted | {(b, a) for a, b in wanted}
        self._before = self._proxies.struck()
        self._proxies.treat(wanted, treatment)
        wanted_gates = [(link, port) for link in sorted(either) for port in ports(link[1] in self._masters)]
        self.network.divert({(link, port): self._gate(link, port) for link, port in wanted_gates})
        self._break(either)
        self._treated |= either

    def heal(self) -> None:
        """See Links."""
        self._proxies.heal()
        self.network.heal()
        if self._treated:
            self._proxies.treat(self._treated, Treatment(refuse=True))  # back to the direct way
            self._proxies.heal()
            self._treated.clear()
        self._before = self._proxies.struck()

    def struck(self) -> dict[str, int]:
        """See Links."""
        done = _since(self._before, self._proxies.struck()) if self._treated else {}
        return self.network.struck() | done

    def _gate(self, link: Link, port: int) -> tuple[str, int]:
        if (link, port) not in self._gates:
            source, to = link
            gate = Gate(
                listen=(self.network.addresses[CLIENT], 0),
                target=(self.network.addresses[to], port),
                to=to,
                source=source,
            )
            self._gates[link, port] = self._proxies.open(gate)
        return self._gates[link, port]

    def _break(self, links: Collection[Link]) -> None:
        """Open connections go on beside the diversion until something ends them."""
        self.network.reset(links)
        time.sleep(0.4)  # several heartbeats: each connection has sent something
        self.network.spare(links)


class ProxyLinks(Links):
    """By proxies alone: without root, and without loss of single packets."""

    def __init__(self, proxies: ProxyProcess, nodes: Collection[str]) -> None:
        self._proxies = proxies
        self._nodes = nodes
        self._before: dict[str, int] = {}

    def cut(self, links: Iterable[Link]) -> None:
        """See Links."""
        self.treat(links, Treatment(hold=True))

    def reset(self, links: Iterable[Link]) -> None:
        """See Links."""
        self.treat(links, Treatment(refuse=True))

    def cut_after(self, links: Iterable[Link], count: int) -> None:
        """See Links."""
        self.treat(links, Treatment(cut_after=count))

    def squeeze(self, nodes: Iterable[str], kbit: int) -> None:
        """See Links."""
        links = [(node, other) for node in nodes for other in (*self._nodes, CLIENT) if other != node]
        self.treat(links, Treatment(bytes_per_s=max(1, kbit * 125)))

    def treat(self, links: Iterable[Link], treatment: Treatment) -> None:
        """See Links."""
        self._proxies.treat(links, treatment)

    def heal(self) -> None:
        """See Links."""
        self._proxies.heal()
        self._before = self._proxies.struck()

    def struck(self) -> dict[str, int]:
        """See Links."""
        return _since(self._before, self._proxies.struck())


def _since(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    done = {name: count - before.get(name, 0) for name, count in now.items() if name != "connections"}
    return {name: count for name, count in done.items() if count > 0}
