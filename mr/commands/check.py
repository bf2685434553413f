"""`mr check` and `mr inspect`: look into a job file, in a child process, as a worker would load it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mr import render, units
from mr.commands import flags
from mr.commands.flags import Session

if TYPE_CHECKING:
    from mr.describe import Description

_FILES = (
    click.argument("job", type=click.Path(path_type=Path)),
    click.option(
        "--py-files", multiple=True, metavar="PATH", help="A module or package that the job imports."
    ),
    click.option("--files", multiple=True, metavar="PATH", help="A file that tasks need."),
)


def _job_file(command: Any) -> Any:
    for option in reversed(_FILES):
        command = option(command)
    return command


@click.command(cls=flags.JobCommand)
@_job_file
@flags.formatted
@flags.common
def check(session: Session, **given: Any) -> int:
    """Loads JOB as a worker would. Exit 0 when it is a job, 2 with the reason when it is not."""
    described = _describe(given)
    render.one(described, facts, session.form, lambda d: f"ok  {_headline(d)}")
    return 0


@click.command(cls=flags.JobCommand)
@_job_file
@flags.formatted
@flags.common
def inspect(session: Session, **given: Any) -> int:
    """Lists the functions that JOB registers, its steps and its settings (S1-02)."""
    described = _describe(given)
    render.one(described, facts, session.form, _text)
    return 0


def facts(described: Description) -> dict[str, Any]:
    """What `mr inspect --json` prints."""
    from google.protobuf.json_format import MessageToDict

    spec = described.spec
    return {
        "name": spec.name,
        "job_file": spec.job_file,
        "steps": [
            {
                "mapper": step.mapper or None,
                "reducer": step.reducer or None,
                "combiner": step.combiner or None,
                "reduces": step.reduces,
                "partitioner": step.partitioner,
                "sort_values": step.sort_values,
            }
            for step in spec.steps
        ],
        "functions": [
            {"name": f.name, "kind": f.kind, "file": f.file, "line": f.line, "doc": f.doc}
            for f in described.functions
        ],
        "input": {"format": spec.input.format, "patterns": list(spec.input.patterns)},
        "output": {"format": spec.output.format, "path": spec.output.path or None},
        "options": MessageToDict(spec.options, preserving_proto_field_name=True),
        "python": spec.python,
        "code": described.bundle.digest.hex(),
        "code_files": list(described.bundle.names),
        "plan": spec.plan_digest,
    }


def _describe(given: dict[str, Any]) -> Description:
    from mr.describe import describe

    return describe(given["job"], args=flags.job_args(), py_files=given["py_files"], files=given["files"])


def _headline(described: Description) -> str:
    spec = described.spec
    functions = units.plural(len(described.functions), "function")
    steps = units.plural(len(spec.steps), "step")
    digests = f"plan {spec.plan_digest[:12]}   code {described.bundle.digest.hex()[:12]}"
    return f"{spec.name}   {steps}   {functions}   {digests}"


def _text(described: Description) -> str:
    spec = described.spec
    lines = [_headline(described)]
    for n, step in enumerate(spec.steps):
        parts = [f"map {step.mapper or 'identity'}"]
        if step.combiner:
            parts.append(f"combine {step.combiner}")
        if step.reducer:
            parts.append(f"reduce {step.reducer} x {step.reduces} by {step.partitioner}")
        lines.append(f"step {n}   " + "   ".join(parts))
    later = "(given when submitted)"
    source = f"input {spec.input.format} {' '.join(spec.input.patterns) or later}"
    lines.append(f"{source}   output {spec.output.format} {spec.output.path or later}")
    columns = [
        render.Column("NAME", lambda f: f.name),
        render.Column("KIND", lambda f: f.kind),
        render.Column("WHERE", lambda f: f"{f.file}:{f.line}"),
        render.Column("DOC", lambda f: f.doc),
    ]
    lines += render.table([[c.cell(f) for c in columns] for f in described.functions], columns)
    return "\n".join(lines)
