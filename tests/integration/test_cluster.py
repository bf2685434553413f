"""A cluster on this machine comes up with one command and leaves nothing behind, however its owner ends (S3-06)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mr.cluster import Cluster
from mr.guardian import tree
from mr.rpc.cluster_pb2 import MasterInfo

pytestmark = pytest.mark.timeout(300)


def alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Any, patience_s: float = 30) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    argv = [sys.executable, "-P", "-m", "mr.cli", "dev", "--masters", "1", "--workers", "2", "--json"]
    process = subprocess.Popen(
        argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert '"env"' in line, f"{line}{process.communicate()[1]}"
    yield process, json.loads(line)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_nothing_of_mr_dev_stays(
    dev: tuple[subprocess.Popen[str], dict[str, Any]], tmp_path: Path, ending: signal.Signals
) -> None:
    """Ctrl-C stops all; so does the death of the command, task processes and the temporary folder included."""
    process, facts = dev
    (tmp_path / "nap.py").write_text(
        "import time\ndef mapper(line):\n    time.sleep(600)\n    yield line, 1\n"
    )
    (tmp_path / "in.txt").write_text("one\n")
    submit = [
        sys.executable,
        "-P",
        "-m",
        "mr.cli",
        "submit",
        "nap.py",
        "in.txt",
        "-o",
        "out",
        "--id",
        "nap",
        "--detach",
    ]
    subprocess.run(
        submit, cwd=tmp_path, env={**os.environ, **facts["env"]}, check=True, capture_output=True, timeout=60
    )
    servers = [server["pid"] for server in (*facts["masters"], *facts["workers"])]
    assert until(lambda: len([pid for server in servers for pid in tree(server)]) > len(servers)), (
        "no task started"
    )
    family = {pid for server in servers for pid in tree(server)}
    process.send_signal(ending)
    process.wait(timeout=30)
    assert until(lambda: not any(alive(pid) for pid in family)), [pid for pid in family if alive(pid)]
    assert until(lambda: not Path(facts["home"]).exists())


def test_the_printed_environment_is_enough(
    dev: tuple[subprocess.Popen[str], dict[str, Any]], tmp_path: Path
) -> None:
    """`mr dev` prints what to export; TLS is on."""
    _, facts = dev
    assert set(facts["env"]) == {"MR_MASTERS", "MR_TLS__DIR"}
    argv = [sys.executable, "-P", "-m", "mr.cli", "workers", "--json"]
    done = subprocess.run(
        argv,
        cwd=tmp_path,
        env={**os.environ, **facts["env"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert sorted(worker["id"] for worker in json.loads(done.stdout)) == ["w1", "w2"]


def test_a_server_comes_back_where_it_was() -> None:
    """kill, restart, pause, resume, one worker more; by the names that the harness uses."""
    with Cluster.spawn(masters=3, workers=1) as cluster:
        before = cluster.await_leader()
        address = cluster.masters[before.id].address
        cluster.kill(before.id)
        assert not cluster.masters[before.id].alive
        assert until(lambda: (leader := cluster.leader()) is not None and leader.term > before.term)
        assert cluster.restart(before.id).address == address
        cluster.add_worker()
        cluster.await_workers(2)
        second = cluster.await_leader()
        cluster.pause(second.id)
        assert until(lambda: (leader := cluster.leader()) is not None and leader.term > second.term)
        cluster.resume(second.id)
        with cluster.connect() as client:
            roles = lambda: sorted(master.role for master in client.masters())  # noqa: E731 - asked again and again
            assert until(lambda: roles() == ["follower", "follower", "leader"])
            listed: list[MasterInfo] = client.masters()
        assert {master.id: master.address for master in listed} == {
            name: server.address for name, server in cluster.masters.items()
        }
        home = cluster.home
    assert not home.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    from mr.errors import Error

    with pytest.raises(Error, match="master a ended") as raised:
        Cluster.spawn(masters=1, workers=0, home=tmp_path / "home", master_args=["--nonsense"], timeout=30)
    assert "nonsense" in raised.value.next


def test_a_kept_home_is_the_same_cluster(tmp_path: Path) -> None:
    """`mr dev --dir`: state, certificates and addresses survive; another number of masters is refused."""
    from mr.errors import Usage

    (tmp_path / "wc.py").write_text("def mapper(line):\n    yield line, 1\n")
    (tmp_path / "in.txt").write_text("one\n")
    with Cluster.spawn(masters=1, workers=1, home=tmp_path / "home") as cluster, cluster.connect() as client:
        first = cluster.addresses
        client.submit(tmp_path / "wc.py", tmp_path / "in.txt", tmp_path / "out", id="kept").wait()
    with Cluster.spawn(masters=1, workers=1, home=tmp_path / "home") as cluster, cluster.connect() as client:
        assert cluster.addresses == first
        assert client.attach("kept").state == "SUCCEEDED"
    with pytest.raises(Usage, match="holds a cluster of 1 masters"):
        Cluster.spawn(masters=3, workers=1, home=tmp_path / "home")


def test_a_cluster_for_one_job(tmp_path: Path) -> None:
    """S3-10: `mr submit --with-cluster`; nothing of it stays."""
    (tmp_path / "wc.py").write_text("def mapper(line):\n    yield line, 1\n")
    (tmp_path / "in.txt").write_text("one\n")
    argv = [sys.executable, "-P", "-m", "mr.cli", "submit", "wc.py", "in.txt", "--stdout", "--with-cluster"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "one\t1\n"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "wc.py"]
