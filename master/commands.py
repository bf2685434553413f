"""`mr master …` and `mr snapshot …`: found by `mr` through entry points, so that `mr` imports nothing of ours."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mr import units
from mr.commands import flags
from mr.commands.flags import Session
from mr.errors import Unavailable, Usage

if TYPE_CHECKING:
    from mr.client import Client

_CHUNK = 1 << 20
_CALL_S = 15.0
_SAVE_S = 300.0
_PATH = click.Path(path_type=Path)


@click.group()
def master() -> None:
    """Look after the masters."""


@master.command()
@click.argument("to", required=False)
@flags.common
def transfer(session: Session, to: str | None) -> int:
    """Hands leadership to the master TO, or to the most advanced one. Running jobs do not notice."""
    from mr.rpc.cluster_pb2 import TransferRequest

    with session.connect() as client:
        reply = client.calls.call(
            "Transfer", TransferRequest(to=to or ""), timeout=session.timeout or _CALL_S
        )
    leader = next((row for row in reply.masters if row.role == "leader"), None)
    print(f"{leader.id} leads term {leader.term}" if leader else reply.note)
    return 0


@click.group()
def snapshot() -> None:
    """Save the state of a cluster to a file, look into one, restore it into a fresh cluster."""


@snapshot.command()
@click.argument("file", type=_PATH)
@flags.common
def save(session: Session, file: Path) -> int:
    """Writes jobs, tasks, workers and the code of jobs to FILE, a zip, as they stand now."""
    if file.exists():
        raise Usage(f"{file} exists", next="choose another name")
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with session.connect() as client:
            digest = client.calls.repeat(
                lambda _: _download(client, aside), timeout=session.timeout or _SAVE_S
            )
        aside.rename(file)
    finally:
        aside.unlink(missing_ok=True)
    session.note(f"saved {file}  {units.size(file.stat().st_size)}  sha256 {digest[:12]}")
    return 0


@snapshot.command()
@click.argument("file", type=_PATH)
@flags.common
def restore(session: Session, file: Path) -> int:
    """Brings FILE into a running cluster that has never had a job. Running jobs go on there."""
    from master.archive import Archive

    Archive(file).close()  # what is no snapshot is said here, not by the cluster
    with session.connect() as client:
        reply = client.calls.upload("RestoreSnapshot", lambda: _chunks(file), size=file.stat().st_size)
    session.note(
        f"restored {units.plural(reply.jobs, 'job')} and {units.plural(reply.blobs, 'blob')} at index {reply.index}"
    )
    return 0


@snapshot.command()
@click.argument("file", type=_PATH)
@flags.formatted
@flags.common
def inspect(session: Session, file: Path) -> int:
    """Says what FILE holds, after checking all of it."""
    from master.archive import Archive, load

    archive = Archive(file)
    try:
        table = load(archive.table())
        for digest in archive.manifest.blobs:
            archive.blob(digest)
    finally:
        archive.close()
    manifest = archive.manifest
    if session.machine:
        print(json.dumps({**asdict(manifest), "ids": sorted(table.jobs)}))
        return 0
    taken = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.taken_ms / 1000))
    print(f"cluster {manifest.cluster_id}  index {manifest.index}  term {manifest.term}")
    print(f"taken {taken}  by version {manifest.version}")
    print(f"table {units.size(manifest.table_bytes)}  sha256 {manifest.table_sha256[:12]}  checked")
    print(
        f"jobs {sum(manifest.jobs.values())}: "
        + (", ".join(f"{n} {s}" for s, n in manifest.jobs.items()) or "none")
    )
    print(f"blobs {len(manifest.blobs)}  {units.size(sum(manifest.blobs.values()))}  checked")
    print(f"workers {len(table.workers)}: " + (", ".join(sorted(table.workers)) or "none"))
    return 0


def _download(client: Client, path: Path) -> str:
    """One try; returns the archive's SHA-256, hex."""
    from mr.rpc.cluster_pb2 import SaveSnapshotRequest

    sha, said = hashlib.sha256(), b""
    with path.open("wb") as out:
        for chunk in client.calls.stream("SaveSnapshot", SaveSnapshotRequest(), timeout=_SAVE_S):
            sha.update(chunk.data)
            out.write(chunk.data)
            said = chunk.digest or said
        out.flush()
        os.fsync(out.fileno())
    if said != sha.digest():
        raise Unavailable("the snapshot did not arrive whole")
    return sha.hexdigest()


def _chunks(path: Path) -> Iterator[object]:
    from mr.rpc.cluster_pb2 import BlobChunk

    sha = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            sha.update(data)
            yield BlobChunk(data=data)
    yield BlobChunk(digest=sha.digest())
