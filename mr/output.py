"""A job's output appears all at once or not at all (D4), and exists if and only if the job succeeded (D5).

    .OUT.mr-JOB/nonce             proves that a worker sees the same place as the submitter
    .OUT.mr-JOB/attempts/NAME     what attempts write, each under a name of its own, fsynced before it is reported
    .OUT.mr-JOB/final/            the winners under their published names, then the manifest `_SUCCESS`
    OUT                           `final`, renamed

The staging place stands beside OUT, hence on the same file system: publication is one rename. `publish` may
be cut short at any point and repeated by anyone, even by two at once: every step looks at what is there. What
OUT held before is refused (D12), unless the job overwrites. Then whoever publishes first takes the staging place, by
renaming it to a name that nobody else knows:

    .OUT.mr-JOB~taken-RANDOM/     the same place, of one publisher; the next one takes it from there

and what is ready there and OUT change names in one step. Where a file system has no such step (NFS), OUT is moved
into the taken place and what is ready to OUT, and for a moment between two renames there is no OUT at all. Either way
a publisher from whom the place was taken has no path left to rename from or to: however late it wakes, it can't move
aside what another one, or the next job, has published since.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mr.causes import Cause
from mr.errors import TaskFailure
from mr.exchange import exchange
from mr.formats import output_format

if TYPE_CHECKING:
    from mr.rpc.job_pb2 import JobSpec, Output, OutputFile

MANIFEST = "_SUCCESS"
_NONCE, _ATTEMPTS, _FINAL, _READY = "nonce", "attempts", "final", "ready"
_TAKEN = "~taken-"  # no job id holds a tilde
_WRITE_BYTES = 256 << 10
_REMOVE_TRIES = 20


class OutputError(TaskFailure):
    """An output that exists, can't be written, or lies where this host does not see it."""


# --- staging ---


def prepare_staging(spec: JobSpec, *, nonce: str = "") -> None:
    """Check the output and make the staging place; fills `spec.output.path`, `spec.staging` and `spec.nonce`.

    `nonce` is given for another try of a job, whose spec names it already.
    Repeated for the same job id it finds what it made. Raises OutputError: OUTPUT_EXISTS for anything but an
    absent or empty directory (or any directory, when the job overwrites), OUTPUT_UNWRITABLE.
    """
    out = Path(os.path.realpath(spec.output.path))
    if out == out.parent:
        raise OutputError(Cause.OUTPUT_UNWRITABLE, f"{out} can't be an output directory")
    _check_free(out, overwrite=spec.output.overwrite)
    if os.path.ismount(out):
        raise OutputError(
            Cause.OUTPUT_UNWRITABLE,
            f"output {out} is a mount point, and can't be replaced in one step: name a directory below it",
        )
    staging = out.parent / f".{out.name}.mr-{spec.job_id}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        nonce = _stage(staging, nonce or secrets.token_hex(16))
        _sync_directory(out.parent)
    except OSError as error:
        raise OutputError(Cause.OUTPUT_UNWRITABLE, f"can't write beside {out}: {error.strerror}") from error
    spec.output.path, spec.staging, spec.nonce = str(out), str(staging), nonce


def _stage(staging: Path, wanted: str) -> str:
    """The nonce of the staging place, which is made whole beside it and renamed: of two at once, one wins."""
    while True:
        try:
            return (staging / _NONCE).read_text("ascii")
        except FileNotFoundError:
            pass
        aside = staging.with_name(f"{staging.name}~{secrets.token_hex(4)}")
        try:
            (aside / _ATTEMPTS).mkdir(parents=True)
            _write_synced(aside / _NONCE, wanted.encode())
            _sync_directory(aside)
            os.rename(aside, staging)  # fails when the place is there: a directory that is not empty
            return wanted
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            if staging.exists() and not (staging / _NONCE).exists():
                raise OutputError(
                    Cause.OUTPUT_UNWRITABLE, f"{staging} is left of another job and half removed: remove it"
                ) from None


def _check_free(out: Path, *, overwrite: bool) -> None:
    try:
        taken = any(os.scandir(out))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise OutputError(Cause.OUTPUT_EXISTS, f"output {out} is not a directory") from None
    except OSError as error:
        raise OutputError(
            Cause.OUTPUT_UNWRITABLE, f"can't look into output {out}: {error.strerror}"
        ) from None
    if taken and not overwrite:
        raise OutputError(Cause.OUTPUT_EXISTS, f"output {out} is not empty")


