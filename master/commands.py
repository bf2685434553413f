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


@master.command()
@click.option(
    "--from-data-dir", "source", type=_PATH, required=True, help="Of a stopped master that survived."
)
@click.option(
    "--data-dir", "target", type=_PATH, required=True, help="To make: of a master of the new cluster."
)
@click.option("--id", "own_id", required=True, help="Which of the peers the new directory is for.")
@click.option("--peers", required=True, help="Every master of the new cluster, as mr-master takes it.")
@flags.apart
def recover(_: Session, source: Path, target: Path, own_id: str, peers: str) -> int:
    """Makes a new cluster of what one master still has, after a majority was lost for good.

    Gives up what the lost ones alone had, and says so. Also the way to change the set of masters: stop all,
    and run this once for each new one, always from the same directory.
    """
    from consensus.recovery import recover as make
    from consensus.replica import RefusedToStart
    from master.config import parse_peers

    try:
        members = tuple(peer.id for peer in parse_peers(peers))
        print(make(_raft_dir(source), target / "raft", own_id, members))
    except RefusedToStart as error:
        raise Usage(str(error)) from error
    return 0


@master.command()
@click.argument("data_dir", type=_PATH)
@click.option(
    "--every", type=click.IntRange(1), default=1000, help="Hash the state at every so many entries."
)
@flags.apart
def dump(_: Session, data_dir: Path, every: int) -> int:
    """Prints log, vote and state hashes of a stopped master, one JSON object a line."""
    from consensus import dump as evidence
    from consensus.replica import RefusedToStart
    from master.machine import Machine
    from master.task_table import TaskTable

    try:
        for record in evidence.dump(_raft_dir(data_dir), Machine(TaskTable()), every=every):
            print(json.dumps(record))
    except RefusedToStart as error:
        raise Usage(str(error)) from error
    return 0


def _raft_dir(data_dir: Path) -> Path:
    """Where consensus lives in a master's data directory; that itself is understood too."""
    return data_dir / "raft" if (data_dir / "raft").is_dir() else data_dir


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
