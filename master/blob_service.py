"""The Blobs service: content-addressed bytes in and out of a master."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc.aio import ServicerContext

from master.access import identify
from master.blobs import BlobStore
from master.copies import Copies
from mr.errors import NotAllowed, Usage
from mr.rpc import cluster_pb2 as pb
from mr.rpc import cluster_pb2_grpc as rpc


class BlobService(rpc.BlobsServicer):
    """`check_leading` raises NotLeader (with whom to ask) on a follower."""

    def __init__(self, store: BlobStore, copies: Copies, check_leading: Callable[[], None]) -> None:
        self._store = store
        self._copies = copies
        self._check_leading = check_leading

    async def Put(
        self, request: AsyncIterator[pb.BlobChunk], context: ServicerContext[Any, Any]
    ) -> pb.PutReply:
        """Keeps a blob; from a client only on the leader, and answered when a majority has it."""
        first = await anext(aiter(request), None)
        if first is None:
            raise Usage("an empty stream is no blob")
        if not first.replica:
            self._check_leading()
        elif "master" not in identify(context).roles:
            raise NotAllowed("only a master stores copies: send the blob to the leader")
        if not await self._store.touch(first.digest):
            await self._store.put(first.digest, _data(first, request))
        copies = 1 if first.replica else await self._copies.ensure(first.digest)
        return pb.PutReply(digest=first.digest, copies=copies)

    async def Get(
        self, request: pb.GetBlobRequest, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.BlobChunk]:
        """The blob from an offset; fetched from another master first if it is not here."""
        if not request.local_only:
            await self._copies.have(request.digest)
        total = self._store.size(request.digest)
        empty = True
        async for data in self._store.read(request.digest, request.offset):
            empty = False
            yield pb.BlobChunk(digest=request.digest, data=data, total=total)
        if empty:
            yield pb.BlobChunk(digest=request.digest, total=total)

    async def Have(self, request: pb.HaveRequest, context: ServicerContext[Any, Any]) -> pb.HaveReply:
        """Which of these are here."""
        return pb.HaveReply(digests=[digest for digest in request.digests if self._store.has(digest)])


async def _data(first: pb.BlobChunk, rest: AsyncIterator[pb.BlobChunk]) -> AsyncIterator[bytes]:
    yield first.data
    async for chunk in rest:
        yield chunk.data
