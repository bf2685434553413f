"""Who the masters are and how they fare: this one's own row, the others' asked with little patience, and one
sentence.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from consensus.replica import Replica
from master import versions
from master.config import MasterConfig, Peer
from master.peers import Peers
from master.task_table import TaskTable
from mr.rpc import cluster_pb2 as pb

_PATIENCE_S = 1.0
_ANNOUNCE_S = 2.0
_UP = frozenset({"leader", "follower", "candidate", "non-voter", "waiting"})
_VOTING = frozenset({"leader", "follower", "candidate"})


class Masters:
    """Rows of `mr masters`. `http` is where this master's pages are, or empty."""

    def __init__(
        self, config: MasterConfig, replica: Replica, peers: Peers, table: TaskTable, version: str
    ) -> None:
        self._config = config
        self._table = table
        self._replica = replica
        self._peers = peers
        self._version = version
        self._began = time.monotonic()
        self.http = ""
        self._seen: dict[str, pb.MasterInfo] = {}  # the last answer of each, for when it is down

    def own(self) -> pb.MasterInfo:
        """This master."""
        status = self._replica.status()
        return pb.MasterInfo(
            id=self._config.id,
            address=self._config.advertise,
            role=status.role,
            term=status.term,
            commit=status.commit,
            applied=status.applied,
            lag=max(0, status.commit - status.applied),
            disk_ms=status.disk_s * 1000,
            version=self._version,
            up_ms=int((time.monotonic() - self._began) * 1000),
            cluster_id=status.cluster_id,
            note=status.note,
            http=self.http,
            raft_address=self._config.me.raft_address,
            log_entries=status.log_entries,
            snapshot_index=status.snapshot,
            memory_bytes=resident_bytes(),
            knows=versions.KNOWN,
            cluster_version=self._table.cluster_version,
        )

    async def all(self) -> pb.MasterList:
        """Every configured master; one that does not answer in a second is down. One that has just come back may be
        called so for two seconds more: gRPC waits that long before it connects again.
        """
        own = self.own()
        rows = [own, *await asyncio.gather(*(self._ask(peer) for peer in self._config.others))]
        rows.sort(key=lambda row: row.id)
        commit = max(row.commit for row in rows)
        for row in rows:
            if row.role in _UP:
                row.lag = max(0, commit - row.applied)
        return pb.MasterList(masters=rows, note=standing(rows))

    async def known(self) -> list[int | None]:
        """Which version of the commands each other master knows; None for one that does not answer."""
        rows = await asyncio.gather(*(self._ask(peer) for peer in self._config.others))
        return [row.knows if row.role in _UP else None for row in rows]

    async def announced(self, heir: str) -> None:
        """Returns when `heir` says that it leads, or after a while: then the list tells what is."""
        peer = next((peer for peer in self._config.others if peer.id == heir), None)
        deadline = time.monotonic() + _ANNOUNCE_S
        while peer and time.monotonic() < deadline and (await self._ask(peer)).role != "leader":
            await asyncio.sleep(0.02)

    async def _ask(self, peer: Peer) -> pb.MasterInfo:
        try:
            stub = self._peers.cluster(peer)
            answer = await stub.ListMasters(pb.ListMastersRequest(local_only=True), timeout=_PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            return self._down(peer, str(error.details() or error.code()))
        self._seen[peer.id] = answer.masters[0]
        return answer.masters[0]

    def _down(self, peer: Peer, why: str) -> pb.MasterInfo:
        """The row of one that does not answer: what it last said of itself, and whether consensus hears it."""
        seen, link = self._seen.get(peer.id, pb.MasterInfo()), self._replica.status().peers.get(peer.id)
        heard = "; its Raft port is connected" if link and link.connected else ""
        return pb.MasterInfo(
            id=peer.id,
            address=peer.address,
            raft_address=peer.raft_address,
            role="down",
            term=seen.term,
            version=seen.version,
            note=f"does not answer: {_short(why)}{heard}",
        )


def _short(why: str) -> str:
    """What of gRPC's long sentence helps."""
    for known in ("Connection refused", "No route to host", "Deadline Exceeded", "certificate", "DNS"):
        if known.lower() in why.lower():
            return known.lower()
    return why[:100]


def standing(rows: Sequence[pb.MasterInfo]) -> str:
    """One sentence: how many are up and how many more may go. `rows` are all configured masters."""
    total, majority = len(rows), len(rows) // 2 + 1
    voting = sum(row.role in _VOTING for row in rows)
    up = sum(row.role in _UP for row in rows)
    said = f"{up} of {total} up"
    if voting < majority:
        missing = majority - voting
        back = "is" if missing == 1 else "are"
        return f"{said}: no majority, nothing is accepted until {missing} more {back} back"
    if not any(row.role == "leader" for row in rows):
        return f"{said}: no leader at the moment, an election should take under a second"
    return f"{said}: works, can lose {voting - majority} more"


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
