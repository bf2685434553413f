"""`mr`: finds a command, runs it, turns its error into one clear message and an exit code.

The law: a command's module is imported when that command runs, so that `mr --help` loads neither grpc nor
protobuf nor pyarrow. Commands of other packages are found by the entry point group `mr.commands`. No Python
traceback reaches a user who did not ask for it with -v.
"""

from __future__ import annotations

import difflib
import importlib
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mr.errors import Error

if TYPE_CHECKING:
    from importlib import metadata

# name -> (module, short help). The order is the order in `mr --help`.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Run": {
        "run": ("mr.commands.run", "Run a job here, without a cluster."),
        "submit": ("mr.commands.submit", "Submit a job to the cluster and follow it to its end."),
        "plan": ("mr.commands.plan", "Show splits, tasks and waves of a job; change nothing."),
        "check": ("mr.commands.check", "Load a job file as a worker would, and say what is wrong."),
        "inspect": ("mr.commands.check", "List the functions, steps and settings of a job file."),
        "demo": ("mr.commands.demo", "Count words in a built-in text, with no files at all."),
        "examples": ("mr.commands.demo", "List the example jobs, or copy one here."),
    },
    "Jobs": {
        "jobs": ("mr.commands.jobs", "List jobs, newest first."),
        "status": ("mr.commands.jobs", "Show one job; for a failed one why, where and what next."),
        "watch": ("mr.commands.watch", "Follow a job to its end."),
        "wait": ("mr.commands.watch", "Wait for the end of a job, silently."),
        "explain": ("mr.commands.jobs", "Say why a job does not go on."),
        "tasks": ("mr.commands.jobs", "List the tasks of a job and their attempts."),
        "events": ("mr.commands.watch", "What happened to a job, in the order of the log."),
        "counters": ("mr.commands.jobs", "Show the counters of a job."),
        "logs": ("mr.commands.watch", "Show what the functions of a job printed."),
        "results": ("mr.commands.watch", "Print the output of a finished job."),
        "cancel": ("mr.commands.control", "End a job."),
        "retry": ("mr.commands.control", "Try a failed or cancelled job again, as a new job."),
    },
    "Cluster": {
        "workers": ("mr.commands.workers", "List workers."),
        "worker": ("mr.commands.workers", "Drain, undrain, exclude or include one worker."),
        "masters": ("mr.commands.masters", "List masters: who leads, who lags, who is down."),
    },
    "Set up": {
        "dev": ("mr.commands.dev", "Start a cluster on this machine; Ctrl-C stops it."),
        "tls": ("mr.commands.setup", "Make certificates for a cluster."),
        "config": ("mr.commands.setup", "Show the settings and where each comes from."),
        "completion": ("mr.commands.setup", "Print the completion script of a shell."),
    },
}
# Short helps of commands that live in other packages of this distribution.
_ELSEWHERE = {
    "master": "Hand leadership over; dump or recover a stopped master.",
    "snapshot": "Save, restore and inspect snapshots of the task table.",
    "verify": "Check an output against its manifest.",
    "chaos": "Attack a cluster with faults and check its promises.",
}


class Commands(click.Group):
    """The commands of `mr`, loaded one by one when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every command's name."""
        return [name for group in COMMANDS.values() for name in group] + sorted(_outside())

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Imports the module of `cmd_name`; None when there is no such command."""
        for group in COMMANDS.values():
            if cmd_name in group:
                found = getattr(importlib.import_module(group[cmd_name][0]), cmd_name)
                assert isinstance(found, click.Command)
                return found
        entry = _outside().get(cmd_name)
        loaded = entry.load() if entry else None
        return loaded if isinstance(loaded, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Names the nearest command for an unknown one."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"; did you mean `mr {near[0]}`?" if near else "; `mr --help` lists them"
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """The list in `mr --help`, without importing any command."""
        for title, group in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in group.items()])
        others = sorted(_outside())
        if others:
            with formatter.section("More"):
                formatter.write_dl([(name, _ELSEWHERE.get(name, "")) for name in others])


def _outside() -> dict[str, metadata.EntryPoint]:
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group="mr.commands")}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mapraft", prog_name="mr")
def mr() -> None:
    """MapReduce on a cluster in which no single process matters.

    Start one here with `mr dev`, run `mr submit wordcount.py INPUT... -o OUT`, or try `mr demo`.
    """


def main(argv: Sequence[str] | None = None) -> None:
    """The console script: runs a command and exits with the code of its outcome."""
    args = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its C core writes notes of its own to stderr
    # a shell script's `mr … &` starts with SIGINT ignored; Ctrl-C detaches or stops all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = mr.main(args, prog_name="mr", standalone_mode=False)
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except click.ClickException as wrong:
        wrong.show()
        code = wrong.exit_code
    except Error as error:
        code = report(error, verbose=_verbose(args), machine=_machine(args))
    except (KeyboardInterrupt, click.Abort):
        print("mr: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        code = _pipe_closed()
    except Exception as error:
        if _verbose(args):
            traceback.print_exc()
        print(f"mr: {type(error).__name__}: {error}", file=sys.stderr)
        print("  next  this is a bug of mr; the traceback is shown with -v", file=sys.stderr)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def report(error: Error, *, verbose: bool = False, machine: bool = False) -> int:
    """One clear message on stderr, for programs also one JSON object on stdout; the exit code."""
    if verbose:
        traceback.print_exception(error)
    print(f"mr: {error}", file=sys.stderr)
    if error.next:
        print(f"  next  {error.next}", file=sys.stderr)
    sys.stderr.flush()
    if machine:
        found = {"error": str(error), "kind": type(error).__name__, "next": error.next}
        print(json.dumps({**found, "exit_code": error.exit_code}, ensure_ascii=False), flush=True)
    return error.exit_code


def _machine(args: Sequence[str]) -> bool:
    own = args[: args.index("--")] if "--" in args else args
    return not {"--json", "--format=json", "--format=jsonl"}.isdisjoint(own) or any(
        pair in {("--format", "json"), ("--format", "jsonl")} for pair in itertools.pairwise(own)
    )


def _verbose(args: Sequence[str]) -> bool:
    own = args[: args.index("--")] if "--" in args else args
    return "-v" in own or "--verbose" in own


def _pipe_closed() -> int:
    """The reader of our output has gone (`mr jobs | head`): stop without noise."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    main()
