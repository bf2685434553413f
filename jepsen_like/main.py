"""`mr chaos run`, `mr chaos replay`, `mr chaos faults`, `mr verify`. Found by `mr` through its entry points.

Exit code 0: every promise held; 10: one was broken; 1: the run proves nothing. What cannot be done on this machine is
said before the run begins.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mr.commands import flags
from mr.commands.flags import Session
from mr.errors import Error, Usage

if TYPE_CHECKING:
    from jepsen_like.run import Result, RunConfig

EXIT = {"valid": 0, "invalid": 10, "unknown": 1}
_PATH = click.Path(path_type=Path)


@click.group()
def chaos() -> None:
    """Attack a cluster made for it, and check its promises."""


@chaos.command()
@click.option("--minutes", type=float, default=1.0, show_default=True, help="How long faults hurt.")
@click.option("--seed", type=int, default=None, help="Which storm. Default: drawn, and printed.")
@click.option("--masters", type=click.IntRange(1, 9), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(1, 32), default=3, show_default=True)
@click.option("--faults", default="all", show_default=True, help="Names with commas, all, or none.")
@click.option(
    "--every", type=float, default=3.0, show_default=True, help="Seconds between faults, on average."
)
@click.option(
    "--schedule",
    type=_PATH,
    help="File with a line for each fault, AT FAULT SECONDS, instead of a drawn storm.",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "netns", "proxy"]),
    default="auto",
    help="Each node in a network namespace (root), or behind proxies (anybody).",
)
@click.option("--keep", type=_PATH, help="Folder for the report and all evidence. Default: a new one.")
@flags.apart
def run(
    session: Session,
    minutes: float,
    seed: int | None,
    every: float,
    schedule: Path | None,
    keep: Path | None,
    **given: Any,
) -> int:
    """Builds a cluster, hurts it while clients work, heals it, and judges what it did."""
    import secrets

    from jepsen_like.run import RunConfig

    if minutes <= 0:
        raise Usage("--minutes is more than 0")
    if every <= 0:
        raise Usage("--every is more than 0")
    config = RunConfig(
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        seconds=minutes * 60,
        every_s=every,
        script=_script(schedule) if schedule is not None else (),
        **{name: given[name] for name in ("masters", "workers", "faults", "kind")},
    )
    return _play(session, config, keep)


def _script(file: Path) -> tuple[tuple[float, str, float], ...]:
    from jepsen_like import nemesis
    from jepsen_like.faults import FAULTS

    try:
        return nemesis.read_script(file.read_text(), FAULTS)
    except OSError as error:
        raise Usage(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise Usage(f"{file}: {error}", next="`mr chaos faults` lists the faults") from None


@chaos.command()
@click.argument("folder", metavar="[DIR]", type=_PATH, required=False)
@click.option("--seed", type=int, help="Instead of DIR: a run of one minute with everything else by default.")
@click.option("--keep", type=_PATH, help="Folder for the new report. Default: a new one.")
@flags.apart
def replay(session: Session, folder: Path | None, seed: int | None, keep: Path | None) -> int:
    """Plays a run again: the same jobs, the same faults at the same times. DIR is what an earlier run has kept."""
    from jepsen_like.run import RunConfig, read_config

    if (folder is None) == (seed is None):
        raise Usage("name the folder of a run, or a --seed")
    config = read_config(folder) if folder is not None else RunConfig(seed=seed or 0)
    return _play(session, config, keep)


@chaos.command()
@flags.apart
def faults(_: Session) -> int:
    """Lists every fault by name."""
    from jepsen_like.faults import FAULTS

    for name, fault in sorted(FAULTS.items()):
        first = (fault.__doc__ or "").strip().partition("\n")[0]
        print(f"{name:26} {', '.join(fault.cites):18} {first}")
    return 0


@click.command()
@click.argument("what", type=_PATH, metavar="DIR|HISTORY|OUTPUT")
@flags.apart
def verify(session: Session, what: Path) -> int:
    """Checks again what was recorded: the folder of a run, a history.jsonl (also of your own cluster), or the output
    of a job against its manifest."""
    if (what / "_SUCCESS").is_file():
        return _verify_output(what)
    from jepsen_like import checkers, evidence, history
    from jepsen_like.run import RunConfig, conclude, read_config

    file = what / "history.jsonl" if what.is_dir() else what
    if not file.is_file():
        raise Usage(
            f"{what} has no history and no output", next="name a run's folder, a .jsonl file, or an output"
        )
    try:
        events = history.read(file)
    except UnicodeDecodeError as error:
        raise Usage(f"{file} is no text: {error}", next="a history is JSON lines") from None
    except ValueError as error:
        raise Usage(f"{file}: {error}", next="jepsen_like/history.py says what a line holds") from None
    except OSError as error:
        raise Usage(f"cannot read {file}: {error.strerror}") from None
    kept = file.with_name("evidence.json")
    try:
        found = evidence.load(kept) if kept.is_file() and what.is_dir() else None
    except (OSError, ValueError) as error:
        raise Usage(str(error), next="jepsen_like/evidence.py says what it holds") from None
    verdicts = checkers.judge(events, found)
    config = read_config(what) if found else RunConfig(seed=0)
    if found is None:
        if what.is_dir():
            session.note(f"{what} has no evidence.json: judged by what clients were told alone")
        outcome = checkers.overall(verdicts)
        print(f"{outcome.upper()}  {len(events)} events of {file.name}")
        for verdict in verdicts:
            print(
                f"{verdict.outcome:8} {verdict.checker:28} {_counts(verdict.counted)}  {verdict.reason}".rstrip()
            )
            for line in verdict.excerpt:
                print(f"         {line}")
        return EXIT[outcome]
    try:
        result = conclude(what.absolute(), config, events, found, verdicts, 0.0)
    except OSError as error:
        raise Error(f"cannot write the report into {what}: {error.strerror}") from None
    session.note("")
    print(result.text)
    return EXIT[result.outcome]


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.items())


def _play(session: Session, config: RunConfig, keep: Path | None) -> int:
    from jepsen_like.run import run as play

    shown = ", ".join(f"{f.name} {getattr(config, f.name)}" for f in dataclasses.fields(config)[:6])
    session.note(f"chaos: {shown}")
    try:
        result: Result = play(config, keep, say=session.note)
    except OSError as error:
        raise Error(f"no cluster can be attacked here: {error}") from error
    print(result.text)
    sys.stdout.flush()
    return EXIT[result.outcome]


def _verify_output(out: Path) -> int:
    """Lengths and digests of every file of a published output."""
    import json

    from jepsen_like.collect import hashed

    try:
        rows = json.loads((out / "_SUCCESS").read_bytes())["files"]
        listed = {row["name"]: {what: row[what] for what in ("bytes", "sha256")} for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        print(f"INVALID  the manifest of {out} is none: {error!r}")
        return 10
    there = {name: row for name, row in hashed(out).items() if name != "_SUCCESS"}
    wrong = [f"missing   {name}" for name in sorted(listed.keys() - there.keys())]
    wrong += [f"unlisted  {name}" for name in sorted(there.keys() - listed.keys())]
    wrong += [
        f"differs   {name}"
        for name in sorted(listed.keys() & there.keys())
        if any(listed[name][what] != there[name][what] for what in ("bytes", "sha256"))
    ]
    for line in wrong:
        print(line)
    size = sum(row["bytes"] for row in there.values())
    print(
        f"{'INVALID' if wrong else 'VALID'}  {len(there)} files, {size:,} bytes, against the manifest of {out}"
    )
    return 10 if wrong else 0
