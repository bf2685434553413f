"""Blobs on a majority of masters: copied before a submit is proposed, fetched from each other, swept when
unnamed.

The law: `ensure` returns only when a majority, this master included, has said that the blob is on its disk.
So a job that is in the log finds its code and its plan on whichever master leads next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

import grpc

from master.blobs import BlobStore
from master.config import MasterConfig, Peer
from master.peers import Peers
from mr.errors import Error, NotFound, Unavailable, from_rpc
from mr.rpc import cluster_pb2 as pb

log = logging.getLogger("mr.master")

_COPY_TIMEOUT_S = 60.0
_ASK_TIMEOUT_S = 2.0
_SURE = 10_000  # digests remembered as safe


class Copies:
    """What this master knows of the other masters' blobs. `named` gives the digests that live jobs name."""

    def __init__(
        self, config: MasterConfig, store: BlobStore, peers: Peers, named: Callable[[], set[bytes]]
    ) -> None:
        self._majority = config.majority
        self._store = store
        self._peers = peers
        self._named = named
        self._safe: dict[bytes, None] = {}  # known to be on a majority; insertion order = age
        self._fetching: dict[bytes, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[bool]] = set()

    async def ensure(self, digest: bytes) -> int:
        """Returns the number of copies once a majority holds the blob. Raises NotFound if no master has it,
        Unavailable without a majority.
        """
        await self.have(digest)
        if digest in self._safe:
            return self._majority
        copies = 1
        pending = {asyncio.create_task(self._copy(peer, digest)) for peer in self._peers.others}
        while copies < self._majority and pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            copies += sum(task.result() for task in done)
        self._background |= pending  # the rest of the members get it too, nobody waits for them
        for task in pending:
            task.add_done_callback(self._background.discard)
        if copies < self._majority:
            raise Unavailable(
                f"blob {digest.hex()[:12]} is on {copies} of {len(self._peers.others) + 1} masters only"
            )
        self._safe[digest] = None
        if len(self._safe) > _SURE:
            del self._safe[next(iter(self._safe))]
        return copies

    async def have(self, digest: bytes) -> None:
        """Returns when the blob is on this master, fetched from another one if need be. Raises NotFound."""
        if self._store.has(digest):
            return
        task = self._fetching.get(digest)
        if task is None:
            task = self._fetching[digest] = asyncio.create_task(self._fetch(digest))
            task.add_done_callback(lambda _: self._fetching.pop(digest, None))
        await asyncio.shield(task)

    async def read_all(self, digest: bytes) -> bytes:
        """The blob's bytes, from wherever it is. Raises NotFound."""
        await self.have(digest)
        try:
            return await self._store.read_all(digest)
        except NotFound:  # damaged here: another master has a good one
            await self.have(digest)
            return await self._store.read_all(digest)

    async def tend(self, every_s: float = 30.0) -> None:
        """Runs for ever: fetches what a live job names and this master lacks, deletes what no job names."""
        while True:
            await asyncio.sleep(every_s)
            named = self._named()
            for digest in sorted(named - self._store.digests()):
                try:
                    await self.have(digest)
                except Error as error:
                    log.warning("blob %s is missing here: %s", digest.hex()[:12], error)
            for digest in self._store.sweep(named):
                self._safe.pop(digest, None)
                log.info("blob %s deleted: no job names it", digest.hex()[:12])

    async def close(self) -> None:
        """Cancels what is under way."""
        for task in (*self._background, *self._fetching.values()):
            task.cancel()

    async def _copy(self, peer: Peer, digest: bytes) -> bool:
        stub = self._peers.blobs(peer)
        try:
            have = await stub.Have(pb.HaveRequest(digests=[digest]), timeout=_ASK_TIMEOUT_S)
            if digest not in have.digests:
                await stub.Put(self._chunks(digest), timeout=_COPY_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            log.info("blob %s not copied to %s: %s", digest.hex()[:12], peer.id, from_rpc(error))
            return False
        return True

    async def _chunks(self, digest: bytes) -> AsyncIterator[pb.BlobChunk]:
        total = self._store.size(digest)
        async for data in self._store.read(digest):
            yield pb.BlobChunk(digest=digest, data=data, total=total, replica=True)
        if not total:
            yield pb.BlobChunk(digest=digest, replica=True)

    async def _fetch(self, digest: bytes) -> None:
        began = time.monotonic()
        for peer in self._peers.others:
            try:
                await self._store.put(digest, self._from(peer, digest))
            except grpc.aio.AioRpcError as error:
                log.debug("blob %s not fetched from %s: %s", digest.hex()[:12], peer.id, error.code())
            else:
                log.info(
                    "blob %s fetched from %s in %.3f s", digest.hex()[:12], peer.id, time.monotonic() - began
                )
                return
        raise NotFound(
            f"no master that answers has blob {digest.hex()[:12]}",
            next="submit again: the client sends it first",
        )

    async def _from(self, peer: Peer, digest: bytes) -> AsyncIterator[bytes]:
        request = pb.GetBlobRequest(digest=digest, local_only=True)
        async for chunk in self._peers.blobs(peer).Get(request, timeout=_COPY_TIMEOUT_S):
            yield chunk.data
