"""What a stopped member has on disk: shown (dump), and made into a new cluster (recover)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.datadir import DataDir, read_identity
from consensus.dump import dump
from consensus.recovery import recover
from consensus.replica import RefusedToStart
from consensus.snapshots import Snapshot

MEMBERS = ("a", "b", "c")


class Words:
    """A state machine: the list of commands."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def apply(self, index: int, command: bytes) -> Any:
        self.words.append(command.decode())

    def snapshot(self) -> Callable[[], bytes]:
        words = list(self.words)
        return lambda: json.dumps(words).encode()

    def restore(self, data: bytes) -> None:
        self.words = json.loads(data)


def stopped(
    directory: Path, *, last: int = 30, commit: int = 25, snapshot: int = 0, voter: bool = True
) -> Path:
    """What member a leaves behind: entries to `last`, and perhaps a snapshot with a trimmed log."""
    opened = DataDir(directory, "a", MEMBERS)
    opened.become(replace(opened.identity, cluster_id="OLD"))
    journal = opened.open_log()
    journal.clear()
    journal.add(b"\x01", 1, 0)
    for index in range(2, last + 1):
        journal.add(b"\x00w%d" % index, index, 3)
    if snapshot:
        words = json.dumps([f"w{index}" for index in range(2, snapshot + 1)]).encode()
        opened.open_snapshots().write(Snapshot(snapshot, 3, b"\x01", words)).close()
        journal.deleteEntriesTo(snapshot - 3)
    journal.setCurrentTerm(4, "b")
    journal.set_voter(voter)
    journal.setRaftCommitIndex(commit)
    journal.onOneSecondTimer()
    journal._destroy()
    opened.close()
    return directory


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["type"] == kind]


def test_a_dump_shows_promises_log_and_states(tmp_path):
    records = list(dump(stopped(tmp_path / "a"), Words(), every=10))
    json.dumps(records)
    assert records[0]["type"] == "member"
    shown = {
        key: records[0][key] for key in ("member", "cluster_id", "term", "vote", "commit", "first", "last")
    }
    assert shown == {
        "member": "a",
        "cluster_id": "OLD",
        "term": 4,
        "vote": "b",
        "commit": 25,
        "first": 1,
        "last": 30,
    }
    entries = of_type(records, "entry")
    assert [entry["index"] for entry in entries] == list(range(1, 31))
    assert [entry["index"] for entry in entries if not entry["committed"]] == [26, 27, 28, 29, 30]
    assert [state["index"] for state in of_type(records, "state")] == [10, 20, 25]


def test_dumps_of_replicas_agree_wherever_both_exist(tmp_path):
    """C6: one began from a snapshot, the other holds the whole log."""
    whole = list(dump(stopped(tmp_path / "whole"), Words(), every=5))
    trimmed = list(dump(stopped(tmp_path / "trimmed", snapshot=15), Words(), every=5))
    states = [
        {one["index"]: one["hash"] for one in of_type(records, "state")} for records in (whole, trimmed)
    ]
    common = states[0].keys() & states[1].keys()
    assert sorted(common) == [15, 20, 25]
    assert all(states[0][index] == states[1][index] for index in common)


@pytest.mark.parametrize("snapshot", [0, 15])
def test_a_cluster_is_recovered_from_one_member(tmp_path, snapshot):
    source = stopped(tmp_path / "a", snapshot=snapshot)
    before = list(dump(source, Words(), every=5))
    members = ("a", "d", "e", "f", "g")
    said = [recover(source, tmp_path / f"new-{one}", one, members) for one in members]
    assert "after entry 30" in said[0]
    assert "entries 26 to 30" in said[0]
    identities = [read_identity(tmp_path / f"new-{one}") for one in members]
    assert len({identity.cluster_id for identity in identities}) == 1
    assert identities[0].cluster_id != "OLD"
    for one in members:
        after = list(dump(tmp_path / f"new-{one}", Words(), every=5))
        assert after[0]["vote"] is None
        assert after[0]["commit"] == 30
        assert [e["digest"] for e in of_type(after, "entry")] == [
            e["digest"] for e in of_type(before, "entry")
        ]
        DataDir(tmp_path / f"new-{one}", one, members).close()
    assert list(dump(source, Words(), every=5)) == before, "the source is only read"


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (lambda d: (stopped(d / "a"), "z"), "not among"),
        (lambda d: (DataDir(d / "a", "a", MEMBERS).close(), "b"), "never been part"),
        (lambda d: (stopped(d / "a"), stopped(d / "target"), "a"), "already"),
    ],
)
def test_what_cannot_be_recovered_is_refused(tmp_path, arrange, said):
    member = arrange(tmp_path)[-1]
    with pytest.raises(RefusedToStart, match=said):
        recover(tmp_path / "a", tmp_path / "target", member, MEMBERS)


def test_a_running_member_is_not_recovered_from(tmp_path):
    running = DataDir(stopped(tmp_path / "a"), "a", MEMBERS)
    with pytest.raises(RefusedToStart, match="in use"):
        recover(tmp_path / "a", tmp_path / "target", "a", MEMBERS)
    running.close()


def test_a_source_that_was_behind_is_named(tmp_path):
    assert "WARNING" in recover(stopped(tmp_path / "a", voter=False), tmp_path / "target", "a", MEMBERS)
