"""The harness must be able to fail: every planted bug is found, and no run without one is blamed.

    python -m tests.planted.selftest [--only NAME …] [--no-clean] [--no-clusters] [--no-simulation] [--at-once N]
        [--json FILE] [--keep DIR]

Each bug runs in real servers with the schedule that is fit to expose it, and counts as found when a checker of a
promise that it breaks says so, in a second or third storm if not in the first; each such run without the bug must be
valid.
Rules of consensus that chance needs long for are taken out in the deterministic simulation instead, where the same
seeds without the ablation must be clean.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from jepsen_like.run import Result, RunConfig, run
from jepsen_like.verdict import Outcome
from tests.planted.bug import Bug
from tests.planted.bugs import BUGS
from tests.simulation.consensus import ablations

SEED = 11
ANOTHER = 1000  # from the seed of one storm to that of the next
STORMS = ("", " (in a second storm)", " (in a third storm)")


@dataclass(slots=True)
class Row:
    """One line of the table."""

    bug: str
    breaks: str
    where: str  # "cluster" or "simulation"
    found: bool
    by: str
    seconds: float
    clean: str  # verdict of the same run without the bug
    clean_seconds: float


def attack(bug: Bug, *, planted: bool, seed: int, keep: Path | None) -> Result:
    """One run of the bug's schedule."""
    launcher = ("tests.planted.launch", bug.name) if planted else ()
    config = RunConfig(seed=seed, **{"kind": "auto", **bug.run, "launcher": launcher})
    if keep is not None:
        return run(config, keep / f"{bug.name}-{seed}{'' if planted else '-clean'}")
    folder = Path(tempfile.mkdtemp(prefix="mr-planted-"))
    try:
        return run(config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_cluster(bug: Bug, seed: int, *, clean: bool, keep: Path | None) -> Row:
    """The bug in real servers, found by which checkers; then the same without it. When the moment that it needs did not
    come, once more with another seed: what it then took counts from the first on, and so do all clean runs."""
    row = Row(bug.name, bug.breaks, "cluster", False, "", 0.0, "", 0.0)
    blamed: list[str] = []
    for number, which in enumerate(STORMS):
        storm = seed + number * ANOTHER
        result = attack(bug, planted=True, seed=storm, keep=keep)
        row.seconds += result.seconds
        row.by = named(bug, result)
        row.found = bool(row.by)
        row.by += which if row.found else ""
        if clean:
            sound = attack(bug, planted=False, seed=storm, keep=keep)
            blamed += [f"{v.checker}: {v.reason}" for v in sound.verdicts if v.outcome is not Outcome.VALID]
            row.clean_seconds += sound.seconds
            row.clean = "; ".join(blamed) or "valid"
        if row.found:
            break
    return row


def named(bug: Bug, result: Result) -> str:
    """The checkers that said so, first those of a promise that it breaks; nothing when there is none of these: another
    promise may fall for want of a processor, and that alone is not finding it."""
    wrong = [v for v in result.verdicts if v.outcome is Outcome.INVALID]
    broken = {id.strip() for id in bug.breaks.split(",")}
    own = [v for v in wrong if broken & set(v.invariants)]
    return ", ".join(v.checker for v in (*own, *(v for v in wrong if v not in own))) if own else ""


def judged(name: str, seed: int, clean: bool, keep: Path | None) -> Row:
    """`in_cluster`, whatever happens."""
    bug = BUGS[name]
    try:
        return in_cluster(bug, seed, clean=clean, keep=keep)
    except Exception as error:  # a cluster that does not even start has not been judged
        return Row(bug.name, bug.breaks, "cluster", False, f"no run: {error!r}"[:200], 0.0, "", 0.0)


def in_clusters(names: Sequence[str], *, clean: bool, at_once: int, keep: Path | None) -> Iterator[Row]:
    """A row for each bug, as they come. Each run has a harness of its own; most of its time it waits."""
    seeds = {name: seed for seed, name in enumerate(BUGS, SEED)}
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in as_completed([pool.submit(judged, name, seeds[name], clean, keep) for name in names]):
            yield row.result()


def in_simulation(at_once: int) -> Iterator[Row]:
    """Rules of consensus, and syncs of the disk, taken out one by one in seeded histories of simulated masters."""
    os.environ["PYTHONHASHSEED"] = "0"  # of the processes that are made now: else a seed does not replay
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(without_rule, name, number)
            for name in ("SEEDED", "SYNCS")
            for number in range(len(getattr(ablations, name)))
        ]
        for row in as_completed(jobs):
            yield row.result()


