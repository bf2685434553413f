"""What goes into the leader and what comes out of it: the whole of its contact with the world.

The driver feeds `Input`s in the order in which they happened and carries out `Action`s in the order given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from master.events import Event
from mr.rpc import job_pb2, session_pb2, table_pb2


class Outcome(Enum):
    """How a proposal ended."""

    APPLIED = "applied"
    NOT_APPLIED = "not applied"  # definite: it never will be
    UNKNOWN = "unknown"  # it may yet be


@dataclass(frozen=True, slots=True)
class Elected:
    """This replica leads `term`. `now_s` is monotonic, `now_ms` the wall clock to show."""

    term: int
    now_s: float
    now_ms: int


@dataclass(frozen=True, slots=True)
class Deposed:
    """It leads no more; the driver closes the sessions."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The table has applied an entry, whoever proposed it. `results` holds one list of events a command."""

    index: int
    entry: table_pb2.Entry
    results: list[list[Event]]


@dataclass(frozen=True, slots=True)
class Proposed:
    """What became of the proposal of that number; comes after its `Applied`."""

    number: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Attached:
    """A worker opened a stream; `session` names it and is never used again."""

    session: int
    attach: session_pb2.Attach


@dataclass(frozen=True, slots=True)
class WorkerSaid:
    """Anything a worker says after its attach."""

    session: int
    event: session_pb2.WorkerEvent


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The stream is gone, whoever closed it."""

    session: int


@dataclass(frozen=True, slots=True)
class PlanLoaded:
    """The split plan that `LoadPlan` asked for."""

    job: str
    plan: job_pb2.SplitPlan


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    now_s: float
    now_ms: int


Input: TypeAlias = (
    Elected | Deposed | Applied | Proposed | Attached | WorkerSaid | SessionClosed | PlanLoaded | Tick
)


@dataclass(frozen=True, slots=True)
class Propose:
    """Put these commands into one entry of the leader's term; answer with `Proposed(number, …)`."""

    number: int
    commands: list[table_pb2.Command]


@dataclass(frozen=True, slots=True)
class Send:
    """Orders for one worker. An order that does not arrive is sent again after the next attach."""

    session: int
    orders: list[session_pb2.Order]


@dataclass(frozen=True, slots=True)
class CloseSession:
    """Close the stream once what was sent is out."""

    session: int


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Fetch the split plan of a job from the blobs, however long it takes; answer with `PlanLoaded`."""

    job: str
    digest: bytes


Action: TypeAlias = Propose | Send | CloseSession | LoadPlan
