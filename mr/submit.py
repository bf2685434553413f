"""From a job file and some paths to a job that the cluster has accepted.

The law: nothing of the user's runs in this process (a child loads the job file), everything that can be
refused is refused before anything is written, and the job's id is chosen before the first try, so that a
repeated submit is the same job. Order: describe, list inputs, plan splits, staging, blobs on a majority,
submit.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mr.calls import Masters, request_id
from mr.errors import Error, NotFound, Rejected, TaskFailure, Usage, before_submit

if TYPE_CHECKING:
    from mr.describe import Description
    from mr.rpc.cluster_pb2 import JobStatus, SubmitReply
    from mr.rpc.job_pb2 import JobSpec, SplitPlan

CHUNK = 1 << 20  # bytes of a blob in one message
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # base 32 without what looks alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asks to be run. Every field but `job_file` may be left to the job file."""

    job_file: Path
    inputs: tuple[str, ...] = ()
    output: str = ""
    id: str = ""
    job_name: str = ""  # which one, where the file has several
    args: tuple[str, ...] = ()  # the job's own, what stood after `--`
    py_files: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)  # win over the job file (mr.compile.FLAGS)
    defaults: Mapping[str, Any] = field(default_factory=dict)  # fill what the job file leaves open


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job ready to be sent: complete but for its staging place."""

    spec: JobSpec
    plan: SplitPlan
    bundle: bytes
    code_files: int
    description: Description


def prepare(request: Request) -> Prepared:
    """Describes the job, lists its inputs and plans their splits. Reads much, writes nothing.

    Raises Usage: a bad job file, no input, a missing input, no output, a bad id.
    """
    from mr import describe

    described = describe.describe(
        request.job_file,
        args=request.args,
        py_files=request.py_files,
        files=request.files,
        defaults=request.defaults,
        flags=request.flags,
        name=request.job_name,
    )
    spec = described.spec
    if request.inputs:
        spec.input.patterns[:] = request.inputs
    spec.job_id = checked_id(request.id) if request.id else new_id(spec.name)
    plan, files, size = _plan(request, spec)
    spec.output.path = _output(request, spec)
    encoded = plan.SerializeToString(deterministic=True)
    spec.maps = len(plan.splits)
    spec.input_files, spec.input_bytes = files, size
    spec.code_digest = described.bundle.digest
    spec.splits_digest = hashlib.sha256(encoded).digest()
    return Prepared(spec, plan, described.bundle.data, described.bundle.count, described)


def send(masters: Masters, prepared: Prepared) -> SubmitReply:
    """Staging, blobs, submit. A job that exists under this id and is the same is answered with `existed`.

    Raises Rejected (output exists, another job has this id, quota), Unavailable, CommitUnknown, NotAllowed.
    """
    from mr import output
    from mr.rpc.cluster_pb2 import SubmitReply, SubmitRequest

    spec = prepared.spec
    existing = _existing(masters, spec)
    if existing is not None:
        return SubmitReply(job=spec.job_id, term=existing.term, leader=existing.leader, existed=True)
    try:
        output.prepare_staging(spec)
    except TaskFailure as failure:
        # Perhaps another one who submits the same was faster, and its job is done: its output is no obstacle.
        existing = _existing(masters, spec)
        if existing is None:
            raise before_submit(failure) from None
        return SubmitReply(job=spec.job_id, term=existing.term, leader=existing.leader, existed=True)
    try:
        put_blob(masters, prepared.bundle)
        put_blob(masters, prepared.plan.SerializeToString(deterministic=True))
        reply: SubmitReply = masters.call(
            "Submit", SubmitRequest(spec=spec, request_id=f"submit-{spec.job_id}")
        )
    except (Rejected, Usage):
        _leave(masters, spec)
        raise
    if reply.existed:
        _leave(masters, spec)
    return reply


def _leave(masters: Masters, spec: JobSpec) -> None:
    """Removes a staging place that nobody will ever use: unless the job under this id has the same one."""
    from mr import output
    from mr.rpc.cluster_pb2 import GetJobRequest

    try:
        status = masters.call("GetJob", GetJobRequest(job=spec.job_id))
        if status.id == spec.job_id and status.spec.nonce == spec.nonce:
            return
    except NotFound:
        pass
    except Error:
        return  # not known: what may be used stays
    output.cleanup(spec)


def retry(masters: Masters, status: JobStatus, known: Sequence[str]) -> SubmitReply:
    """Tries a failed or cancelled job again, as a new job with a staging place of its own.

    The masters choose its id, the next free `<id>-rN`; the place is made for it before, because a worker may look
    for it at once. `known` are the ids that begin like the job's. Raises Rejected, Usage.
    """
    from mr.rpc.cluster_pb2 import RetryRequest

    base = re.sub(r"-r[0-9]+$", "", status.id)
    number = next(n for n in range(1, len(known) + 2) if f"{base}-r{n}" not in known)
    _stage_again(status.spec, f"{base}-r{number}")
    reply: SubmitReply = masters.call("Retry", RetryRequest(job=status.id, request_id=request_id()))
    if reply.job != f"{base}-r{number}":  # somebody else was quicker
        _stage_again(status.spec, reply.job)
    return reply


def _stage_again(old: JobSpec, job_id: str) -> None:
    """The staging place of another try: its own folder, the same nonce, which the job's spec names."""
    from mr import output
    from mr.rpc.job_pb2 import JobSpec

    spec = JobSpec()
    spec.CopyFrom(old)
    spec.job_id = job_id
    try:
        output.prepare_staging(spec, nonce=old.nonce)
    except TaskFailure as failure:
        raise before_submit(failure) from None


