"""A snapshot as a file that people keep: a zip with the table, the blobs its jobs name, and a manifest.

Any zip tool lists it. `manifest.json` says where and when it was taken and has the SHA-256 of the table; a
blob is named by its own. Everything is checked before anything is believed.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from master.task_table import TaskTable
from mr.errors import Usage
from mr.rpc import table_pb2 as pb

FORMAT = 1
_MANIFEST, _TABLE, _BLOBS = "manifest.json", "table.bin", "blobs/"
_LIMIT = 4 << 30  # bytes of an unpacked table: what claims more is no snapshot of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an archive holds."""

    format: int
    version: str  # of the product
    cluster_id: str
    index: int  # log index that the table stands at
    term: int
    taken_ms: int
    table_sha256: str
    table_bytes: int
    jobs: Mapping[str, int]  # state to count
    blobs: Mapping[str, int]  # digest to bytes


def write(
    path: Path,
    table: bytes,
    blobs: Iterable[tuple[bytes, bytes]],
    *,
    version: str,
    cluster_id: str,
    index: int,
    term: int,
    taken_ms: int,
) -> Manifest:
    """Writes an archive; `blobs` are (digest, content) and are taken one at a time."""
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(_TABLE, table)
        for digest, content in blobs:
            archive.writestr(_BLOBS + digest.hex(), content)
            sizes[digest.hex()] = len(content)
        manifest = Manifest(
            format=FORMAT,
            version=version,
            cluster_id=cluster_id,
            index=index,
            term=term,
            taken_ms=taken_ms,
            table_sha256=hashlib.sha256(table).hexdigest(),
            table_bytes=len(table),
            jobs=_count(load(table)),
            blobs=sizes,
        )
        archive.writestr(_MANIFEST, json.dumps(asdict(manifest), indent=1))
    return manifest


class Archive:
    """An archive open for reading. Raises Usage for what is none, or is damaged."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
            known = json.loads(self._zip.read(_MANIFEST))
            self.manifest = Manifest(**{name: known[name] for name in Manifest.__dataclass_fields__})
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
            raise Usage(f"{path} is no snapshot of mapraft: {error}") from error
        if self.manifest.format != FORMAT:
            raise Usage(f"{path} has format {self.manifest.format}; this release reads {FORMAT}")

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()

    def table(self) -> bytes:
        """The saved table, checked against the manifest."""
        data = self._read(_TABLE, _LIMIT)
        if hashlib.sha256(data).hexdigest() != self.manifest.table_sha256:
            raise Usage("the table in the snapshot is damaged: another SHA-256")
        return data

    def blob(self, digest: str) -> bytes:
        """A blob, checked against its name."""
        data = self._read(_BLOBS + digest, self.manifest.blobs[digest])
        if hashlib.sha256(data).hexdigest() != digest:
            raise Usage(f"the blob {digest[:12]} in the snapshot is damaged: another SHA-256")
        return data

    def _read(self, name: str, limit: int) -> bytes:
        try:
            if self._zip.getinfo(name).file_size > limit:
                raise Usage(f"{name} in the snapshot is larger than it can be")
            return self._zip.read(name)
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise Usage(f"{name} in the snapshot is damaged: {error}") from error


def load(data: bytes) -> TaskTable:
    """The table out of its bytes. Raises Usage."""
    table = TaskTable()
    try:
        table.restore(data)
    except Exception as error:  # whatever a damaged file makes of the decoder
        raise Usage(f"not a table that this release reads: {error}") from error
    return table


def named_blobs(table: TaskTable) -> set[bytes]:
    """Code bundles and split plans that jobs of the table name."""
    return {d for job in table.jobs.values() for d in (job.spec.code_digest, job.spec.splits_digest) if d}


def _count(table: TaskTable) -> dict[str, int]:
    tally = Counter(job.state for job in table.jobs.values())
    return {pb.JobState.Name(state): count for state, count in sorted(tally.items())}  # type: ignore[arg-type]  # a state of ours
