"""How an empty member finds out whether to found a cluster, to join the one being founded, or to stay out.
Pure.

The law: a cluster is founded once. An empty member founds it only when *all* configured peers answer that
they are empty too; whoever has the smallest id mints the cluster's id and writes down the nonce of every disk
that was there. The others take the id only if their own nonce is among them. So a member whose disk was lost
is never mistaken for a founder: it would vote again in terms in which its old disk has voted, and forget what
its old disk acknowledged.

Such a member comes back with `--replace`, as a non-voter, until it has applied an entry that a majority
without it committed after its return, and every other member has met the new disk (consensus/following.py). The new
disk has a larger generation than all before it: whoever has met it never lets an older one in again, should that come
back too. design.md, section 10; FC20, FC27.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from consensus.datadir import Identity
from consensus.handshake import PROTOCOL, Disk, members_digest
from consensus.rpc import raft_pb2 as pb


@dataclass(frozen=True, slots=True)
class Join:
    """Take `identity`, and take part; without a vote if this disk replaces a lost one."""

    identity: Identity
    voter: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again. `reason` is for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not start. `reason` says what to do."""

    reason: str


def identification(identity: Identity) -> pb.Identification:
    """What a member says of itself."""
    return pb.Identification(
        member=identity.member,
        cluster_id=identity.cluster_id,
        nonce=identity.nonce,
        founders=identity.founders,
        members_digest=members_digest(identity.members).encode(),
        protocol=PROTOCOL,
        generation=identity.generation,
        met={
            member: pb.Disk(generation=disk.generation, nonce=disk.nonce)
            for member, disk in identity.met.items()
        },
    )


def decide(
    mine: Identity, answers: Mapping[str, pb.Identification], *, replacing: bool, new_id: str
) -> Join | Wait | Stop:
    """What an empty member does, given what its peers answered; who did not answer is not in `answers`.

    `new_id` is drawn by the caller: the cluster's, if it is founded here and now.
    """
    others = [member for member in mine.members if member != mine.member]
    for peer in sorted(answers):
        if objection := _objection(mine, peer, answers[peer]):
            return Stop(objection)
    founded = {peer: answer for peer, answer in sorted(answers.items()) if answer.cluster_id}
    if founded:
        return _join(mine, founded, replacing)
    missing = [peer for peer in others if peer not in answers]
    if replacing:
        return Wait(
            f"waiting for a master that knows the cluster: {', '.join(missing) or 'all peers are empty'}"
        )
    if missing:
        return Wait(f"waiting for {', '.join(missing)}: a cluster is founded when all its masters are there")
    founder = min(mine.members)
    if mine.member != founder:
        return Wait(f"waiting for {founder} to found the cluster")
    founders = {mine.member: mine.nonce, **{peer: answers[peer].nonce for peer in others}}
    met = {peer: Disk(0, founders[peer]) for peer in others}
    return Join(replace(mine, cluster_id=new_id, founders=founders, met=met), voter=True)


def _objection(mine: Identity, peer: str, answer: pb.Identification) -> str:
    if answer.member != peer:
        return f"where --peers says that {peer} is, {answer.member!r} answers: correct --peers"
    if answer.protocol != PROTOCOL:
        return f"{peer} speaks protocol {answer.protocol}, this release {PROTOCOL}"
    if answer.members_digest != members_digest(mine.members).encode():
        return f"{peer} was started with other members in --peers: all masters must be given the same"
    return ""


def _join(mine: Identity, founded: Mapping[str, pb.Identification], replacing: bool) -> Join | Stop:
    clusters = {answer.cluster_id for answer in founded.values()}
    who = " and ".join(founded)
    if len(clusters) > 1:
        return Stop(f"{who} belong to different clusters ({', '.join(sorted(clusters))}): correct --peers")
    answer = next(iter(founded.values()))
    met = _newest_disks(founded)
    before = met.pop(mine.member, Disk())
    identity = replace(mine, cluster_id=answer.cluster_id, founders=dict(answer.founders), met=met)
    if before == mine.disk:
        return Join(identity, voter=True)
    if replacing:
        return Join(replace(identity, generation=max(before.generation + 1, mine.born)), voter=False)
    return Stop(
        f"the data directory of {mine.member} is empty, but cluster {answer.cluster_id} exists (says {who})."
        " If --data-dir is wrong, correct it. If the disk was lost, start this master with --replace: it comes"
        " back as a non-voter and is brought up to date by the others"
    )


def _newest_disks(founded: Mapping[str, pb.Identification]) -> dict[str, Disk]:
    """Of every member, the newest disk that those who answered have or have met."""
    newest: dict[str, Disk] = {}
    for peer, answer in founded.items():
        founders = {member: Disk(0, nonce) for member, nonce in answer.founders.items()}
        met = {member: Disk(disk.generation, disk.nonce) for member, disk in answer.met.items()}
        known = founders | met | {peer: Disk(answer.generation, answer.nonce)}
        for member, disk in known.items():
            newest[member] = max(disk, newest.get(member, disk))
    return newest