def check_nonce(spec: JobSpec) -> None:
    """Whether this host sees the job's staging place. Raises OutputError PATH_NOT_SHARED."""
    path = Path(spec.staging, _NONCE)
    try:
        seen = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(
            Cause.PATH_NOT_SHARED, f"this host does not see the output's place {spec.staging}: {error}"
        ) from None
    if seen != spec.nonce:
        raise OutputError(Cause.PATH_NOT_SHARED, f"{spec.staging} is another directory on this host")


def cleanup(spec: JobSpec) -> None:
    """Remove the staging place of a job that ended without an output, or one that no job will use. A place that
    somebody has taken to publish it stays. Raises OSError if something can't be removed."""
    if spec.staging:
        _remove_tree(Path(spec.staging))


def _remove_tree(path: Path) -> None:
    tries = 0
    while path.exists():
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue  # another one removes it at the same time
        except OSError as error:
            # Another one, who comes too late, makes a folder in it; or, on NFS, still has a file of it open.
            tries += 1
            if error.errno != errno.ENOTEMPTY or tries == _REMOVE_TRIES:
                raise
            time.sleep(0.05)


# --- what an attempt writes ---


@contextmanager
def _room(path: Path) -> Iterator[None]:
    """What is written inside lies where the job publishes: that this is full is not the fault of the worker."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise OutputError(Cause.OUTPUT_FULL, f"{error.strerror} for {path}") from error


class PartWriter:
    """Writes one attempt's output file under its own name; `close` makes it durable. See `part_writer`."""

    def __init__(self, output: Output, path: Path) -> None:
        self.records = 0
        self._path = path
        self._digest = hashlib.sha256()
        self._size = 0
        with _room(path):
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115  closed by close or abort
        self._sink = output_format(output.format, dict(output.options)).sink(self)

    def write(self, data: bytes) -> int:
        """The file as the format sees it: counts and digests what goes through."""
        self._digest.update(data)
        view = memoryview(data)
        size = len(view)
        self._size += size
        with _room(self._path):
            while view:
                view = view[self._file.write(view) :]
        return size

    def extend(self, pairs: Iterable[Any]) -> None:
        """Write pairs. Raises NotAPair, Unencodable, OSError, and what user code raises."""
        self.records += self._sink.extend(pairs)

    def close(self) -> OutputFile:
        """Make the file and its name durable. The answer lacks only `part`."""
        from mr.rpc.job_pb2 import OutputFile

        self._sink.close()
        with _room(self._path):
            os.fsync(self._file.fileno())
            self._file.close()
            _sync_directory(self._path.parent)
        return OutputFile(
            name=self._path.name, bytes=self._size, records=self.records, sha256=self._digest.digest()
        )

    @property
    def bytes(self) -> int:
        """Written so far."""
        return self._size

    def abort(self) -> None:
        """Drop what was written."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def part_writer(output: Output, path: Path) -> PartWriter:
    """A writer of `output`'s format for one attempt's file. Raises ValueError (unknown format), OSError."""
    return PartWriter(output, path)


def attempt_path(spec: JobSpec, name: str) -> Path:
    """Where an attempt writes the file `name`."""
    return Path(spec.staging, _ATTEMPTS, name)


# --- publication ---


def publish(spec: JobSpec, files: Sequence[OutputFile], counters: Mapping[str, int]) -> bytes:
    """Publish the winners: the digest (SHA-256) of the manifest. Idempotent. Raises OutputError, OSError."""
    manifest = manifest_of(spec, files, counters)
    out = Path(spec.output.path)
    try:
        if not _is_published(out, manifest):
            with _room(out):
                if spec.output.overwrite:
                    _overwrite(out, _take(spec), files, manifest)
                else:
                    _rename(_gather(Path(spec.staging), files, manifest), out)
    except FileNotFoundError as error:
        # Another one that publishes the same job was faster, or somebody removed the staging place.
        if not _is_published(out, manifest):
            raise OutputError(
                Cause.OUTPUT_UNWRITABLE, f"a file of the job is gone from its staging place: {error.filename}"
            ) from error
    _sync_directory(out.parent)
    for place in _places(spec):
        _remove_tree(place)
    return hashlib.sha256(manifest).digest()


def _places(spec: JobSpec) -> list[Path]:
    """Where the staging place of a job may be: taken by those who publish it, and where it was made."""
    staging = Path(spec.staging)
    if not spec.output.overwrite:
        return [staging]
    prefix = f"{staging.name}{_TAKEN}"
    with os.scandir(staging.parent) as there:
        taken = [staging.with_name(entry.name) for entry in there if entry.name.startswith(prefix)]
    return [*taken, staging]


def _take(spec: JobSpec) -> Path:
    """The staging place under a name of this publisher's own. Raises FileNotFoundError if it is nowhere."""
    staging = Path(spec.staging)
    mine = staging.with_name(f"{staging.name}{_TAKEN}{secrets.token_hex(8)}")
    for place in _places(spec):
        try:
            os.rename(place, mine)
        except FileNotFoundError:
            continue  # somebody else takes it at the same time
        return mine
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(staging))


