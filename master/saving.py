"""Saving the state of a cluster to an archive and bringing it back into a fresh one (S4-22)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from consensus.replica import Replica
from master import archive
from master.blobs import CHUNK, BlobStore
from master.copies import Copies
from master.driver import Driver
from master.events import Refused, TableRestored
from master.machine import AppliedEntry, Machine
from mr.errors import Rejected, Usage
from mr.rpc import cluster_pb2 as pb
from mr.rpc import table_pb2

_PART_BYTES = 512 << 10  # of a table, in one log entry
_SAVE_S = 60.0


class Saving:
    """SaveSnapshot and RestoreSnapshot of one master. Archives pass through `folder`, never through
    memory.
    """

    def __init__(
        self,
        replica: Replica,
        machine: Machine,
        driver: Driver,
        store: BlobStore,
        copies: Copies,
        folder: Path,
        version: str,
    ) -> None:
        self._replica = replica
        self._machine = machine
        self._driver = driver
        self._store = store
        self._copies = copies
        self._folder = folder
        self._version = version

    async def save(self) -> AsyncIterator[pb.BlobChunk]:
        """The archive, in chunks; the last one has its digest."""
        point, data = await self._replica.snapshot_bytes()
        table = table_pb2.MasterSnapshot.FromString(data).table
        for digest in await asyncio.to_thread(lambda: archive.named_blobs(archive.load(table))):
            await self._copies.have(digest)
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            path = Path(scratch) / "snapshot.zip"
            await asyncio.to_thread(self._write, path, table, point.index, point.term)
            async for chunk in _chunks(path):
                yield chunk

    async def restore(self, chunks: AsyncIterator[pb.BlobChunk]) -> pb.RestoreReply:
        """Blobs to a majority first, then the table through the log. Raises Usage, Rejected."""
        if self._machine.table.jobs_seen:
            raise Rejected(
                "this cluster has had jobs: a snapshot is restored into a fresh one only", code="RESTORE"
            )
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            path = Path(scratch) / "snapshot.zip"
            await _receive(path, chunks)
            saved = await asyncio.to_thread(archive.Archive, path)
            try:
                table = await asyncio.to_thread(saved.table)
                await asyncio.to_thread(archive.load, table)
                for digest in saved.manifest.blobs:
                    await self._store.put_bytes(await asyncio.to_thread(saved.blob, digest))
                    await self._copies.ensure(bytes.fromhex(digest))
            finally:
                saved.close()
        applied = await self._propose_table(table)
        return pb.RestoreReply(
            index=applied.index, jobs=len(self._machine.table.jobs), blobs=len(saved.manifest.blobs)
        )

    async def _propose_table(self, table: bytes) -> AppliedEntry:
        digest = hashlib.sha256(table).digest()
        pieces = [table[at : at + _PART_BYTES] for at in range(0, len(table), _PART_BYTES)] or [b""]
        applied: AppliedEntry | None = None
        for number, piece in enumerate(pieces):
            entry = self._driver.entry(())
            entry.restore.CopyFrom(
                table_pb2.RestorePart(number=number, parts=len(pieces), data=piece, digest=digest)
            )
            applied = await self._replica.propose(entry.SerializeToString(), timeout_s=_SAVE_S)
            event = applied.results[-1][0]
            if isinstance(event, Refused):
                raise Rejected(event.reason, code=event.code)
            assert isinstance(event, TableRestored)
        assert applied is not None
        return applied

    def _write(self, path: Path, table: bytes, index: int, term: int) -> None:
        def blobs() -> Iterator[tuple[bytes, bytes]]:
            for digest in sorted(archive.named_blobs(archive.load(table))):
                yield digest, self._store.path(digest).read_bytes()

        archive.write(
            path,
            table,
            blobs(),
            version=self._version,
            cluster_id=self._replica.status().cluster_id,
            index=index,
            term=term,
            taken_ms=time.time_ns() // 1_000_000,
        )


async def _receive(path: Path, chunks: AsyncIterator[pb.BlobChunk]) -> None:
    sha, said = hashlib.sha256(), b""
    with path.open("wb") as file:
        async for chunk in chunks:
            sha.update(chunk.data)
            said = chunk.digest or said
            await asyncio.to_thread(file.write, chunk.data)
    if said != sha.digest():
        raise Usage("the snapshot did not arrive whole")


async def _chunks(path: Path) -> AsyncIterator[pb.BlobChunk]:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        while data := await asyncio.to_thread(file.read, CHUNK):
            sha.update(data)
            yield pb.BlobChunk(data=data, total=total)
    yield pb.BlobChunk(digest=sha.digest(), total=total)
