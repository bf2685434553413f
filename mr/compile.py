"""Job -> JobSpec: what all shapes of job file and all ways to run them have in common.

The plan digest covers the steps' structure, formats, partitioner, R and options, with no names and no code
in it: equal settings give an equal digest whatever shape the job was written in. The code digest is its own.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from mr import formats, units
from mr.errors import TaskFailure
from mr.job import DEFAULT_REDUCES, OPTION_NAMES, Format, Job, Options, Step, check_reduces
from mr.registry import JobFileError
from mr.rpc import job_pb2 as pb

FLAGS = OPTION_NAMES | {"reduces", "input_format", "output_format", "overwrite", "name", "env"}


def compile_job(
    job: Job,
    *,
    job_file: str,
    args: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> pb.JobSpec:
    """The JobSpec of `job`, without what only a client knows (id, inputs' plan, staging, digests of blobs).

    `defaults` (configuration) fill what the job leaves open, `flags` win over it; keys are those of FLAGS.
    `input.patterns` and `output.path` are the job's own, as written. Raises JobFileError.
    """
    given = {**(defaults or {}), **job.settings, **(flags or {})}
    if unknown := sorted(set(given) - FLAGS):
        raise JobFileError(f'a job has no setting "{unknown[0]}"; it has {", ".join(sorted(FLAGS))}')
    try:
        job.functions()
    except TaskFailure as failure:
        raise JobFileError(failure.message, where=job_file) from None
    flags = flags or {}
    spec = pb.JobSpec(
        name=str(flags.get("name") or job.name),
        job_file=job_file,
        args=list(args),
        env={**job.env, **flags.get("env", {})},
        python=".".join(platform.python_version_tuple()[:2]),
        setup=job.setup,
        teardown=job.teardown,
        finalize=job.finalize,
        input=_input(job.input, flags.get("input_format")),
        output=_output(job.output, flags.get("output_format"), bool(flags.get("overwrite"))),
        options=_options({key: value for key, value in given.items() if key in OPTION_NAMES}),
    )
    spec.steps.extend(
        _step(step, flags.get("reduces"), (defaults or {}).get("reduces")) for step in job.steps
    )
    _check_formats(spec)
    spec.plan_digest = plan_digest(spec)
    return spec


def _check_formats(spec: pb.JobSpec) -> None:
    try:
        formats.input_format(spec.input.format, dict(spec.input.options))
        formats.output_format(spec.output.format, dict(spec.output.options))
    except ValueError as error:
        raise JobFileError(str(error)) from None


def plan_digest(spec: pb.JobSpec) -> str:
    """Hex SHA-256 over the settings of `spec`: equal for equal settings in any shape of job file."""
    steps = []
    for step in spec.steps:
        plain = _plain(step)
        for name in ("mapper", "reducer", "combiner"):
            plain[name] = bool(plain[name])
        plain["partitioner"] = step.partitioner if step.partitioner == "hash" else "user"
        steps.append(plain)
    plan = {
        "steps": steps,
        "input": [spec.input.format, dict(spec.input.options)],
        "output": [spec.output.format, dict(spec.output.options)],
        "options": _plain(spec.options),
    }
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _plain(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _step(step: Step, flag: Any, default: Any) -> pb.Step:
    reduces = 0
    if step.reducer:
        chosen = flag if flag is not None else step.reduces if step.reduces is not None else default
        reduces = check_reduces(DEFAULT_REDUCES if chosen is None else chosen)
    return pb.Step(
        mapper=step.mapper,
        reducer=step.reducer,
        combiner=step.combiner,
        reduces=reduces,
        partitioner=step.partitioner,
        sort_values=step.sort_values,
        record_path="object",
        allow_pickle=step.allow_pickle,
    )


def _input(chosen: Format, flag: str | None) -> pb.Input:
    if flag and flag != chosen.name:
        chosen = Format(flag, chosen.paths)
    return pb.Input(patterns=chosen.paths, format=chosen.name, options=dict(chosen.options))


def _output(chosen: Format, flag: str | None, overwrite: bool) -> pb.Output:
    if len(chosen.paths) > 1:
        raise JobFileError(f"a job has one output, not {len(chosen.paths)}: {', '.join(chosen.paths)}")
    path = chosen.paths[0] if chosen.paths else ""
    if flag and flag != chosen.name:
        chosen = Format(flag, chosen.paths)
    return pb.Output(path=path, format=chosen.name, options=dict(chosen.options), overwrite=overwrite)


def _options(given: dict[str, Any]) -> pb.Options:
    options = Options(**given)
    return pb.Options(
        max_attempts=options.max_attempts,
        skip_bad=options.skip_bad,
        queue=options.queue,
        priority=options.priority,
        deadline_ms=round(1000 * units.parse_seconds(options.deadline)),
        task_deadline_ms=round(1000 * units.parse_seconds(options.task_deadline)),
        speculate=options.speculate,
        split_bytes=options.split_bytes,
        memory_bytes=units.parse_bytes(options.memory),
        sort_buffer_bytes=units.parse_bytes(options.sort_buffer),
        policy=options.policy,
    )