def manifest_of(spec: JobSpec, files: Sequence[OutputFile], counters: Mapping[str, int]) -> bytes:
    """The content of `_SUCCESS`: the same from whoever writes it, so it holds no time and no host (D3)."""
    listed = [
        {"name": file.part, "bytes": file.bytes, "records": file.records, "sha256": file.sha256.hex()}
        for file in _all_files(files)
    ]
    content = {
        "job": spec.job_id,
        "name": spec.name,
        "format": spec.output.format,
        "options": dict(spec.output.options),
        "files": sorted(listed, key=lambda row: str(row["name"])),
        "bytes": sum(file.bytes for file in files),
        "records": sum(file.records for file in files),
        "counters": dict(counters),
    }
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode(
        "utf-8", "surrogatepass"
    )


def _all_files(files: Sequence[OutputFile]) -> Iterator[OutputFile]:
    for file in files:
        if file.name:
            yield file
        yield from _all_files(file.side_files)


def _is_published(out: Path, manifest: bytes) -> bool:
    try:
        return (out / MANIFEST).read_bytes() == manifest
    except (FileNotFoundError, NotADirectoryError):
        return False


def _gather(staging: Path, files: Sequence[OutputFile], manifest: bytes) -> Path:
    """Move the winners to `final`, which is returned, under their published names, then write the manifest there."""
    final = staging / _FINAL
    final.mkdir(exist_ok=True)
    folders = {final}
    for file in _all_files(files):
        target = final / file.part
        if final not in target.parents or ".." in target.parts:
            raise OutputError(Cause.OUTPUT_UNWRITABLE, f"{file.part!r} is no name inside an output")
        inner = [parent for parent in reversed(target.parents) if final in parent.parents]
        for folder in inner:
            folder.mkdir(exist_ok=True)  # never `final` itself again: its place may be gone by now
        folders.update(inner)
        try:
            os.rename(staging / _ATTEMPTS / file.name, target)
        except FileNotFoundError:
            pass  # moved by an earlier try, if it is there
        size = target.stat().st_size
        if size != file.bytes:
            raise OutputError(
                Cause.OUTPUT_UNWRITABLE, f"{target} has {size} bytes, but its task reported {file.bytes}"
            )
    for folder in folders:
        _sync_directory(folder)
    aside = staging / f"{MANIFEST}-{secrets.token_hex(8)}"
    _write_synced(aside, manifest)
    os.rename(aside, final / MANIFEST)
    _sync_directory(final)
    return final


def _overwrite(out: Path, place: Path, files: Sequence[OutputFile], manifest: bytes) -> None:
    """From a `place` that was taken. What is whole is called `ready` there: after an exchange, that is what OUT held,
    and must not be mistaken for a part of ours by one who takes the place then."""
    ready = place / _READY
    if not ready.exists():
        os.rename(_gather(place, files, manifest), ready)
    elif not _is_published(ready, manifest):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(ready))
    if not _is_empty(out):
        if exchange(ready, out):
            return
        os.rename(out, place / f"replaced-{secrets.token_hex(8)}")
    _rename(ready, out)


def _rename(final: Path, out: Path) -> None:
    try:
        os.rename(final, out)
    except FileNotFoundError:
        raise
    except OSError as error:
        if not _is_empty(out):
            raise OutputError(Cause.OUTPUT_EXISTS, f"output {out} is no longer empty") from error
        raise OutputError(Cause.OUTPUT_UNWRITABLE, f"can't rename to {out}: {error.strerror}") from error


def _is_empty(out: Path) -> bool:
    try:
        return not any(os.scandir(out))
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
