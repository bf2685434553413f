"""The contract of consensus: what a replicated state machine gives, and what it may ask of its replica.

Every coroutine and callback here runs on one asyncio loop, the one that `start` was awaited on. Consensus' own
threads order entries and make them durable; what is committed reaches the loop through a queue, so `apply`,
`snapshot`, `restore` and leadership callbacks never run at the same time and always in log order.

Two questions decide which error is raised: may the command still be applied (`maybe_applied`), and whom to ask
instead. A refusal by the state machine is not an error here: it is `apply`'s result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class ConsensusError(Exception):
    """Base of what `propose` and `barrier` raise."""

    maybe_applied = False


class NotLeader(ConsensusError):
    """Definite: nothing was written. `leader` is the id to ask instead, if one is known."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"not the leader; ask {leader}" if leader else "not the leader, and none is known")
        self.leader = leader


class Unavailable(ConsensusError):
    """Definite: nothing was written. No leader with a majority, or a queue is full."""


class CommitUnknown(ConsensusError):
    """Indefinite: the command is in some log and may yet be applied. Retry it under the same request id."""

    maybe_applied = True


class StateMachine(Protocol):
    """What is replicated. Deterministic: equal commands in equal order give equal states and results."""

    def apply(self, index: int, command: bytes) -> Any:
        """Applies one committed command. Never raises: an exception here ends the process, loudly. RefusedToStart says
        that the log is of a newer release, so that only the release is to blame."""

    def snapshot(self) -> Callable[[], bytes]:
        """Copies the state compactly, now; the function it returns serialises the copy on another thread."""

    def restore(self, data: bytes) -> None:
        """Replaces the whole state by what `snapshot` serialised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Who leads, as this replica knows it. `mine` only after this replica won the election of `term`."""

    term: int
    leader: str | None
    mine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica's view of itself, for people and metrics. Indexes are log indexes."""

    id: str
    role: str  # "leader", "follower", "candidate", "non-voter", "waiting"
    term: int
    leader: str | None
    commit: int
    applied: int
    last: int  # last index in the log
    durable: int  # last index known to be on disk here
    snapshot: int  # index of the last snapshot; 0 = none
    log_entries: int
    disk_s: float  # recent median of one fsync, seconds
    cluster_id: str
    peers: dict[str, PeerStatus]
    note: str = ""  # why it waits or does not vote


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """Another member, as this replica sees it. `match` is known on the leader only."""

    connected: bool
    match: int | None
    silent_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """Where a snapshot ends."""

    index: int
    term: int
    size: int  # bytes


class Replica(Protocol):
    """One member of the cluster. `consensus.memory` and `consensus.syncobj` both keep this contract."""

    @property
    def id(self) -> str:
        """This member's id."""

    @property
    def leadership(self) -> Leadership:
        """The newest leadership that has been announced on the loop."""

    async def start(self) -> None:
        """Opens the state on disk, restores and joins. Raises `RefusedToStart` with what to do."""

    async def stop(self) -> None:
        """Leaves without ceremony; what was acknowledged is on disk already. Idempotent."""

    async def propose(self, command: bytes, *, timeout_s: float) -> Any:
        """Replicates `command`; returns what `apply` returned here. Raises NotLeader, Unavailable, CommitUnknown;
        ValueError when the command is larger than the configured limit."""

    async def barrier(self, *, timeout_s: float) -> int:
        """A linearizable read point: leadership confirmed by a quorum in this term, and everything committed
        before that applied here. Returns the applied index. Raises NotLeader or Unavailable."""

    def on_leadership(self, callback: Callable[[Leadership], None]) -> None:
        """`callback` is called on the loop at every change, in order with `apply`."""

    def status(self) -> ReplicaStatus:
        """Never blocks."""

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Hands leadership to `to`, or to the most advanced follower; returns its id. Raises NotLeader, Unavailable."""

    async def snapshot(self, *, timeout_s: float) -> SnapshotInfo:
        """Takes a snapshot now and trims the log. Returns where it ends. Raises Unavailable."""

    async def snapshot_bytes(self) -> tuple[SnapshotInfo, bytes]:
        """The state machine's own bytes at an applied index, for `mr snapshot save`."""


class RefusedToStart(Exception):
    """The state on disk, the certificates or the peers forbid to start. The text says what to do, `exit_code`
    how to end."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
