"""Flags that commands share, and what they make: a `Session` with configuration, client and output form."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mr import config as configuration
from mr import units
from mr.render import Form

if TYPE_CHECKING:
    from mr.client import Client, Handle
    from mr.config import Config

F = TypeVar("F", bound=Callable[..., Any])
CALL_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Session:
    """One run of one command: what its common flags say."""

    form: Form = "table"
    quiet: bool = False
    timeout: float | None = None  # seconds; None = as long as it takes, calls excepted
    color: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    context: str | None = None
    config_file: Path | None = None
    _config: Config | None = None

    @property
    def machine(self) -> bool:
        """Whether a program reads the output."""
        return self.form in {"json", "jsonl"}

    @property
    def config(self) -> Config:
        """All layers of configuration with these flags on top. Raises Usage."""
        if self._config is None:
            self._config = configuration.load(
                self.settings, config_file=self.config_file, context=self.context
            )
        return self._config

    def connect(self) -> Client:
        """A client by configuration and flags; no call is made yet."""
        from mr.client import connect

        return connect(config=self.config, timeout=min(self.timeout or CALL_TIMEOUT_S, CALL_TIMEOUT_S))

    def note(self, text: str) -> None:
        """A line for people, beside the output, unless -q."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


def common(command: F) -> F:
    """Adds the flags that every command has; the command gets a `Session` as its first argument."""

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        return command(_session(given), **given)

    wrapped: Any = run
    for option in reversed(_COMMON):
        wrapped = option(wrapped)
    return cast(F, wrapped)


def apart(command: F) -> F:
    """For commands that talk to no cluster of the user's: only -q, -v and --no-color."""

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        form: Form = "json" if given.pop("as_json", False) else given.pop("form", "table")
        given.pop("form", None)
        given.pop("verbose")
        color = not (given.pop("no_color") or os.environ.get("NO_COLOR"))
        return command(Session(form=form, quiet=given.pop("quiet"), color=color), **given)

    wrapped: Any = run
    for option in reversed(_COMMON[-3:]):
        wrapped = option(wrapped)
    return cast(F, wrapped)


def formatted(command: F) -> F:
    """`--format` and `--json`; used together with `common`, above it."""
    wrapped: Any = click.option("--json", "as_json", is_flag=True, help="Short for --format json.")(command)
    choice = click.Choice(["table", "wide", "json", "jsonl"])
    return cast(
        F,
        click.option("--format", "form", type=choice, default="table", help="table, wide, json or jsonl.")(
            wrapped
        ),
    )


def job_flags(command: F) -> F:
    """What `submit`, `run`, `plan` and `check` know of a job: its file, inputs, output and settings."""
    wrapped: Any = command
    for option in reversed(_JOB):
        wrapped = option(wrapped)
    return cast(F, wrapped)


class JobCommand(click.Command):
    """A command on a job file: what stands after `--` is the job's own and never read as flags of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Cuts the job's arguments off before click sees them."""
        own: list[str] = []
        if "--" in args:
            cut = args.index("--")
            args, own = args[:cut], args[cut + 1 :]
        ctx.meta["mr.job_args"] = tuple(own)
        return super().parse_args(ctx, args)


def job_args() -> tuple[str, ...]:
    """The job's own arguments, of the command that runs now."""
    own: tuple[str, ...] = click.get_current_context().meta["mr.job_args"]
    return own


class Duration(click.ParamType[float]):
    """`30s`, `1h30m`, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            return units.parse_seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def complete_job(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of jobs for the shell's completion; nothing when no cluster answers quickly."""
    from mr.client import connect
    from mr.errors import Error

    try:
        with connect(timeout=1.0) as client:
            return [one.id for one in client.jobs(prefix=incomplete)]
    except Error:
        return []


def job_id(command: F) -> F:
    """The argument ID: a job's id or a unique prefix."""
    return click.argument("id", shell_complete=complete_job)(command)


def attached(session: Session, id: str) -> Handle:
    """The job's handle. Raises NotFound."""
    return session.connect().attach(id)


