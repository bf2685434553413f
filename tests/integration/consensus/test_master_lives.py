"""The life of a cluster of real masters: saved, dumped, recovered, replaced, upgraded (issue 3 part 5)."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from mr.cluster import Cluster
from mr.errors import Error
from mr.processes import Server, python
from tests.integration.consensus import masters
from tests.integration.consensus.masters import Prepared, until

pytestmark = pytest.mark.timeout(300)


def test_a_table_is_saved_looked_into_and_restored_on_a_fresh_cluster(tmp_path: Path) -> None:
    """S4-22, by the commands: same jobs; refused where jobs have been; a damaged file is refused."""
    saved = tmp_path / "table.zip"
    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "old") as old:
        with old.connect() as client:
            accepted = {masters.submit(client, f"j{number}") for number in range(5)}
        assert masters.mr(old, "snapshot", "save", str(saved)).returncode == 0
        again = masters.mr(old, "snapshot", "restore", str(saved))
        assert again.returncode != 0
        assert "fresh" in again.stderr
        looked = masters.mr(old, "snapshot", "inspect", str(saved), "--json")
        assert set(json.loads(looked.stdout)["ids"]) == accepted
        assert "checked" in masters.mr(old, "snapshot", "inspect", str(saved)).stdout
    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "new") as new:
        broken = tmp_path / "broken.zip"
        broken.write_bytes(saved.read_bytes()[:-200])
        assert masters.mr(new, "snapshot", "restore", str(broken)).returncode == 2
        assert masters.jobs(new) == set()
        assert masters.mr(new, "snapshot", "restore", str(saved)).returncode == 0
        assert masters.jobs(new) == accepted
        masters.stop_all(new)
        for name in new.masters:
            new.restart(name)
        assert masters.jobs(new) == accepted, "it went through the log"


def test_stopped_masters_are_dumped_and_agree(tmp_path: Path) -> None:
    """C3, C5, C6: `mr master dump` of each; a running one is refused."""
    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "c") as cluster:
        with cluster.connect() as client:
            for number in range(5):
                masters.submit(client, f"j{number}")
        leader = cluster.await_leader()
        until(lambda: all(_applied(cluster, name) >= leader.commit for name in cluster.masters), "one state")
        busy = masters.mr(cluster, "master", "dump", str(cluster.masters["a"].data_dir))
        assert (busy.returncode, "in use by process" in busy.stderr) == (2, True)
        time.sleep(2.0)  # how much is committed is on disk within a second (Journal.setRaftCommitIndex)
        masters.stop_all(cluster)
        states, entries = [], []
        for name, server in cluster.masters.items():
            done = masters.mr(cluster, "master", "dump", str(server.data_dir), "--every", "1")
            assert done.returncode == 0, done.stderr
            records = [json.loads(line) for line in done.stdout.splitlines()]
            assert records[0]["member"] == name
            states.append({one["index"]: one["hash"] for one in records if one["type"] == "state"})
            entries.append(
                {one["index"]: (one["term"], one["digest"]) for one in records if one["type"] == "entry"}
            )
        for found in (states, entries):
            shared = set(found[0]) & set(found[1]) & set(found[2])
            assert len(shared) >= 5
            assert all(found[0][i] == found[1][i] == found[2][i] for i in shared)


def test_snapshots_of_200_000_tasks_cost_no_leadership(tmp_path: Path) -> None:
    """Issue 3 part 4: one every few entries, on every master, while jobs are accepted."""
    env = {"MR_MASTER__SNAPSHOT_EVERY": "5"}
    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "c", env=env) as cluster:
        leader = cluster.await_leader()
        with cluster.connect() as client:
            accepted = {masters.submit(client, "large", maps=200_000)}
            seen: set[int] = set()
            while len(seen) < 5:
                accepted.add(masters.submit(client, f"j{len(accepted)}"))
                seen |= {masters.row(cluster, name).snapshot_index for name in cluster.masters}
        now = cluster.await_leader()
        assert (now.id, now.term) == (leader.id, leader.term)
        assert masters.jobs(cluster) == accepted


POISON = """
import sys
from master import job_commands
sound = job_commands.submit
def submit(table, command):
    if command.spec.job_id == "poison":
        raise RuntimeError("a bug of ours")
    return sound(table, command)