def put_blob(masters: Masters, data: bytes) -> bytes:
    """Brings `data` to a majority of the masters, unless it is there; returns its SHA-256."""
    from mr.rpc.cluster_pb2 import BlobChunk

    digest = hashlib.sha256(data).digest()

    def chunks() -> Iterator[BlobChunk]:
        for start in range(0, len(data) or 1, CHUNK):
            yield BlobChunk(digest=digest, data=data[start : start + CHUNK], total=len(data))

    masters.upload("Blobs.Put", chunks, size=len(data))
    return digest


def new_id(name: str) -> str:
    """`<name>-<5 letters>`: short to type, and unique enough beside the masters' own check."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:16].strip("-") or "job"
    return f"{stem}-{''.join(secrets.choice(_LETTERS) for _ in range(5))}"


def checked_id(text: str) -> str:
    """`text` if it may be a job's id. Raises Usage."""
    if not _ID.fullmatch(text):
        raise Usage(
            f"{text!r} is not a job id", next="letters, digits, dot, dash, underscore; at most 63 of them"
        )
    return text


def _output(request: Request, spec: JobSpec) -> str:
    chosen = request.output or spec.output.path
    if not chosen:
        raise Usage(
            f"{request.job_file.name} has no output", next="name a directory that does not exist yet: -o OUT"
        )
    return os.path.realpath(Path(chosen).expanduser())


def _plan(request: Request, spec: JobSpec) -> tuple[SplitPlan, int, int]:
    """The splits, and how many files and bytes they cover."""
    from mr import formats, inputs, splits

    if not spec.input.patterns:
        raise Usage(
            f"{request.job_file.name} has no input",
            next=f"name files or folders after the job: {request.job_file.name} INPUT... -o OUT",
        )
    try:
        splittable = formats.input_format(spec.input.format, spec.input.options).splittable
        found = inputs.list_inputs(list(spec.input.patterns))
    except TaskFailure as failure:
        raise before_submit(failure) from None
    except ValueError as error:
        raise Usage(str(error)) from None
    plan = splits.plan(found, spec.options.split_bytes, splittable=splittable)
    return plan, len(found), sum(one.size for one in found)


def _existing(masters: Masters, spec: JobSpec) -> JobStatus | None:
    """The job that has this id already. Raises Rejected when it is another one."""
    from mr.rpc.cluster_pb2 import GetJobRequest

    try:
        status: JobStatus = masters.call("GetJob", GetJobRequest(job=spec.job_id))
    except NotFound:
        return None
    if status.id != spec.job_id:  # an id that merely begins so
        return None
    if _substance(status.spec) != _substance(spec):
        raise Rejected(
            f"another job has the id {spec.job_id}",
            code="DUPLICATE_ID",
            next="choose another --id, or leave it out",
        )
    return status


def _substance(spec: JobSpec) -> tuple[Any, ...]:
    """What makes two specs the same job: code, inputs, output and settings, not the place of staging."""
    return spec.code_digest, spec.splits_digest, spec.output.path, spec.plan_digest


def flags_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Only the flags that were given."""
    return {name: value for name, value in given.items() if value is not None and value != {}}


def sequence(value: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    """One path or many, as texts."""
    if value is None:
        return ()
    return (str(value),) if isinstance(value, str | Path) else tuple(str(each) for each in value)
