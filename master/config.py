"""What one master process is told: its members, its places, its limits. A frozen record, checked when made.

Cluster-wide values must be equal on every master or the cluster is ill (the members of `peers` are compared
in the handshake between replicas); the rest is this process' own business. Nothing here opens a file or a
socket: what is local is asked of the caller.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from master.scheduler import POLICIES
from mr.errors import Usage
from mr.tls import TlsFiles

GRPC_PORT = 7070
HTTP_PORT = 7080

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One configured member. Clients, workers and blobs use `port`, the other replicas `raft_port`."""

    id: str
    host: str
    port: int
    raft_port: int

    @property
    def address(self) -> str:
        """Where clients and workers reach it."""
        return join_address(self.host, self.port)

    @property
    def raft_address(self) -> str:
        """Where the other replicas reach it."""
        return join_address(self.host, self.raft_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterConfig:
    """One master. Raises Usage for what cannot work."""

    id: str
    peers: tuple[Peer, ...]
    data_dir: Path
    listen: str  # host:port of gRPC; the Raft port is the own peer entry's
    advertise: str  # as clients are told to reach us
    http: str | None  # host:port of pages and metrics; None = off
    http_pinned: bool = False  # the port was asked for: do not look for the next free one
    tls: TlsFiles | None  # None: plaintext, loopback only
    refuse_entry: tuple[int, str] | None = (
        None  # (index, digest) of a fatal entry to skip: the same on all masters
    )
    replace: bool = False  # an empty data_dir takes the place of a lost one: consensus/founding.py

    # Cluster-wide.
    election_timeout_s: float = 0.3  # at least; up to twice that, at random
    heartbeat_s: float = 0.05
    # A worker silent for this long is lost and its attempts run elsewhere. It must outlast an election, or
    # every election would cost all workers.
    worker_lease_s: float = 10.0
    worker_heartbeat_s: float = 1.0
    policy: str = "locality"
    # A worker with so many strikes within exclude_s is excluded for as long, or for good.
    exclude_after: int = 3
    exclude_s: float = 600.0
    exclude_for_good: bool = False
    # Finished jobs become forgotten when they are older than this, or more than so many (T15).
    history_s: float = 7 * 86400.0
    history_jobs: int = 1000

    # This process.
    commit_timeout_s: float = 10.0  # a client's write is given up (CommitUnknown) after this
    read_timeout_s: float = 5.0  # a consistent read is given up (Unavailable) after this
    snapshot_every: int = 50_000  # entries; the log is also trimmed by size
    blob_limit_bytes: int = 16 << 30  # all blobs together; a Put beyond it is refused
    blob_each_bytes: int = 1 << 30
    watchers: int = 2000  # streams of Watch and ReadLogs at once

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise Usage(f"no scheduling policy {self.policy!r}", next=f"known: {', '.join(sorted(POLICIES))}")
        if self.snapshot_every < 2:
            raise Usage("snapshot_every must be at least 2 log entries")
        if self.exclude_after < 1 or self.exclude_s <= 0:
            raise Usage("[worker.blacklist] after must be at least 1, and for a duration")
        if not any(peer.id == self.id for peer in self.peers):
            raise Usage(f"--id {self.id} is not among the peers: {', '.join(peer.id for peer in self.peers)}")
        if self.worker_lease_s <= 3 * self.worker_heartbeat_s:
            raise Usage("worker_lease must be more than three times worker_heartbeat")
        if self.worker_lease_s < 4 * 2 * self.election_timeout_s:
            raise Usage("worker_lease must outlast an election: at least eight times election_timeout")
        if self.election_timeout_s < 3 * self.heartbeat_s:
            raise Usage("election_timeout must be at least three times heartbeat")

    @property
    def me(self) -> Peer:
        """The own entry of `peers`."""
        return next(peer for peer in self.peers if peer.id == self.id)

    @property
    def others(self) -> tuple[Peer, ...]:
        """Every peer but the own one."""
        return tuple(peer for peer in self.peers if peer.id != self.id)

    @property
    def majority(self) -> int:
        """How many members decide."""
        return len(self.peers) // 2 + 1

    def address_of(self, peer_id: str | None) -> str | None:
        """Where clients reach a member; None for an unknown one."""
        if peer_id == self.id:
            return self.advertise
        return next((peer.address for peer in self.peers if peer.id == peer_id), None)

    @property
    def hosts(self) -> set[str]:
        """Every host that this process listens on or talks to."""
        hosts = {peer.host for peer in self.peers} | {split_address(self.listen)[0]}
        return hosts | ({split_address(self.http)[0]} if self.http else set())


def parse_peers(text: str) -> tuple[Peer, ...]:
    """`a=h1:7070,b=h2:7070/9001` or `h1,h2,h3`: the id is what stands before `=`, else the host as written;
    the port is 7070 and the Raft port the next one if not given. Raises Usage.
    """
    peers = tuple(_parse_peer(part.strip()) for part in text.split(",") if part.strip())
    if not peers:
        raise Usage(
            "--peers is empty",
            next="name every master: --peers a=h1:7070,b=h2:7070,c=h3:7070, or --peers h1,h2,h3",
        )
    for what, counts in (
        ("id", Counter(peer.id for peer in peers)),
        ("address", Counter(peer.address for peer in peers if peer.port)),
    ):
        twice = [value for value, count in counts.items() if count > 1]
        if twice:
            raise Usage(
                f"--peers names the {what} {twice[0]} twice",
                next="give each an id: --peers a=h1:7070,b=h1:7072",
            )
    return peers


def choose_self(peers: tuple[Peer, ...], wanted: str | None, is_local: Callable[[str], bool]) -> str:
    """The own id: as wanted, else the one peer whose host is this machine. Raises Usage."""
    known = ", ".join(peer.id for peer in peers)
    if wanted:
        if all(peer.id != wanted for peer in peers):
            raise Usage(f"--id {wanted} is not among the peers: {known}")
        return wanted
    here = [peer.id for peer in peers if is_local(peer.host)]
    match here:
        case [own]:
            return own
        case []:
            raise Usage(
                f"none of the peers ({known}) is an address of this host",
                next="say which one this is: --id NAME",
            )
        case _:
            raise Usage(
                f"several peers are this host ({', '.join(here)})", next="say which one this is: --id NAME"
            )


def split_address(address: str, default_port: int = GRPC_PORT) -> tuple[str, int]:
    """`h:1`, `h`, `[::1]:1` -> (host, port). Raises Usage."""
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", address)
    if not match or int(match[3] or 0) > 65535:
        raise Usage(f"{address!r} is not host:port")
    return match[1] or match[2], int(match[3]) if match[3] else default_port


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_peer(text: str) -> Peer:
    name, equals, place = text.rpartition("=")
    place, slash, raft = place.partition("/")
    host, port = split_address(place)
    if slash and not raft.isdigit():
        raise Usage(f"{text!r}: after / comes the Raft port")
    peer_id = name if equals else host
    if not _ID.fullmatch(peer_id) and peer_id != host:
        raise Usage(f"{peer_id!r} is not an id: letters, digits, dot, dash, underscore; at most 63")
    raft_port = int(raft) if slash else port + 1 if port else 0
    return Peer(id=peer_id, host=host, port=port, raft_port=raft_port)
