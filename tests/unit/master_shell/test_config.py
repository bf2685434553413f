"""What a master is told at its start: promises as rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from master import hosts
from master.config import MasterConfig, choose_self, join_address, parse_peers, split_address
from master.machine import Machine
from master.main import configure, new_replica
from master.task_table import TaskTable
from mr.config import load
from mr.errors import Usage


@pytest.mark.parametrize(
    ("promise", "text", "then"),
    [
        (
            "the short form: the id is the host as written",
            "h1,h2",
            [("h1", "h1", 7070, 7071), ("h2", "h2", 7070, 7071)],
        ),
        ("with a port Raft has the next one", "h1:9000", [("h1", "h1", 9000, 9001)]),
        ("ids of their own", "a=h1,b=h2:7", [("a", "h1", 7070, 7071), ("b", "h2", 7, 8)]),
        ("Raft's port may be said", "a=h1:7/99", [("a", "h1", 7, 99)]),
        ("IPv6 stands in brackets", "a=[::1]:7", [("a", "::1", 7, 8)]),
        (
            "spaces and a trailing comma do no harm",
            " h1 , h2 ,",
            [("h1", "h1", 7070, 7071), ("h2", "h2", 7070, 7071)],
        ),
        ("port 0 takes free ones", "a=h1:0", [("a", "h1", 0, 0)]),
    ],
)
def test_peers(promise: str, text: str, then: list[tuple[str, str, int, int]]) -> None:
    assert [(p.id, p.host, p.port, p.raft_port) for p in parse_peers(text)] == then, promise


@pytest.mark.parametrize(
    "text",
    ["", ",", "a=h:1,a=g:1", "h1:7070,h1:7071", "a=h1:1,b=h1:1", "a=h:x", "a=h:70000", "a=h:1/x", "/=h"],
)
def test_peers_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(Usage):
        parse_peers(text)


@pytest.mark.parametrize(
    ("promise", "wanted", "local", "then"),
    [
        ("the own name is found by address", None, {"h2"}, "h2"),
        ("--id is believed", "h3", {"h2"}, "h3"),
        ("several peers here need --id", None, {"h1", "h2"}, None),
        ("no peer here needs --id", None, set(), None),
        ("an id that is no peer is refused", "x", {"h1"}, None),
    ],
)
def test_own_entry(promise: str, wanted: str | None, local: set[str], then: str | None) -> None:
    peers = parse_peers("h1,h2,h3")
    if then is None:
        with pytest.raises(Usage) as refused:
            choose_self(peers, wanted, local.__contains__)
        assert refused.value.exit_code == 2, promise
    else:
        assert choose_self(peers, wanted, local.__contains__) == then, promise


def test_what_is_local_is_asked_of_the_kernel() -> None:
    assert hosts.is_local("127.0.0.1")
    assert hosts.is_local("localhost")
    assert not hosts.is_local("198.51.100.1")  # reserved for documentation: nobody's
    assert not hosts.is_local("no-such-host.invalid")


@pytest.mark.parametrize(
    ("authority", "then"),
    [
        ("localhost:7080", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("[::1]:80", True),
        ("evil.example:7080", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_names_of_loopback_in_a_host_header(authority: str, then: bool) -> None:
    assert hosts.names_loopback(authority) is then


@pytest.mark.parametrize("address", ["h:1", "[::1]:7", "10.0.0.1:65535"])
def test_addresses_survive_a_round_trip(address: str) -> None:
    assert join_address(*split_address(address)) == address


@pytest.mark.parametrize(
    ("promise", "change"),
    [
        ("the own id is a peer", {"id": "x"}),
        ("a lease outlasts three heartbeats", {"worker_lease_s": 3.0}),
        ("a lease outlasts an election", {"worker_lease_s": 3.1, "election_timeout_s": 0.5}),
        ("an election outlasts three heartbeats", {"heartbeat_s": 0.2}),
        ("the policy is one there is", {"policy": "nonsense"}),
        ("a log is not compacted at every entry", {"snapshot_every": 1}),
        ("nobody is excluded for nothing", {"exclude_after": 0}),
        ("an exclusion takes time", {"exclude_s": 0.0}),
    ],
)
def test_relations_that_a_cluster_needs(promise: str, change: dict[str, object]) -> None:
    good: dict[str, object] = {
        "id": "h1",
        "peers": parse_peers("h1,h2,h3"),
        "data_dir": Path("d"),
        "listen": "h1:7070",
        "advertise": "h1:7070",
        "http": None,
        "tls": None,
    }
    assert MasterConfig(**good).majority == 2  # type: ignore[arg-type]  # rows of a table
    with pytest.raises(Usage):
        MasterConfig(**{**good, **change})  # type: ignore[arg-type]  # same


def test_settings_reach_those_who_act_on_them(tmp_path: Path) -> None:
    file = tmp_path / "mr.toml"
    file.write_text(
        '[master]\nsnapshot_every = 1000\n[worker]\nblacklist = { after = 5, for = "90s", permanent = true }\n'
    )
    flags = {"peers": "127.0.0.1", "own_id": None, "listen": "", "advertise": "", "http": "off"}
    flags |= {"insecure": True, "refuse_entry": None, "replace": False}
    config = configure(flags, load({"master.data_dir": tmp_path / "d"}, config_file=file))
    assert (config.exclude_after, config.exclude_s, config.exclude_for_good) == (5, 90.0, True)
    limits = new_replica(config, Machine(TaskTable()))._config.limits
    assert limits.compact_entries == 1000
    assert limits.keep_entries < 1000
