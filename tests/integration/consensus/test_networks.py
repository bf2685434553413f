"""Real replicas, each in a network of its own: bridges, rings, one-way links, flapping, minorities, slow links (FC7 to
FC13, FC22, FC23; C1, C8, C12, C14, C15)."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from jepsen_like import net
from jepsen_like.leftovers import Marker
from jepsen_like.links import among, between
from jepsen_like.net import Link, Network
from tests.integration.consensus.cluster import Cluster, Gone, until
from tests.integration.consensus.test_lives import Client, assert_nothing_lost

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(net.possible()), reason=f"no network namespaces: {net.possible()}"),
]

THREE, FIVE = tuple("abc"), tuple("abcde")


@contextlib.contextmanager
def networked(home: Path, ids: Sequence[str], **options: object) -> Iterator[Cluster]:
    """Members in namespaces of their own, started, with a leader."""
    marker = Marker()
    try:
        with Cluster(home, ids=ids, network=Network(marker, ids), **options) as cluster:
            cluster.start()
            cluster.leader()
            yield cluster
    finally:
        marker.sweep()


@contextlib.contextmanager
def hurt(cluster: Cluster, links: Sequence[Link]) -> Iterator[None]:
    """Packets of these links vanish; fails if none did."""
    assert cluster.network
    cluster.network.cut(links)
    try:
        yield
        assert sum(cluster.network.struck().values()) > 0, "the partition dropped nothing"
    finally:
        cluster.network.heal()


def commits(cluster: Cluster, name: str, seconds: float) -> list[str]:
    """Commands that a patient client got committed in so many seconds; at least one."""
    client = Client(cluster, name)
    time.sleep(seconds)
    client.stop()
    assert client.failed == []
    assert client.acknowledged
    return client.acknowledged


def ring(ids: Sequence[str]) -> list[Link]:
    """Every link but those to the two neighbours."""
    near = {frozenset((ids[n], ids[n - 1])) for n in range(len(ids))}
    return [link for link in among(ids) if frozenset(link) not in near]


def bridge(cluster: Cluster) -> list[Link]:
    leader = cluster.leader()
    return between([leader], [next(me for me in cluster.ids if me != leader)])


def deaf(cluster: Cluster) -> list[Link]:
    leader = cluster.leader()
    return [(me, leader) for me in cluster.ids if me != leader]


def mute(cluster: Cluster) -> list[Link]:
    leader = cluster.leader()
    return [(leader, me) for me in cluster.ids if me != leader]


def minority(cluster: Cluster) -> list[Link]:
    leader = cluster.leader()
    few = [leader, next(me for me in cluster.ids if me != leader)]
    return between(few, [me for me in cluster.ids if me not in few])


@pytest.mark.parametrize(
    ("fault", "ids", "links", "elections"),
    [
        ("FC10 the leader and another see each other only through the third", THREE, bridge, 2),
        ("FC9 the leader is heard and hears nobody", THREE, deaf, 2),
        ("FC9 the leader hears and is not heard", THREE, mute, 2),
        ("FC11 each of five sees two", FIVE, lambda cluster: ring(cluster.ids), 4),
        ("FC13 the leader and one more of five", FIVE, minority, 2),
    ],
)
def test_while_a_majority_is_connected_commands_are_committed(tmp_path, fault, ids, links, elections):
    """C14: some leader goes on; few elections; a return deposes nobody; all agree (C6, C8)."""
    with networked(tmp_path / "c", ids) as cluster:
        acknowledged = commits(cluster, "before", 0.5)
        term = cluster.terms()
        with hurt(cluster, links(cluster)):
            acknowledged += commits(cluster, "during", 6.0)
            assert cluster.terms() <= term + elections, f"{fault}: too many elections"
        term = cluster.terms()
        acknowledged += commits(cluster, "after", 1.5)
        assert cluster.terms() <= term + 1, f"{fault}: the return disturbed"
        assert_nothing_lost(cluster, acknowledged)


def test_a_minority_of_five_refuses(tmp_path):
    """C15, FC13: an error within the deadline, and no acknowledgement."""
    with networked(tmp_path / "c", FIVE) as cluster:
        leader = cluster.leader()
        few = [leader, next(me for me in cluster.ids if me != leader)]
        with hurt(cluster, between(few, [me for me in cluster.ids if me not in few])):
            began = time.monotonic()
            for me in few:
                assert "error" in cluster.processes[me].ask("propose", command=f"{me}:x", timeout_s=1.5)
            assert time.monotonic() - began < 10
            until(lambda: cluster.status(leader)["role"] != "leader", "the lease's end", within_s=5)


def test_a_link_that_flaps_costs_no_commands(tmp_path):
    """FC12: a second down, a second up; commits go on, the terms stay few."""
    with networked(tmp_path / "c", THREE) as cluster:
        term = cluster.terms()
        client = Client(cluster, "flap")
        leader = cluster.leader()
        for _ in range(6):
            with hurt(cluster, between([leader], [me for me in cluster.ids if me != leader])):
                time.sleep(1.0)
            time.sleep(1.0)
        client.stop()
        assert client.failed == []
        assert client.longest_s < 10
        assert cluster.terms() <= term + 12
        assert_nothing_lost(cluster, client.acknowledged)


@pytest.mark.parametrize("then", ["heal", "kill the leader"])
def test_the_largest_command_survives_a_partition_and_a_new_leader_in_the_middle_of_it(tmp_path, then):
    """FC23: a megabyte at 2 Mbit/s is on its way for seconds, which costs the leader its lease; it arrives whole or
    not at all, and goes through once the link is what it was."""
    with networked(tmp_path / "c", THREE) as cluster:
        assert cluster.network
        leader = cluster.leader()
        acknowledged = commits(cluster, "before", 0.3)
        others = [me for me in cluster.ids if me != leader]
        big = "big:" + "x" * ((1 << 20) - 4)
        assert "error" in cluster.processes[leader].ask("propose", command=big + "y"), (
            "one byte more is refused"
        )
        cluster.network.squeeze([leader], 2000)
        replies: list[dict[str, object]] = []

        def propose() -> None:
            with contextlib.suppress(Gone):
                replies.append(cluster.processes[leader].ask("propose", command=big, timeout_s=20.0))

        sender = threading.Thread(target=propose)
        sender.start()
        time.sleep(0.2)
        if then == "kill the leader":
            cluster.kill(leader)
        else:
            with hurt(cluster, between([leader], others)):
                time.sleep(3.0)
        cluster.network.heal()
        sender.join()
        assert not any("ok" in reply for reply in replies), "it was through before anything happened"
        acknowledged += commits(cluster, "after", 1.0)
        if then == "kill the leader":
            cluster.start(leader)
        cluster.propose(big)
        acknowledged.append("big")
        assert_nothing_lost(cluster, acknowledged)


def test_a_burst_over_a_slow_link_does_not_drown_the_heartbeats(tmp_path):
    """FC22: 500 commands of 16 kB in flight at 100 Mbit/s: none is in doubt, because no leader lost its office."""
    with networked(tmp_path / "c", THREE) as cluster:
        assert cluster.network
        leader, term = cluster.leader(), cluster.terms()
        cluster.network.squeeze([leader], 100_000)
        burst = cluster.processes[leader].ask("load", prefix="k" + "x" * 16_000, count=2000, within_s=90)
        assert burst.get("ok") == 2000, burst
        cluster.network.heal()
        assert cluster.terms() == term


def test_a_tenth_of_the_packets_lost_costs_time_only(tmp_path):
    """FC22."""
    with networked(tmp_path / "c", THREE) as cluster:
        assert cluster.network
        cluster.network.lose(among(cluster.ids), 0.1)
        acknowledged = commits(cluster, "lossy", 6.0)
        assert sum(cluster.network.struck().values()) > 0
        cluster.network.heal()
        assert_nothing_lost(cluster, acknowledged)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_member_that_moves_to_another_address_is_found_by_its_name(tmp_path):
    """FC29: the hosts file changes under running members; nobody is restarted but who moved."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.2 c.raft.test\n")
    before = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    with Cluster(tmp_path / "c", before=before) as cluster:
        port = cluster.options["peers"]["c"].rpartition(":")[2]
        cluster.options["peers"]["c"] = f"c.raft.test:{port}"
        cluster.start("a", "b")
        cluster.start("c", listen=f"127.0.0.2:{port}")
        cluster.leader()
        acknowledged = commits(cluster, "before", 0.5)
        cluster.kill("c")
        hosts.write_text("127.0.0.1 localhost\n127.0.0.3 c.raft.test\n")
        cluster.start("c", listen=f"127.0.0.3:{port}")
        acknowledged += commits(cluster, "moved", 0.5)
        until(lambda: cluster.status("c")["leader"], "return")
        assert_nothing_lost(cluster, acknowledged)
        cluster.kill("b" if cluster.leader() != "b" else "a")
        acknowledged += commits(cluster, "counts", 0.5)
        assert_nothing_lost(cluster, acknowledged)
