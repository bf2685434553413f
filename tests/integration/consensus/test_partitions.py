"""Silent partitions of real replicas: packets vanish, nobody is told (FC7, FC12; C12, C14, C15)."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.integration.consensus.cluster import IDS, Cluster, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("iptables") is None, reason="iptables is not installed"),
]


@contextlib.contextmanager
def cut_off(cluster: Cluster, me: str) -> Iterator[None]:
    """Drops every packet that `me` sends; fails if none was dropped."""
    rule = ["OUTPUT", "-m", "owner", "--gid-owner", str(cluster.groups[me]), "-j", "DROP"]
    subprocess.run(["iptables", "-I", *rule], check=True)
    try:
        yield
        listing = subprocess.run(["iptables", "-nvxL", "OUTPUT"], check=True, capture_output=True, text=True)
        mine = [
            line.split()
            for line in listing.stdout.splitlines()
            if f"owner GID match {cluster.groups[me]}" in line
        ]
        assert any(int(fields[0]) for fields in mine), "the partition dropped nothing"
    finally:
        subprocess.run(["iptables", "-D", *rule], check=True)


@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_a_cut_off_leader_is_replaced_and_comes_back_quietly(tmp_path, seconds):
    """Its own side acknowledges nothing; the other elects; at the return nobody is deposed (pre-vote)."""
    with Cluster(tmp_path / "c", groups=True) as cluster:
        cluster.start()
        old = cluster.leader()
        cluster.propose("before")
        others = [me for me in IDS if me != old]
        with cut_off(cluster, old):
            began = time.monotonic()
            new = until(lambda: next((me for me in others if leads(cluster, me)), None), "new leader")
            reply = cluster.processes[old].ask("propose", command="lost?", timeout_s=1.0)
            assert "error" in reply, "a leader without a majority acknowledged"
            assert not leads(cluster, old), "a cut-off leader still believes in itself"
            for number in range(20):
                assert "ok" in cluster.processes[new].ask("propose", command=f"during{number}")
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        term = cluster.status(new)["term"]
        until(lambda: cluster.status(old)["leader"] == new, "return")
        cluster.propose("after")
        cluster.converged()
        assert leads(cluster, new)
        assert cluster.terms() == term, "its return cost an election"


def leads(cluster: Cluster, me: str) -> bool:
    """Whether `me` says that it leads."""
    return bool(cluster.status(me)["role"] == "leader")
