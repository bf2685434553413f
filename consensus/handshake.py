"""What two members tell each other before the first frame, and whether that is enough. Pure.

The law: no frame is read from a peer that is not a member of this very cluster: same cluster id, same set of
members, same protocol, and, under TLS, a certificate that says it is the master it claims to be. Each process
draws a number, its life; a link carries the frames of one life of the peer only, so that nothing a dead
process sent arrives after its successor was met.

Nor is one read from a disk that was replaced: whoever has met a newer disk of a member lets no older one of it in
any more, so that a machine which was given up and comes back after all disturbs nobody and votes for nobody (C2, C13).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PROTOCOL = 1
_KEYS = (
    "raft-member",
    "raft-life",
    "raft-session",
    "raft-cluster",
    "raft-members",
    "raft-protocol",
    "raft-disk-generation",
    "raft-disk-nonce",
)

Metadata = Iterable[tuple[str, str | bytes]]


class Refused(Exception):
    """The peer is not let in. The text says why, and is told to the peer."""


@dataclass(frozen=True, slots=True, order=True)
class Disk:
    """Where a member's state lies: 0 is the generation of the founding, every replacement has a larger one."""

    generation: int = 0
    nonce: int = 0  # drawn once for the disk


@dataclass(frozen=True, slots=True)
class Hello:
    """One side's introduction. `session` counts the streams that this life opened to the other."""

    member: str
    life: int
    session: int
    cluster_id: str
    members: str  # a digest of the set of members
    protocol: int = PROTOCOL
    disk: Disk = Disk()

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """As gRPC metadata; `read` is its inverse."""
        fields = (
            self.member,
            self.life,
            self.session,
            self.cluster_id,
            self.members,
            self.protocol,
            self.disk.generation,
            self.disk.nonce,
        )
        return tuple((key, str(value)) for key, value in zip(_KEYS, fields, strict=True))


def read(metadata: Metadata) -> Hello:
    """The introduction in gRPC metadata. Raises Refused."""
    pairs: Mapping[str, str | bytes] = dict(metadata)
    try:
        member, life, session, cluster, members, protocol, generation, nonce = (
            str(pairs[key]) for key in _KEYS
        )
        disk = Disk(int(generation), int(nonce))
        return Hello(member, int(life), int(session), cluster, members, int(protocol), disk)
    except (KeyError, ValueError) as error:
        raise Refused(f"not an introduction of a member: {error}") from error


def members_digest(members: Iterable[str]) -> str:
    """Equal for equal sets of ids. Addresses are left out: a member may move, the majority may not."""
    return hashlib.sha256("\0".join(sorted(members)).encode()).hexdigest()[:16]


def check(mine: Hello, theirs: Hello, members: Iterable[str], certified: tuple[str, str] | None) -> None:
    """Raises Refused unless `theirs` may exchange frames with `mine`.

    `certified` is (role, name) of the peer's certificate; None on a plaintext link, where the claim must do.
    """
    if certified is not None and certified != ("master", theirs.member):
        role, name = certified
        raise Refused(f"the certificate is of {role} {name!r}, not of master {theirs.member!r}")
    if theirs.member == mine.member or theirs.member not in members:
        raise Refused(f"{theirs.member!r} is not another member of this cluster")
    if theirs.protocol != mine.protocol:
        raise Refused(f"it speaks protocol {theirs.protocol}, this member {mine.protocol}")
    if theirs.members != mine.members:
        raise Refused("its --peers name other members than ours; all masters must be given the same")
    if not mine.cluster_id or theirs.cluster_id != mine.cluster_id:
        ours, other = mine.cluster_id or "none yet", theirs.cluster_id or "none yet"
        raise Refused(f"it belongs to cluster {other}, this member to {ours}")


def is_newer(member: str, met: Disk | None, theirs: Disk) -> bool:
    """Is `theirs` a disk of `member` to be remembered instead of `met`? Raises Refused for one that was replaced."""
    if met is None or theirs.generation > met.generation:
        return True
    if theirs != met:
        raise Refused(
            f"this disk of {member} was replaced by another one, which has taken its place in the cluster: stop this"
            " master for good, or empty its data directory and start it with --replace"
        )
    return False
