"""A job's code on this worker: fetched by its digest from any master that answers, verified, unpacked once.

Nothing here is imported or run: a task process does that. What this worker lacks for a job (the Python, the
staging place) is found out here, before the first task, and has a cause of its own.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import tenacity

from mr import bundle
from mr.rpc import cluster_pb2, cluster_pb2_grpc
from mr.rpc import job_pb2 as job
from worker.aside import aside
from worker.channels import Channels

ROUNDS = 4  # over all masters, before an attempt is given back as CODE_UNAVAILABLE
SILENCE_S = 10.0
NONCE_S = 20.0  # a dead NFS server answers never


class Unprepared(Exception):
    """This worker cannot run tasks of the job; `failure` says why."""

    def __init__(self, cause: job.Cause.ValueType, message: str) -> None:
        super().__init__(message)
        self.failure = job.Failure(cause=cause, message=message)


class CodeStore:
    """The unpacked bundles of this worker."""

    def __init__(self, root: Path, channels: Channels, masters: Callable[[], Sequence[str]]) -> None:
        self._root = root
        self._channels = channels
        self._masters = masters
        self._coming: dict[bytes, asyncio.Task[Path]] = {}

    async def prepare(self, spec: job.JobSpec, *, check_nonce: bool) -> Path:
        """The folder of the job's code; all that tasks of it need is there. Raises Unprepared."""
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if spec.python and spec.python != here:
            raise Unprepared(
                job.PYTHON_MISMATCH, f"the job was made with Python {spec.python}, this is {here}"
            )
        if check_nonce and spec.nonce:
            await self._check_nonce(spec)
        return await self.get(spec.code_digest)

    async def get(self, digest: bytes) -> Path:
        """The unpacked bundle; several who ask at once wait for one download. Raises Unprepared."""
        coming = self._coming.get(digest)
        if coming is None:
            coming = self._coming[digest] = asyncio.create_task(self._bring(digest))
            coming.add_done_callback(lambda _: self._coming.pop(digest, None))
        return await asyncio.shield(coming)

    async def _bring(self, digest: bytes) -> Path:
        target = self._root / digest.hex()
        if target.is_dir():
            return target
        try:
            data = await self._download(digest)
            return await asyncio.to_thread(bundle.unpack, data, digest, self._root)
        except (grpc.RpcError, TimeoutError, bundle.BundleError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            raise Unprepared(
                job.CODE_UNAVAILABLE, f"no master could serve the code {digest.hex()[:12]}: {reason}"
            ) from error
        except OSError as error:
            raise Unprepared(job.DISK_ERROR, f"cannot unpack the code: {error}") from error

    async def _download(self, digest: bytes) -> bytes:
        """From whichever master has it; each try asks another one. Raises what the last one said."""
        masters = list(self._masters())
        random.shuffle(masters)
        tries = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ROUNDS * len(masters)),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=2.0),
            retry=tenacity.retry_if_exception_type((grpc.RpcError, TimeoutError, bundle.BundleError)),
            reraise=True,
        )
        async for attempt in tries:
            with attempt:
                return await self._ask(masters[attempt.retry_state.attempt_number % len(masters)], digest)
        raise AssertionError("tenacity raises before this")

    async def _ask(self, address: str, digest: bytes) -> bytes:
        channel = self._channels.get("master", address)
        call = cluster_pb2_grpc.BlobsStub(channel).Get(cluster_pb2.GetBlobRequest(digest=digest))
        data = bytearray()
        try:
            while True:
                chunk = await asyncio.wait_for(call.read(), SILENCE_S)
                if not isinstance(chunk, cluster_pb2.BlobChunk):
                    return bytes(data)
                data += chunk.data
                if len(data) > bundle.MAX_BYTES * 2:
                    raise bundle.BundleError("the code bundle is larger than any that is built")
        finally:
            call.cancel()

    async def _check_nonce(self, spec: job.JobSpec) -> None:
        """This worker sees the same place as the client did (PATH_NOT_SHARED). Raises Unprepared."""
        path = Path(spec.staging) / "nonce"
        try:
            seen = await aside(NONCE_S, path.read_text)
        except TimeoutError:
            raise Unprepared(job.PATH_NOT_SHARED, f"{spec.staging} does not answer on this worker") from None
        except OSError as error:
            raise Unprepared(
                job.PATH_NOT_SHARED, f"this worker does not see {spec.staging}: {error.strerror}"
            ) from None
        if seen.strip() != spec.nonce:
            raise Unprepared(
                job.PATH_NOT_SHARED,
                f"{spec.staging} on this worker is not the place that the client prepared",
            )
