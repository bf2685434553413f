"""What a stopped member has on disk, as records for jsonl: its log, its promises, and hashes of the states it
implies.

Evidence for whoever compares replicas (C1 to C7): commands appear as digests, states as SHA-256 of the state
machine's own snapshot bytes. A state is hashed at every multiple of `every`, so that replicas which began
from different snapshots can be compared wherever both exist.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from consensus.core import REGULAR
from consensus.datadir import DataDir, read_identity
from consensus.journal import Journal
from consensus.replica import StateMachine
from consensus.snapshots import SnapshotFile


def dump(directory: Path, machine: StateMachine, *, every: int = 1000) -> Iterator[dict[str, Any]]:
    """One record a line: `member`, then `snapshot` if there is one, then `entry`s with `state`s between them.

    `machine` is a fresh one; committed entries are applied to it. Raises RefusedToStart when the directory is
    damaged or in use.
    """
    with ExitStack() as closing:
        identity = read_identity(directory)
        opened = DataDir(directory, identity.member, identity.members)
        closing.callback(opened.close)
        log = opened.open_log()
        closing.callback(log._destroy)
        snapshot = opened.open_snapshots().latest()
        yield {
            "type": "member",
            "member": identity.member,
            "cluster_id": identity.cluster_id,
            "members": list(identity.members),
            "term": log.getCurrentTerm(),
            "vote": log.getVotedForNodeId(),
            "voter": log.voter,
            "commit": max(log.getRaftCommitIndex(), snapshot.index if snapshot else 0),
            "first": log[0][1] if len(log) else 0,
            "last": log[-1][1] if len(log) else 0,
        }
        applied = 0
        if snapshot is not None:
            closing.callback(snapshot.close)
            machine.restore(snapshot.load().data)
            applied = snapshot.index
            yield _snapshot(snapshot)
            yield _state(machine, snapshot.index)
        yield from _entries(log, machine, applied, every)


def _entries(log: Journal, machine: StateMachine, applied: int, every: int) -> Iterator[dict[str, Any]]:
    commit = max(log.getRaftCommitIndex(), applied)
    for position, (command, index, term) in enumerate(log[:]):
        regular = command[:1] == REGULAR
        # the log's base is covered by the snapshot; after an install it stands there with its term, without its content
        kind = "base" if position == 0 else "command" if regular else "no-op"
        yield {
            "type": "entry",
            "index": index,
            "term": term,
            "kind": kind,
            "digest": hashlib.sha256(command).hexdigest(),
            "bytes": len(command),
            "committed": index <= commit,
        }
        if applied < index <= commit:
            if regular:
                machine.apply(index, command[1:])
            if index % every == 0 or index == commit:
                yield _state(machine, index)


def _snapshot(snapshot: SnapshotFile) -> dict[str, Any]:
    return {
        "type": "snapshot",
        "index": snapshot.index,
        "term": snapshot.term,
        "bytes": snapshot.size,
        "checksum": snapshot.checksum.hex(),
    }


def _state(machine: StateMachine, index: int) -> dict[str, Any]:
    return {"type": "state", "index": index, "hash": hashlib.sha256(machine.snapshot()()).hexdigest()}
