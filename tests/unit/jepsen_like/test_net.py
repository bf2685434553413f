"""The namespaces: packets of a link meet its rules in one direction only, are counted, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepsen_like import leftovers, net
from jepsen_like.leftovers import ENVIRONMENT, Marker
from jepsen_like.net import CLIENT, Network

WHY_NOT = net.possible()
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(WHY_NOT), reason=f"NO NAMESPACES: {WHY_NOT}")]

SEND = "import socket,sys; s=socket.socket(2,2); [s.sendto(b'x',(sys.argv[1],9)) for _ in range(100)]"


@pytest.fixture
def network() -> Iterator[Network]:
    marker = Marker()
    try:
        yield Network(marker, ["a", "b"])
    finally:
        marker.sweep()


def send(network: Network, source: str, target: str) -> None:
    """A hundred packets."""
    where = network.command(source) if source != CLIENT else []
    subprocess.run([*where, sys.executable, "-S", "-c", SEND, network.addresses[target]], check=True)


def met(network: Network, node: str) -> int:
    return network.struck().get(node, 0)


@pytest.mark.parametrize(("source", "target"), [("a", "b"), (CLIENT, "a")])
def test_a_cut_link_is_cut_in_its_direction(network, source, target):
    """FC9: the counter is the proof."""
    network.cut([(source, target)])
    send(network, source, target)
    assert met(network, target) >= 100
    before = met(network, target)
    network.heal()
    assert network.struck() == {}
    network.cut([(target, source)] if source != CLIENT else [("b", target)])
    send(network, source, target)
    assert met(network, target) < before, "the other direction is free"


def test_a_link_to_the_client_is_cut_at_its_sender(network):
    network.cut([("a", CLIENT)])
    with pytest.raises(subprocess.CalledProcessError), open(os.devnull, "w") as quiet:
        subprocess.run(
            [*network.command("a"), sys.executable, "-S", "-c", SEND, network.addresses[CLIENT]],
            check=True,
            stderr=quiet,
        )
    assert met(network, "a") > 0


def test_loss_takes_a_share_of_the_packets(network):
    """FC22."""
    network.lose([("a", "b")], 0.3)
    for _ in range(10):
        send(network, "a", "b")
    assert 200 < met(network, "b") < 400


def names() -> set[str]:
    """All that a network leaves if nobody removes it."""
    spaces = {path.name for path in Path("/run/netns").glob("mrch-*")}
    return spaces | {path.name for path in Path("/sys/class/net").glob("mrch*")}


OWNER = """
import os, subprocess, sys, time
from jepsen_like.leftovers import ENVIRONMENT, Marker
from jepsen_like.net import Network
marker = Marker()
network = Network(marker, ["a"])
env = {**os.environ, ENVIRONMENT: marker.prefix}
child = subprocess.Popen([*network.command("a"), "sleep", "600"], env=env, start_new_session=True)
print(marker.prefix, network.number, child.pid, marker._janitor.pid, flush=True)
time.sleep(600)
"""


def start_owner() -> tuple[subprocess.Popen[str], str, int, int, int]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    prefix, *numbers = owner.stdout.readline().split()
    link, child, janitor = map(int, numbers)
    assert f"{prefix}-a" in names()
    return owner, prefix, link, child, janitor


def gone(prefix: str, link: int, child: int) -> bool:
    mine = {name for name in names() if name.startswith(f"{prefix}-") or name == f"mrch{link}"}
    return not mine and ended(child) and not (leftovers.folder() / prefix).exists()


def ended(pid: int) -> bool:
    """Gone, or a zombie: another test may have made this process the parent of orphans, which it does not reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def soon_gone(prefix: str, link: int, child: int) -> bool:
    deadline = time.monotonic() + 20
    while not gone(prefix, link, child) and time.monotonic() < deadline:
        time.sleep(0.05)
    return gone(prefix, link, child)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_harness_dies(sig):
    """Its janitor notices the end of a pipe, whatever the harness died of."""
    owner, prefix, link, child, _ = start_owner()
    with owner:
        owner.send_signal(sig)
    assert soon_gone(prefix, link, child)


def test_the_next_start_sweeps_when_the_janitor_died_too():
    owner, prefix, link, child, janitor = start_owner()
    os.kill(janitor, signal.SIGKILL)
    with owner:
        owner.kill()
    assert not gone(prefix, link, child)
    leftovers.sweep_dead()
    assert soon_gone(prefix, link, child)


def test_a_living_harness_is_not_swept(network):
    there = names()
    leftovers.sweep_dead()
    assert names() >= {name for name in there if name.startswith(f"mrch-{os.getpid()}-")}
    assert ENVIRONMENT not in os.environ
