"""A network of its own for every node: one namespace each, joined by a bridge in another. Needs root.

What hurts is a rule in the victim's namespace and acts on packets that come in, by the address they come from; so every
link can be cut in one direction alone, and a rule's counter proves that it struck. The client's end of the network is
an interface in the namespace of the harness, so that clients are ordinary processes.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jepsen_like.leftovers import Marker

CLIENT = "client"
Link = tuple[str, str]  # (from, to)

_IN, _OUT = "MR_CHAOS_IN", "MR_CHAOS_OUT"
_EMPTY = f"*filter\n:{_IN} - [0:0]\n:{_OUT} - [0:0]\nCOMMIT\n*nat\n:{_OUT} - [0:0]\nCOMMIT\n"


def possible() -> str:
    """Why this machine cannot have such a network; "" when it can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [tool for tool in ("ip", "iptables-restore", "tc", "nsenter") if shutil.which(tool) is None]
    return f"no {', '.join(missing)} here" if missing else ""


class Network:
    """Namespaces of `nodes`, each with one address. Removed by the marker's sweep."""

    def __init__(self, marker: Marker, nodes: Sequence[str]) -> None:
        self._marker = marker
        self._prefix = marker.prefix
        self.number, self._outside = self._join_client()
        self.addresses = {CLIENT: f"10.213.{self.number}.1"}
        self._squeezed: set[str] = set()
        self._ruled: set[str] = set()
        for node in nodes:
            self.add(node)

    def add(self, node: str) -> None:
        """One more namespace."""
        name, side = self.namespace(node), f"v-{node}"
        self._marker.add("netns", name)
        self.addresses[node] = f"10.213.{self.number}.{10 + len(self.addresses)}"
        hub = f"{self._prefix}-hub"
        _run("ip", "netns", "add", name)
        _batch(
            f"link add {side} netns {hub} type veth peer name eth0 netns {name}",
        )
        _batch(f"link set {side} master br0 up", namespace=hub)
        _batch(
            "link set lo up",
            f"addr add {self.addresses[node]}/24 dev eth0",
            "link set eth0 up",
            namespace=name,
        )
        self._enter(node, "sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1", check=False)
        rules = _EMPTY.replace("COMMIT", f"-A INPUT -j {_IN}\n-A OUTPUT -j {_OUT}\nCOMMIT", 1)
        rules = f"-A OUTPUT -j {_OUT}\nCOMMIT".join(rules.rsplit("COMMIT", 1))
        self._enter(node, "iptables-restore", "-w", "--noflush", given=rules)

    def namespace(self, node: str) -> str:
        """The name that `ip netns` knows."""
        return f"{self._prefix}-{node}"

    def command(self, node: str) -> list[str]:
        """Put before an argv, starts it in the namespace of `node`; the process id stays the same."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(node)}", "--"]

    def cut(self, links: Iterable[Link]) -> None:
        """Packets of these links vanish."""
        self._rule(links, "-j DROP")

    def lose(self, links: Iterable[Link], share: float) -> None:
        """That share of the packets vanishes, at random."""
        self._rule(links, f"-m statistic --mode random --probability {share:.4f} -j DROP")

    def reset(self, links: Iterable[Link]) -> None:
        """Connections are refused, and open ones reset at their next packet."""
        self._rule(links, "-p tcp -j REJECT --reject-with tcp-reset")

    def cut_after(self, links: Iterable[Link], count: int) -> None:
        """A connection is reset once it has carried `count` bytes."""
        match = f"-p tcp -m connbytes --connbytes {count}: --connbytes-dir both --connbytes-mode bytes"
        self._rule(links, f"{match} -j REJECT --reject-with tcp-reset")

    def squeeze(self, nodes: Iterable[str], kbit: int) -> None:
        """Whatever these nodes send leaves at `kbit` per second."""
        for node in nodes:
            tbf = f"rate {kbit}kbit burst 4k latency 300ms".split()
            self._enter(node, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *tbf)
            self._squeezed.add(node)

    def divert(self, gates: Mapping[tuple[Link, int], tuple[str, int]]) -> None:
        """New connections of a link to a port go elsewhere instead; open ones are left alone."""
        rules: dict[str, list[str]] = defaultdict(list)
        for ((source, target), port), to in gates.items():
            match = f"{_OUT} -d {self.addresses[target]} -p tcp --dport {port}"
            rules[source].append(f"{match} -j DNAT --to-destination {to[0]}:{to[1]}")
        for node, lines in rules.items():
            self._restore(node, "nat", lines)

    def spare(self, links: Iterable[Link]) -> None:
        """These links' targets have no rule of their own any more; diversions and limits stay."""
        for node in {target if target != CLIENT else source for source, target in links}:
            rules = f"*filter\n:{_IN} - [0:0]\n:{_OUT} - [0:0]\nCOMMIT\n"
            self._enter(node, "iptables-restore", "-w", "--noflush", given=rules)

    def heal(self) -> None:
        """No rule and no limit is left."""
        for node in self._ruled:
            self._enter(node, "iptables-restore", "-w", "--noflush", given=_EMPTY)
        for node in self._squeezed:
            self._enter(node, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
        self._ruled.clear()
        self._squeezed.clear()

    def struck(self) -> dict[str, int]:
        """Packets that met a rule since it was made, by node; and bytes that waited for a limit."""
        found: dict[str, int] = {}
        for node in sorted(self._ruled):
            text = self._enter(node, "iptables", "-w", "-vxnL", _IN)
            text += self._enter(node, "iptables", "-w", "-vxnL", _OUT)
            counts = [line.split(maxsplit=1)[0] for line in text.splitlines() if line]
            found[node] = sum(int(count) for count in counts if count.isdigit())
        for node in sorted(self._squeezed):
            text = self._enter(node, "tc", "-s", "qdisc", "show", "dev", "eth0")
            words = text.replace("(", " ").replace(",", " ").replace(")", " ").split()
            found[f"{node} overlimits"] = int(words[words.index("overlimits") + 1])
        return found

    def _rule(self, links: Iterable[Link], action: str) -> None:
        rules: dict[str, list[str]] = defaultdict(list)
        for source, target in links:
            if target == CLIENT:  # its namespace is the machine's own, so the rule is the sender's
                rules[source].append(f"{_OUT} -d {self.addresses[CLIENT]} {action}")
            else:
                rules[target].append(f"{_IN} -s {self.addresses[source]} {action}")
        for node, lines in rules.items():
            self._restore(node, "filter", lines)

    def _restore(self, node: str, table: str, rules: Iterable[str]) -> None:
        lines = "".join(f"-A {rule}\n" for rule in rules)
        self._ruled.add(node)
        self._enter(node, "iptables-restore", "-w", "--noflush", given=f"*{table}\n{lines}COMMIT\n")

    def _join_client(self) -> tuple[int, str]:
        """The hub, and the harness' own end. Interface names are unique on a machine: who makes one has the number."""
        hub = f"{self._prefix}-hub"
        self._marker.add("netns", hub)
        _run("ip", "netns", "add", hub)
        _batch("link set lo up", "link add br0 type bridge", "link set br0 up", namespace=hub)
        for number in random.sample(range(1, 255), 254):
            outside = f"mrch{number}"
            if Path("/sys/class/net", outside).exists():
                continue
            try:
                _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "v-client", "netns", hub)
            except OSError:
                continue
            self._marker.add("link", outside)
            _batch("link set v-client master br0 up", namespace=hub)
            _batch(f"addr add 10.213.{number}.1/24 dev {outside}", f"link set {outside} up")
            return number, outside
        raise OSError("254 networks of this kind exist already")

    def _enter(self, node: str, *argv: str, given: str = "", check: bool = True) -> str:
        return _run(*self.command(node)[:-1], *argv, given=given, check=check)


def _batch(*lines: str, namespace: str = "") -> None:
    where = ["-n", namespace] if namespace else []
    _run("ip", *where, "-batch", "-", given="\n".join(lines) + "\n")


def _run(*argv: str, given: str = "", check: bool = True) -> str:
    """Raises OSError with what the tool said."""
    done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}\n{given}")
    return done.stdout
