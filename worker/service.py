"""What a worker serves: regions of its map outputs to reducers, its logs to masters, a sign of life to all.

gRPC on one side, files on the other; nothing is decided here. Names in a request become paths only by
`Layout`, from an `Attempt` that was checked. Stored bytes go out as they are: who reads them verifies them.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc.aio import ServicerContext

from mr import tls
from mr.rpc import data_pb2, data_pb2_grpc
from mr.rpc import job_pb2 as job
from mr.shuffle import segment
from worker.events import Attempt, OutputDamaged
from worker.metrics import SHUFFLE_BYTES
from worker.store import Layout

MESSAGE_BYTES = 256 << 10
INDEXES = 4096  # kept open in memory; of R entries each
FOLLOW_S = 0.2

Context = ServicerContext[Any, Any]
ProbeOther = Callable[[str], Awaitable[bool]]


class DataService(data_pb2_grpc.DataServicer):
    """The Data service of one worker. `probe` asks another worker on somebody's behalf."""

    def __init__(
        self,
        layout: Layout,
        worker: str,
        incarnation: str,
        probe: ProbeOther,
        damaged: Callable[[OutputDamaged], None],
    ) -> None:
        self._layout = layout
        self._worker = worker
        self._incarnation = incarnation
        self._probe = probe
        self._damaged = damaged
        self._indexes: OrderedDict[Path, segment.Index] = OrderedDict()

    async def FetchSegments(  # noqa: N802 - named by the protocol
        self, request: data_pb2.FetchRequest, context: Context
    ) -> AsyncIterator[data_pb2.FetchChunk]:
        """Regions of one partition, in the order asked; small ones share a message."""
        await _admit(context, "worker")
        pieces = self._pieces(request)
        while batch := await asyncio.to_thread(_fill, pieces):
            for chunk in batch:
                if chunk.HasField("failure"):
                    attempt = Attempt(request.job, request.step, job.MAP, chunk.map, chunk.attempt)
                    self._damaged(OutputDamaged(attempt, chunk.failure.message))
            SHUFFLE_BYTES.labels(dir="out").inc(sum(len(chunk.data) for chunk in batch))
            yield batch[0] if len(batch) == 1 else data_pb2.FetchChunk(batch=batch)

    async def Probe(  # noqa: N802 - named by the protocol
        self, request: data_pb2.ProbeRequest, context: Context
    ) -> data_pb2.ProbeReply:
        """A sign of life; or, for another, whether a third worker gives one."""
        await _admit(context, "worker", "master")
        reachable = await self._probe(request.target) if request.target else True
        return data_pb2.ProbeReply(reachable=reachable, worker=self._worker, incarnation=self._incarnation)

    async def ReadLog(  # noqa: N802 - named by the protocol
        self, request: data_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[data_pb2.LogChunk]:
        """What an attempt printed; with `follow` until the caller goes."""
        await _admit(context, "master")
        try:
            path = self._layout.log(Attempt.of(request.attempt))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        size = path.stat().st_size if path.exists() else 0
        offset = max(request.offset, size - request.tail_bytes if request.tail_bytes else 0)
        while True:
            data = await asyncio.to_thread(_read, path, offset)
            if data:
                yield data_pb2.LogChunk(data=data, offset=offset)
                offset += len(data)
            elif request.follow:
                await asyncio.sleep(FOLLOW_S)
            else:
                yield data_pb2.LogChunk(offset=offset, end=True)
                return

    def _pieces(self, request: data_pb2.FetchRequest) -> Iterator[data_pb2.FetchChunk]:
        for wanted in request.wanted:
            try:
                yield from self._region(request, wanted)
            except FileNotFoundError:
                yield _failed(wanted, job.OUTPUT_LOST, "the map output is not here")
            except (segment.Damaged, ValueError) as error:
                yield _failed(wanted, job.CORRUPT_DATA, str(error))
            except OSError as error:
                yield _failed(wanted, job.DISK_ERROR, str(error))

    def _region(
        self, request: data_pb2.FetchRequest, wanted: data_pb2.SegmentWanted
    ) -> Iterator[data_pb2.FetchChunk]:
        name = job.AttemptId(
            task=job.TaskId(job=request.job, step=request.step, kind=job.MAP, index=wanted.map),
            number=wanted.attempt,
        )
        path = self._layout.segment(Attempt.of(name))
        index = self._index(path)
        length, offset = _length(index, request.partition), wanted.offset
        for data in segment.read_region(path, index, request.partition, offset, MESSAGE_BYTES):
            chunk = data_pb2.FetchChunk(
                map=wanted.map, attempt=wanted.attempt, offset=offset, data=data, region_bytes=length
            )
            offset += len(data)
            chunk.last = offset == length
            yield chunk

    def _index(self, path: Path) -> segment.Index:
        index = self._indexes.get(path)
        if index is None or not path.exists():
            index = self._indexes[path] = segment.open_index(path)
        self._indexes.move_to_end(path)
        if len(self._indexes) > INDEXES:
            self._indexes.popitem(last=False)
        if path.stat().st_size != index.size:
            raise segment.Damaged(path, None, 0, "the file is not as long as its index says")
        return index


def _length(index: segment.Index, partition: int) -> int:
    if partition >= index.reduces:
        raise ValueError(f"partition {partition} of {index.reduces}")
    return index.lengths[partition]


def _fill(pieces: Iterator[data_pb2.FetchChunk]) -> list[data_pb2.FetchChunk]:
    """The next pieces, together about one message; empty at the end."""
    batch, size = [], 0
    for chunk in pieces:
        batch.append(chunk)
        size += len(chunk.data) + 64
        if size >= MESSAGE_BYTES:
            break
    return batch


def _failed(wanted: data_pb2.SegmentWanted, cause: job.Cause.ValueType, message: str) -> data_pb2.FetchChunk:
    failure = job.Failure(cause=cause, message=message)
    return data_pb2.FetchChunk(map=wanted.map, attempt=wanted.attempt, failure=failure, last=True)


def _read(path: Path, offset: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.pread(fd, MESSAGE_BYTES, offset)
    finally:
        os.close(fd)


async def _admit(context: Context, *roles: str) -> None:
    """Only holders of a certificate with one of these roles; in plaintext everybody, which is loopback.

    A server with TLS lets nobody in without a certificate, so that no certificate means plaintext.
    """
    auth = context.auth_context()
    if not auth.get("x509_pem_cert"):
        return
    peer = tls.peer_role(auth)
    if peer is None or peer[0] not in roles:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"only for a {' or '.join(roles)}")
