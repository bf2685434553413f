"""What one replica is told at its start: who the members are, where state lies, how patient and how large
it may be.

Frozen. Units stand in the names; the relations between the numbers are asserted, because a wrong one is not
slow but unsafe or never elects. `timing` and `limits` must be equal on all members only where a comment
says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a replica waits for what, in seconds."""

    heartbeat_s: float = 0.05
    # Equal on all members: the lease below is only as good as the least patient voter.
    election_min_s: float = 0.3
    election_max_s: float = 0.6
    # A leader that a majority has not answered for this long (counted from when it *sent* what they
    # answered) steps down. Not longer than `election_min_s`: no voter elects another before that, so two
    # never lead at once for long.
    lease_s: float = 0.3
    # After a connection reset the survivors ask for votes at once, one after another in the order of their
    # ids, so that they do not split the vote.
    reset_step_s: float = 0.03
    # A repeat of a snapshot piece or a probe for which no answer came.
    retry_s: float = 0.25

    def __post_init__(self) -> None:
        assert 0 < 3 * self.heartbeat_s <= self.election_min_s < self.election_max_s
        assert self.heartbeat_s < self.lease_s <= self.election_min_s, (
            "a lease must end before anyone else is elected"
        )
        assert 0 < self.reset_step_s < self.election_min_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a replica takes in before it says `Unavailable`, and when it compacts."""

    command_bytes: int = 1 << 20  # one proposal; a larger one is a ValueError
    queued_proposals: int = 8192  # proposed and not yet in the log
    queued_bytes: int = 64 << 20
    uncommitted_entries: int = 100_000  # in the leader's log and not committed
    uncommitted_bytes: int = 64 << 20
    apply_lag_entries: int = 50_000  # committed here and not yet applied by the loop
    # Commands in one append (a larger one goes alone); sent to one follower and not yet answered. A heartbeat stands
    # behind both: 1 MiB for each of two followers is 0.17 s of a link of 100 Mbit/s, less than the lease.
    append_bytes: int = 512 << 10
    window_bytes: int = 512 << 10
    piece_bytes: int = 256 << 10  # of a snapshot, in one frame
    window_pieces: int = 4
    compact_bytes: int = 64 << 20  # of commands in the log before a snapshot is taken
    compact_entries: int = 200_000
    # After a snapshot this many entries stay in the log, so that a follower that is a little late needs no
    # snapshot.
    keep_entries: int = 20_000

    def __post_init__(self) -> None:
        assert self.append_bytes <= self.window_bytes
        assert self.command_bytes + self.append_bytes <= 8 << 20, "a frame holds 16 MiB, overhead included"
        assert self.keep_entries < self.compact_entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of this member's certificate. The common name is its id."""

    ca: Path
    cert: Path
    key: Path
    # Every server certificate of the cluster also verifies under this name, wherever it listens.
    server_name: str = "mapraft"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """One member. `peers` holds every member, this one included: id -> "host:port" of its Raft server."""

    id: str
    peers: dict[str, str]
    listen: str  # "host:port"; port 0 takes a free one (tests)
    data_dir: Path
    tls: Tls | None = None  # None: plaintext, accepted on loopback only
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    # The index and the SHA-256 (hex, a prefix of 12 digits or more) of a committed command that `apply`
    # chokes on and that every member is told to skip.
    refuse_entry: tuple[int, str] | None = None
    # An empty data_dir normally founds a cluster, if every peer is empty too. With `replace` it comes back
    # under an old id as a non-voter instead, and votes again when that is proven safe.
    replace: bool = False
    reserve_bytes: int = 64 << 20  # free disk space below which a replica does not start voting
    seed: int | None = None  # of the election timeouts; None: from the system

    def __post_init__(self) -> None:
        assert self.id in self.peers, f"{self.id} is not among the peers {sorted(self.peers)}"

    @property
    def others(self) -> list[str]:
        """The other members' ids, in order."""
        return sorted(p for p in self.peers if p != self.id)

    @property
    def majority(self) -> int:
        """How many members decide."""
        return len(self.peers) // 2 + 1