def without_rule(table: str, number: int) -> Row:
    """One rule out of the named table taken out until a history breaks; then the same seeds with it."""
    from tests.simulation.consensus.cuts import applied

    logging.disable(logging.CRITICAL)
    rule = getattr(ablations, table)[number]
    history = in_themes if table == "SEEDED" else in_power_cuts
    began, seeds, found = time.monotonic(), range(rule.first, rule.first + rule.within), ""
    with applied(rule.cuts):
        for seed in seeds:
            if found := history(rule, seed):
                seeds = range(rule.first, seed + 1)
                break
    broke = time.monotonic()
    blamed = [why for seed in seeds if (why := history(rule, seed))]
    return Row(
        f"without: {rule.rule}",
        "C1-C7, C11",
        "simulation",
        bool(found),
        found,
        broke - began,
        "; ".join(blamed) or "valid",
        time.monotonic() - broke,
    )


def in_themes(rule: ablations.Ablation, seed: int) -> str:
    """What the history of a seed broke, or nothing."""
    from tests.simulation.consensus.histories import play
    from tests.simulation.consensus.plan import draw, profile

    kind = profile(seed, rule.theme)
    _, failure = play(seed, kind, draw(seed, kind))
    return str(failure).splitlines()[0][:100] if failure is not None else ""


def in_power_cuts(_rule: ablations.Ablation, seed: int) -> str:
    """What the history of a seed broke, or nothing."""
    from tests.simulation.consensus import powercuts

    with tempfile.TemporaryDirectory(prefix="mr-planted-") as scratch:
        try:
            powercuts.play(seed, Path(scratch))
        except Exception as broken:  # a promise, or the product noticed that it was broken
            return f"seed {seed} (power cuts): {(str(broken) or repr(broken)).splitlines()[0][:80]}"
    return ""


def show(row: Row) -> None:
    """One line, as it comes."""
    mark = "found" if row.found else "MISSED"
    clean = f"clean run {row.clean}" if row.clean else ""
    print(
        f"{mark:7} {row.bug:56} {row.breaks:12} {row.seconds:6.1f} s  by {row.by or '-'}  {clean}", flush=True
    )


def main() -> int:
    """See the module. Exit status 1 when a bug was missed or a clean run blamed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[], help="names of bugs")
    parser.add_argument("--no-clean", action="store_true")
    parser.add_argument("--no-clusters", action="store_true")
    parser.add_argument("--no-simulation", action="store_true")
    parser.add_argument("--at-once", type=int, default=2, help="clusters at a time (default 2)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the reports and evidence of every run")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.only) - BUGS.keys()):
        parser.error(f"no such bug: {', '.join(unknown)}")
    began, rows = time.monotonic(), []
    names = [name for name in BUGS if not asked.no_clusters and (not asked.only or name in asked.only)]
    for row in in_clusters(names, clean=not asked.no_clean, at_once=asked.at_once, keep=asked.keep):
        show(row)
        rows.append(row)
    for row in in_simulation(asked.at_once) if not asked.only and not asked.no_simulation else ():
        show(row)
        rows.append(row)
    missed = [row.bug for row in rows if not row.found]
    blamed = [row.bug for row in rows if row.clean not in {"", "valid"}]
    seconds = time.monotonic() - began
    print(
        f"\n{len(rows) - len(missed)} of {len(rows)} bugs found, {len(blamed)} false alarms, {seconds:.0f} s"
    )
    for name in missed:
        print(f"  missed: {name}")
    for name in blamed:
        print(f"  blamed without a bug: {name}")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 1 if missed or blamed else 0


if __name__ == "__main__":
    sys.exit(main())