job_commands.submit = submit
sys.argv[0] = "mr-master"
from master.main import main
main()
"""


def test_an_entry_that_stops_every_master_is_named_and_skipped_when_told(tmp_path: Path) -> None:
    """Hazards 20, 21: INDEX:DIGEST is printed by each; `--refuse-entry` on all, and nothing else is lost."""

    def prepare(server: Server) -> None:
        server.argv = [sys.executable, "-P", "-c", POISON, *server.argv[len(python("master.main")) :]]

    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "c", ground=Prepared(prepare)) as cluster:
        with cluster.connect() as client:
            accepted = {masters.submit(client, f"j{number}") for number in range(3)}
        with cluster.connect(timeout=4) as client, contextlib.suppress(Error):
            masters.submit(client, "poison", timeout=4)
        told = set()
        for name, server in cluster.masters.items():
            if server.alive and not _ends(cluster, name):
                continue  # the last one cannot learn alone that the entry is committed
            text = server.log.read_text()
            assert "a bug of ours" in text
            told.add(text.rpartition("--refuse-entry ")[2].split()[0])
        assert len(told) == 1, "all name the same entry"
        masters.stop_all(cluster)
        for name, server in cluster.masters.items():
            server.argv += ["--refuse-entry", told.copy().pop()]
            cluster.restart(name)
        with cluster.connect() as client:
            accepted.add(masters.submit(client, "after"))
        assert masters.jobs(cluster) == accepted


def test_members_change_by_recovery_and_the_removed_one_disturbs_nobody(tmp_path: Path) -> None:
    """FC27, C13: stop all, make the new members from one; the old member that was left out is let in by nobody."""
    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "c") as cluster:
        with cluster.connect() as client:
            accepted = {masters.submit(client, f"j{number}") for number in range(3)}
        leader = cluster.await_leader().id
        masters.stop_all(cluster)
        removed = "c"
        source = tmp_path / "source"
        shutil.copytree(cluster.masters[leader].data_dir, source)
        peers = cluster.masters["a"].argv[cluster.masters["a"].argv.index("--peers") + 1]
        fewer = ",".join(part for part in peers.split(",") if not part.startswith(f"{removed}="))
        for name in masters.others(cluster, removed):
            server = cluster.masters[name]
            shutil.rmtree(server.data_dir / "raft")
            done = masters.mr(
                cluster, "master", "recover", "--from-data-dir", str(source), "--data-dir", str(server.data_dir),
                "--id", name, "--peers", fewer,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "may be lost" in done.stdout
            server.argv[server.argv.index("--peers") + 1] = fewer
            cluster.restart(name)
        now = cluster.await_leader()
        cluster.restart(removed)
        log = cluster.masters[removed]
        until(lambda: "refuses our link" in log.log.read_text(), "refusal")
        time.sleep(2.0)  # several election timeouts
        assert masters.row(cluster, removed).role == "follower", "it asks, and nobody would vote for it"
        after = cluster.await_leader()
        assert (after.id, after.term) == (now.id, now.term)
        with cluster.connect() as client:
            accepted.add(masters.submit(client, "after"))
        assert masters.jobs(cluster) == accepted


def test_a_replaced_machine_that_comes_back_disturbs_nobody(tmp_path: Path) -> None:
    """FC27, C2, C13: another disk took its place and votes; the old one is refused, and told why."""
    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "c") as cluster:
        with cluster.connect() as client:
            accepted = {masters.submit(client, f"j{number}") for number in range(3)}
        victim = masters.others(cluster, cluster.await_leader().id)[0]
        server = cluster.masters[victim]
        cluster.kill(victim)
        old = server.data_dir.rename(tmp_path / "old")
        status, said = masters.refusal(cluster, victim)
        assert (status, "--replace" in said) == (1, True)
        shutil.rmtree(server.data_dir)
        server.argv.append("--replace")
        cluster.restart(victim)
        until(lambda: masters.row(cluster, victim).role in ("follower", "leader"), "a vote")
        cluster.kill(victim)
        term = cluster.await_leader().term
        new = server.data_dir.rename(tmp_path / "new")
        old.rename(server.data_dir)
        cluster.restart(victim)
        until(lambda: "this disk of" in server.log.read_text(), "refusal")
        time.sleep(2.0)
        assert cluster.await_leader().term == term
        assert masters.row(cluster, victim).role != "leader"
        with cluster.connect() as client:
            accepted.add(masters.submit(client, "meanwhile"))
        cluster.kill(victim)
        server.data_dir.rename(tmp_path / "old")
        new.rename(server.data_dir)
        cluster.restart(victim)
        until(lambda: _applied(cluster, victim) >= cluster.await_leader().commit, "return")
        other = masters.others(cluster, victim, cluster.await_leader().id)[0]
        cluster.kill(other)
        with cluster.connect() as client:
            accepted.add(masters.submit(client, "counts"))
        assert masters.jobs(cluster) == accepted


NEWER = """
import sys
from master import versions
versions.KNOWN = 2
sys.argv[0] = "mr-master"
from master.main import main
main()
"""


def test_a_rolling_upgrade_raises_the_version_last_and_the_older_release_stops_then(tmp_path: Path) -> None:
    """FC28: N-1 and N side by side, and back, until the last is new; then the older one says why it stops."""
    with Cluster.spawn(masters=3, workers=0, home=tmp_path / "c") as cluster:
        until(lambda: _versions(cluster) == {1}, "version 1")
        older = {name: server.argv for name, server in cluster.masters.items()}
        newer = {
            name: [sys.executable, "-P", "-c", NEWER, *argv[len(python("master.main")) :]]
            for name, argv in older.items()
        }
        # two up, one of them back again, and both up
        for name, argv in (("a", newer), ("b", newer), ("a", older), ("a", newer)):
            _replaced(cluster, name, argv[name])
            with cluster.connect() as client:
                masters.submit(client, f"j{len(masters.jobs(cluster))}")
        time.sleep(2.5)
        assert _versions(cluster) == {1}, "one master is still of the older release"
        _replaced(cluster, "c", newer["c"])
        until(lambda: _versions(cluster) == {2}, "version 2")
        cluster.kill("b")
        cluster.masters["b"].argv = older["b"]
        cluster.masters["b"].start()
        assert masters.ended(cluster, "b") == 1
        assert "start the newer release again" in cluster.masters["b"].log_tail(3)
        cluster.masters["b"].argv = newer["b"]
        cluster.restart("b")
        assert len(masters.jobs(cluster)) == 4


def _replaced(cluster: Cluster, name: str, argv: list[str]) -> None:
    cluster.kill(name)
    cluster.masters[name].argv = argv
    cluster.restart(name)
    until(lambda: _applied(cluster, name) >= cluster.await_leader().commit, "return")


def _versions(cluster: Cluster) -> set[int]:
    return {row.cluster_version if (row := masters.row(cluster, name)) else 0 for name in cluster.masters}


def _applied(cluster: Cluster, name: str) -> int:
    own = masters.row(cluster, name)
    return own.applied if own and own.role in ("leader", "follower") else -1


def _ends(cluster: Cluster, name: str) -> bool:
    process = cluster.masters[name].process
    assert process
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.poll() is not None
