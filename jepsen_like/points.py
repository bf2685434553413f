"""The named points of the product's code at which a process can be made to end: a table, by name only.

Nothing of the product knows of them. Each is a function, named as text, and the moment before or after its call; the
launcher (`failpoints`) wraps them in the processes that it starts. `only` looks at the call's arguments where the
function is called for other things too. `tests/unit/jepsen_like/test_points.py` holds that every name resolves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

MASTER, WORKER, TASK = "master", "worker", "task"


def always(*_args: Any, **_named: Any) -> bool:
    """Every call."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """`at` is "module:attribute" or "module:Class.method"."""

    name: str
    role: str  # of the process that passes it
    at: str
    when: Literal["before", "after"]
    says: str  # what has just happened, or not yet
    only: Callable[..., bool] = always
    cites: tuple[str, ...]


_votes: list[tuple[int, str]] = []  # the newest that this process has put on disk


def _new_vote(_store: Any, batches: list[tuple[Any, int]]) -> bool:
    """Whether a vote is among them that was not on disk before; the first one seen may be an old one."""
    given = [(batch.hard.term, batch.hard.vote) for batch, _ in batches if batch.hard and batch.hard.vote]
    if not given:
        return False
    known = bool(_votes)
    fresh = known and given[-1] != _votes[-1]
    _votes[:] = given[-1:]
    return fresh


def _own_snapshot(_store: Any, aside: Any) -> bool:
    return "write" in aside.name


def _orders(kind: str) -> Callable[..., bool]:
    def only(_links: Any, _session: int, message: Any) -> bool:
        return any(order.HasField(kind) for order in message.orders)

    return only


def _publication(_service: Any, _session: int, _link: Any, events: Any) -> bool:
    return any(
        event.HasField("completed") and event.completed.attempt.task.kind == _COMMIT for event in events
    )


_COMMIT = 3  # Kind.COMMIT of proto/job.proto


def _is_done(_runtime: Any, event: Any) -> bool:
    return type(event).__name__ == "TaskDone"


def _source(args: tuple[Any, ...], named: dict[str, Any]) -> str:
    """What is renamed: user code may call os.rename, too, in any way that it allows."""
    return os.fsdecode(args[0] if args else named["src"])


def _segment(*args: Any, **named: Any) -> bool:
    return _source(args, named).endswith(".seg")


def _part(*args: Any, **named: Any) -> bool:
    return os.path.basename(os.path.dirname(_source(args, named))) == "attempts"


def _manifest(*args: Any, **named: Any) -> bool:
    return os.path.basename(_source(args, named)).startswith("_SUCCESS-")


def _final(*args: Any, **named: Any) -> bool:
    return os.path.basename(_source(args, named)) == "final"


def _manifest_file(path: Any, _data: bytes) -> bool:
    return bool(path.name.startswith("_SUCCESS-"))


def _master(name: str, at: str, when: Literal["before", "after"], says: str, **more: Any) -> Point:
    return Point(name=name, role=MASTER, at=at, when=when, says=says, **more)


def _worker(name: str, at: str, when: Literal["before", "after"], says: str, **more: Any) -> Point:
    return Point(name=name, role=WORKER, at=at, when=when, says=says, **more)


def _task(name: str, at: str, when: Literal["before", "after"], says: str, **more: Any) -> Point:
    return Point(name=name, role=TASK, at=at, when=when, says=says, **more)


_FC24: dict[str, Any] = {"cites": ("FC24",)}
_FT1: dict[str, Any] = {"cites": ("FT1",)}
_FD12: dict[str, Any] = {"cites": ("FT1", "FT8", "FD12")}

MASTER_POINTS = (
    _master(
        "batch-unsynced",
        "consensus.rocks:RocksStore._put",
        "after",
        "a batch of the log is written and not synced",
        cites=("FC5", "FC1"),
    ),
    _master(
        "batch-synced",
        "consensus.rocks:RocksStore._commit",
        "after",
        "a batch of the log is synced and nobody has heard of it",
        cites=("FC5", "FC1"),
    ),
    _master(
        "vote-synced",
        "consensus.rocks:RocksStore._commit",
        "after",
        "a vote is on disk and has not left",
        only=_new_vote,
        cites=("FC6",),
    ),
    _master(
        "elected",
        "consensus.node:Node.on_elected",
        "after",
        "an election is won and nothing of the new term is written",
        cites=("FC1", "FC6"),
    ),
    _master(
        "snapshot-unrenamed",
        "consensus.snapshots:SnapshotStore._install",
        "before",
        "a snapshot is written and not under its name",
        only=_own_snapshot,
        **_FC24,
    ),
    _master(
        "snapshot-renamed",
        "consensus.snapshots:sync_directory",
        "before",
        "a snapshot is under its name, which is not synced",
        **_FC24,
    ),
    _master(
        "snapshot-untrimmed",
        "consensus.node:Node.snapshot_taken",
        "before",
        "a snapshot is durable and the log before it still there",
        **_FC24,
    ),
    _master(
        "snapshot-piece",
        "consensus.snapshots:Receiver.write",
        "after",
        "a piece of the leader's snapshot has come",
        **_FC24,
    ),
    _master(
        "snapshot-received",
        "consensus.snapshots:Receiver.install",
        "before",
        "all of the leader's snapshot has come and is not installed",
        **_FC24,
    ),
    _master(
        "snapshot-installed",
        "consensus.node:Node.snapshot_stored",
        "before",
        "the leader's snapshot is durable and the log is the old one",
        **_FC24,
    ),
    _master(
        "committed-unanswered",
        "master.service:ClusterService._propose",
        "after",
        "a command is committed and applied, its client not answered",
        cites=("FC1", "FT7", "FT9", "FT15"),
    ),
    _master(
        "assign-unsent",
        "master.streams:Links.send",
        "before",
        "an assignment is in the log and its worker not told",
        only=_orders("assign"),
        cites=("FT10",),
    ),
    _master(
        "publication-heard",
        "master.streams:SessionService._hear",
        "before",
        "an output is published and its job not known to have succeeded",
        only=_publication,
        cites=("FT8",),
    ),
    _master(
        "settled-unsent",
        "master.streams:Links.send",
        "before",
        "a result is in the log and its worker not told",
        only=_orders("settled"),
        cites=("FT7", "FT8"),
    ),
)

WORKER_POINTS = (
    _worker(
        "attempt-unstarted",
        "worker.runtime:Runtime._run",
        "before",
        "an attempt is accepted and its process not told",
        **_FT1,
    ),
    _worker(
        "fetching",
        "worker.fetch:Basket.take",
        "after",
        "a piece of a map output has come",
        cites=("FT1", "FD1"),
    ),
    _worker(
        "result-unreported",
        "worker.runtime:Runtime.feed",
        "before",
        "an attempt is done, its output synced, and nobody told",
        only=_is_done,
        cites=("FT1", "FT8"),
    ),
)

TASK_POINTS = (
    _task("map-record", "mr.attempt_map:_Loop._one", "after", "a map has taken some records", **_FT1),
    _task(
        "spilled",
        "mr.shuffle.buffer:MapBuffer._spill",
        "after",
        "a map has spilled a part of its pairs",
        **_FT1,
    ),
    _task(
        "map-unrenamed",
        "os:replace",
        "before",
        "a map output is written and not under its name",
        only=_segment,
        **_FT1,
    ),
    _task(
        "map-unindexed",
        "os:replace",
        "after",
        "a map output is under its name, its index not",
        only=_segment,
        **_FT1,
    ),
    _task("reduce-key", "mr.attempt_reduce:_Loop._one", "after", "a reduce has taken some keys", **_FT1),
    _task(
        "output-synced",
        "mr.output:PartWriter.close",
        "after",
        "an output file is durable and not reported",
        **_FD12,
    ),
    _task(
        "part-moved",
        "os:rename",
        "after",
        "one part is among the winners, others are not",
        only=_part,
        **_FD12,
    ),
    _task(
        "manifest-unwritten",
        "mr.output:_write_synced",
        "before",
        "all parts are in place and there is no manifest",
        only=_manifest_file,
        **_FD12,
    ),
    _task(
        "manifest-unrenamed",
        "os:rename",
        "before",
        "the manifest is written and not under its name",
        only=_manifest,
        **_FD12,
    ),
    _task(
        "output-unrenamed",
        "os:rename",
        "before",
        "the output is complete beside its place",
        only=_final,
        cites=("FT5", "FT8", "FD12"),
    ),
    _task(
        "output-renamed",
        "os:rename",
        "after",
        "the output is in its place, the name not synced",
        only=_final,
        **_FD12,
    ),
    _task("published", "mr.output:publish", "after", "the output is published and not reported", **_FD12),
    _task(
        "cleaning", "mr.output:cleanup", "before", "a job has ended and its staging place is there", **_FD12
    ),
)

POINTS = (*MASTER_POINTS, *WORKER_POINTS, *TASK_POINTS)
NUMBERS = {point.name: number for number, point in enumerate(POINTS, 1)}
assert len(NUMBERS) == len(POINTS) < 256, "a point has one name, and one byte"
