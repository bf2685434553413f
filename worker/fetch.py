"""Gets regions of map outputs for a reduce: many a call, verified block by block as they arrive, resumed.

The law: what is handed on passed its checksums, which name the map attempt and the partition: a byte altered
on a disk or on the wire, or an older attempt's file, never reaches a reducer (D7, FD2, FD3). A stream that
breaks goes on where its last whole block ended. Tries without progress are few: then the leader hears of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import grpc
import tenacity

from mr.rpc import data_pb2, data_pb2_grpc
from mr.rpc import job_pb2 as job
from mr.rpc import task_pb2 as task
from mr.shuffle import segment
from worker.channels import Channels
from worker.events import Attempt, Fetch, FetchEnded, RegionFailure
from worker.metrics import DAMAGE, FETCH_FAILURES, SHUFFLE_BYTES
from worker.store import Layout

CALLS_AT_ONCE = 8
FRUITLESS_TRIES = 3
SILENCE_S = 40.0  # a message of 256 KiB takes 32 s at 64 kbit/s


class Basket:
    """What one call brings, verified and in one file. Runs in a thread; raises Damaged and OSError."""

    def __init__(self, order: Fetch, path: Path) -> None:
        self._reduce = order.reduce
        self._path = path
        self._todo = deque(order.wanted)
        self._file: BinaryIO | None = None
        self._start = 0  # of the region in hand, in the file
        self._checker: segment.Checker | None = None
        self._fed = 0
        self._damaged: set[tuple[int, int]] = set()
        self.fetched: list[task.Run] = []
        self.failed: list[RegionFailure] = []
        self.size = 0

    def request(self) -> data_pb2.FetchRequest | None:
        """What is still wanted, from where it broke off; None: nothing."""
        if not self._todo:
            return None
        r = self._reduce
        wanted = [data_pb2.SegmentWanted(map=m, attempt=a) for m, a in self._todo]
        wanted[0].offset = self._checker.verified if self._checker is not None else 0
        return data_pb2.FetchRequest(job=r.job, step=r.step, partition=r.index, wanted=wanted)

    def take(self, chunks: Sequence[data_pb2.FetchChunk]) -> None:
        """Takes what arrived, in the order asked."""
        for chunk in chunks:
            if not self._todo or (chunk.map, chunk.attempt) != self._todo[0]:
                raise segment.Damaged(
                    self._path, self._reduce.index, self._fed, "an answer to another question"
                )
            if chunk.HasField("failure"):
                self._give_up(chunk.failure.cause, chunk.failure.message)
            else:
                self._append(chunk)

    def rewind(self, damage: segment.Damaged | None = None) -> None:
        """After a break: drops what came behind the last good block. Damaged twice, a region is given up."""
        if self._checker is not None and self._file is not None:
            self._checker.resume()
            self._fed = self._checker.verified
            self.size = self._start + self._fed
            self._file.seek(self.size)
            self._file.truncate()
        if damage is not None and self._todo:
            if self._todo[0] in self._damaged:
                self._give_up(job.CORRUPT_DATA, str(damage))
            else:
                self._damaged.add(self._todo[0])

    def abandon(self, cause: job.Cause.ValueType, message: str) -> None:
        """Nothing more comes: what is wanted still has failed."""
        while self._todo:
            self._give_up(cause, message)

    def close(self) -> None:
        """The file is complete. It is scratch: not fsynced."""
        if self._file is not None:
            self._file.close()

    def _append(self, chunk: data_pb2.FetchChunk) -> None:
        if self._file is None:
            self._file = self._path.open("wb", buffering=1 << 20)
        if self._checker is None:
            m, a = self._todo[0]
            owner = segment.owner(self._reduce.job, self._reduce.step, m, a)
            self._checker = segment.Checker(owner, self._reduce.index, chunk.region_bytes)
            self._start, self._fed = self.size, 0
        if chunk.offset != self._fed:
            raise segment.Damaged(self._path, self._reduce.index, self._fed, "a piece is missing")
        self._checker.feed(chunk.data)
        self._file.write(chunk.data)
        self._fed += len(chunk.data)
        self.size += len(chunk.data)
        if chunk.last:
            self._checker.finish()
            m, a = self._todo.popleft()
            run = task.Run(map=m, attempt=a, path=str(self._path), offset=self._start, length=self._fed)
            self.fetched.append(run)
            self._checker = None

    def _give_up(self, cause: job.Cause.ValueType, message: str) -> None:
        m, a = self._todo.popleft()
        self.failed.append(RegionFailure(m, a, cause, message))
        if self._checker is not None and self._file is not None:
            self._file.seek(self._start)
            self._file.truncate()
            self.size = self._start
        self._checker = None


class Fetcher:
    """Carries out `Fetch` orders of one worker, a bounded number at once."""

    def __init__(self, worker: str, layout: Layout, channels: Channels) -> None:
        self._worker = worker
        self._layout = layout
        self._channels = channels
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE)
        self._calls = 0

    async def fetch(self, order: Fetch, folder: Path) -> FetchEnded:
        """Brings the regions into a file in `folder`. Raises OSError when this disk fails."""
        if order.worker == self._worker:
            return await asyncio.to_thread(self._own, order)
        self._calls += 1
        basket = Basket(order, folder / f"fetched.{self._calls}")
        async with self._slots:
            try:
                await self._bring(order.address, basket)
            except (grpc.RpcError, TimeoutError) as error:
                basket.abandon(job.FETCH_FAILED, _reason(error))
            except segment.Damaged as error:
                basket.abandon(job.CORRUPT_DATA, str(error))
            finally:
                await asyncio.to_thread(basket.close)
        SHUFFLE_BYTES.labels(dir="in").inc(basket.size)
        for failure in basket.failed:
            FETCH_FAILURES.labels(cause=job.Cause.Name(failure.cause)).inc()
        return FetchEnded(order.reduce, order.worker, basket.fetched, basket.failed)

    async def _bring(self, address: str, basket: Basket) -> None:
        """Calls until nothing is wanted. Raises what the last of several fruitless tries met."""
        fruitless, before = 0, -1

        def exhausted(_: tenacity.RetryCallState) -> bool:
            nonlocal fruitless, before
            now = basket.size + len(basket.fetched) + len(basket.failed)
            fruitless, before = (0 if now > before else fruitless + 1), now
            return fruitless >= FRUITLESS_TRIES

        tries = tenacity.AsyncRetrying(
            stop=exhausted,
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            retry=tenacity.retry_if_exception_type((grpc.RpcError, TimeoutError, segment.Damaged)),
            reraise=True,
        )
        async for attempt in tries:
            with attempt:
                while request := basket.request():
                    await self._call(address, request, basket)

    async def _call(self, address: str, request: data_pb2.FetchRequest, basket: Basket) -> None:
        channel = self._channels.get("worker", address)
        call = data_pb2_grpc.DataStub(channel).FetchSegments(request)
        try:
            while True:
                message = await asyncio.wait_for(call.read(), SILENCE_S)
                if not isinstance(message, data_pb2.FetchChunk):
                    break
                await asyncio.to_thread(basket.take, message.batch or [message])
        except segment.Damaged as damage:
            DAMAGE.inc()
            await asyncio.to_thread(basket.rewind, damage)
            raise
        except (grpc.RpcError, TimeoutError):
            await asyncio.to_thread(basket.rewind)
            raise
        finally:
            call.cancel()

    def _own(self, order: Fetch) -> FetchEnded:
        """Regions of this worker's own outputs: read where they stand, verified by the merge."""
        fetched, failed = [], []
        r = order.reduce
        for m, a in order.wanted:
            path = self._layout.segment(Attempt(r.job, r.step, job.MAP, m, a))
            try:
                index = segment.open_index(path)
                if path.stat().st_size != index.size or r.index >= index.reduces:
                    raise segment.Damaged(path, r.index, 0, "the file is not what its index says")
            except FileNotFoundError:
                failed.append(RegionFailure(m, a, job.OUTPUT_LOST, f"{path} is gone"))
            except (OSError, segment.Damaged) as error:
                failed.append(RegionFailure(m, a, job.CORRUPT_DATA, str(error)))
            else:
                offset, length = index.offsets[r.index], index.lengths[r.index]
                fetched.append(task.Run(map=m, attempt=a, path=str(path), offset=offset, length=length))
        return FetchEnded(r, order.worker, fetched, failed)


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"no data for {SILENCE_S:g} s" if isinstance(error, TimeoutError) else str(error)