def _session(given: dict[str, Any]) -> Session:
    chosen: Form = given.pop("form", "table")
    form: Form = "json" if given.pop("as_json", False) else chosen
    given.pop("verbose")  # read by mr.cli when an error is shown
    settings = {
        "cluster.masters": given.pop("masters"),
        "auth.token_file": given.pop("token_file"),
        "tls.insecure": given.pop("insecure") or None,
    }
    plain = given.pop("no_color") or bool(os.environ.get("NO_COLOR"))
    return Session(
        form=form,
        quiet=given.pop("quiet"),
        timeout=given.pop("timeout"),
        color=not plain,
        settings=settings,
        context=given.pop("context"),
        config_file=given.pop("config_file"),
    )


_PATH = click.Path(path_type=Path)
_COMMON = (
    click.option("--masters", metavar="HOST[:PORT],...", help="Where the masters are [env MR_MASTERS]."),
    click.option("--context", metavar="NAME", help="A [context.NAME] of the configuration [env MR_CONTEXT]."),
    click.option("--config", "config_file", type=_PATH, help="One more configuration file [env MR_CONFIG]."),
    click.option("--token-file", type=_PATH, help="File that holds the token."),
    click.option("--insecure", is_flag=True, help="Plaintext; to this machine only."),
    click.option("--timeout", type=Duration(), metavar="TIME", help="Give up after this; a job goes on."),
    click.option("--no-color", is_flag=True, help="No colour [env NO_COLOR]."),
    click.option("-q", "--quiet", is_flag=True, help="Only the answer."),
    click.option("-v", "--verbose", is_flag=True, help="Python tracebacks of errors too."),
)


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    broken = [value for value in values if "=" not in value]
    if broken:
        raise click.BadParameter(f"{broken[0]!r} is not NAME=VALUE", ctx, param)
    return dict(value.split("=", 1) for value in values)


_JOB = (
    click.argument("job", type=_PATH),
    click.argument("inputs", nargs=-1, metavar="[INPUT]..."),
    click.option("-o", "--output", metavar="DIR", help="Where the output goes; must not exist yet."),
    click.option("--name", help="The job's name."),
    click.option("--reduces", type=click.IntRange(min=1), help="Number of reduce tasks and output files."),
    click.option("--split-size", metavar="SIZE", help='Input of one map task, like "64MiB".'),
    click.option("--input-format", metavar="NAME", help="text, jsonl, csv, kv, or one of an extension."),
    click.option("--output-format", metavar="NAME", help="tsv, text, jsonl, csv, or one of an extension."),
    click.option("--files", multiple=True, metavar="PATH", help="A file that tasks need; may be repeated."),
    click.option(
        "--py-files", multiple=True, metavar="PATH", help="A module or package that the job imports."
    ),
    click.option("--env", multiple=True, callback=_pairs, metavar="K=V", help="Environment of the tasks."),
    click.option("--skip-bad", type=click.IntRange(min=0), metavar="N", help="Records that may be skipped."),
    click.option(
        "--max-attempts", type=click.IntRange(min=1), help="Failures of one task that fail the job."
    ),
    click.option("--queue", help="Queue [env MR_QUEUE]."),
    click.option("--priority", type=click.IntRange(0, 100), help="0 to 100; higher goes first."),
    click.option("--deadline", metavar="TIME", help="The job fails when it takes longer."),
    click.option("--task-deadline", metavar="TIME", help="An attempt is ended after this."),
    click.option("--memory", metavar="SIZE", help="Memory limit of one task."),
    click.option("--policy", help="Scheduling policy: locality or deal."),
    click.option("--speculate/--no-speculate", default=None, help="Backup attempts of slow tasks."),
    click.option("--overwrite", is_flag=True, help="Replace an existing output."),
)
_SETTINGS = (
    "name",
    "reduces",
    "split_size",
    "input_format",
    "output_format",
    "env",
    "skip_bad",
    "max_attempts",
    "queue",
    "priority",
    "deadline",
    "task_deadline",
    "memory",
    "policy",
    "speculate",
    "overwrite",
)


def job_request(session: Session, given: dict[str, Any], id: str = "") -> Any:
    """The `mr.submit.Request` that the flags of `job_flags` describe. Raises Usage."""
    from mr.client import job_defaults
    from mr.submit import Request, flags_of

    given["overwrite"] = given["overwrite"] or None
    return Request(
        job_file=given["job"],
        inputs=given["inputs"],
        output=given["output"] or "",
        id=id,
        args=job_args(),
        py_files=given["py_files"],
        files=given["files"],
        flags=flags_of({name: given[name] for name in _SETTINGS}),
        defaults=job_defaults(session.config),
    )
