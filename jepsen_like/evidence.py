"""What a run left behind, from sources that do not depend on each other: the records that checkers judge.

Plain data, kept as `evidence.json` beside the history, so that a verdict can be found again without the cluster.
Times are nanoseconds since the run began, as in the history.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

VERSION = 1


@dataclass(slots=True, kw_only=True)
class Job:
    """One job: what was asked, what the cluster says of it, what lies on the disk, what should lie there."""

    id: str
    shape: str = ""
    expected: str = "SUCCEEDED"  # how it ends when nobody cancels it
    reduces: int = 0
    status: dict[str, Any] | None = None  # `mr status --json`; None: there is no such job
    events: list[dict[str, Any]] = field(default_factory=list)  # `mr events --json`
    output: dict[str, dict[str, Any]] | None = None  # file -> {bytes, sha256}; None: no directory
    manifest: dict[str, Any] | None = None
    staging: bool = False  # its staging place is still there
    elsewhere: bool = False  # the place of its output is another job's, which overwrote it or could not
    deadline_s: float = 0.0  # of the whole job; 0: none
    reference: dict[str, dict[str, Any]] = field(default_factory=dict)  # part -> {bytes, sha256}
    counters: dict[str, int] = field(default_factory=dict)  # what they must be
    input_changed: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker: its own journal, and what it left."""

    id: str
    journal: list[dict[str, Any]] = field(default_factory=list)  # worker/journal.py
    scratch: list[str] = field(default_factory=list)  # files of jobs after the calm
    processes: list[str] = field(default_factory=list)  # task processes of ended jobs after the calm
    logs: dict[str, int] = field(default_factory=dict)  # what tasks have printed: the largest file, its bytes


@dataclass(slots=True, kw_only=True)
class Master:
    """One master: its disk after it was stopped, and how it showed each job before."""

    id: str
    dump: list[dict[str, Any]] = field(default_factory=list)  # `mr master dump`
    refused: str = ""  # why its disk could not be read
    view: dict[str, dict[str, Any]] = field(default_factory=dict)  # job -> state, counters, reruns, attempts
    applied: int = 0


@dataclass(slots=True, kw_only=True)
class Mark:
    """A task began: written by the task itself."""

    job: str
    task: str  # "m-7"
    attempt: int
    t: int


@dataclass(slots=True, kw_only=True)
class Probe:
    """A call that must not be let in, and what came back."""

    who: str  # "plaintext", "no certificate", "another CA", or the role of a true certificate
    server: str
    port: str  # "grpc", "raft", "data"
    method: str
    answer: str  # name of the gRPC status
    bytes: int = 0  # of the message, where its size is the point
    grew: int = 0  # bytes of memory that the server took meanwhile


@dataclass(slots=True, kw_only=True)
class Audit:
    """A line of a master's audit log."""

    master: str
    method: str
    job: str
    identity: str
    outcome: str


@dataclass(slots=True, kw_only=True)
class Peek:
    """What a task that looked around could read."""

    job: str
    task: str
    isolation: str  # of its worker
    found: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Everything about one run but its history."""

    config: dict[str, Any] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    masters: list[Master] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    peeks: list[Peek] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)  # where a secret was found, never the secret
    secrets_searched: int = 0  # bytes
    calm_s: float = 0.0  # how long the calm took until every job had ended
    healed_t: int = 0  # when the last fault was healed
    unfinished: list[str] = field(default_factory=list)  # jobs that did not end in the calm
    version: int = VERSION


def full_name(task: str) -> str:
    """The name of a task in journals, of that which it has in its environment: "m-7" is "0.m-00007"."""
    step, _, rest = task.rpartition(".")
    letter, _, index = rest.partition("-")
    return f"{step or 0}.{letter}-{int(index):05d}" if index.isdigit() else task


def save(evidence: Evidence, path: Path) -> None:
    """Writes it as JSON."""
    path.write_bytes(msgspec.json.encode(evidence))


def load(path: Path) -> Evidence:
    """Raises ValueError for what is none."""
    try:
        data = path.read_bytes()
        found = msgspec.json.decode(data, type=Evidence)
        given = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no evidence of a run: {error}") from None
    if found.version != VERSION:
        raise ValueError(f"{path} is evidence of version {found.version}, this release reads {VERSION}")
    if strange := sorted(given.keys() - {f.name for f in fields(Evidence)}):
        raise ValueError(f"{path} has {', '.join(strange)}, which is no part of evidence")
    return found
