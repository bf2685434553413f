"""`make chaos`: every fault at least once, about 20 minutes. `make chaos HOURS=n`: random storms for n hours.

One line a run, and at the end the faults that were proven. Runs that were not valid keep their folder; the line says
how to play them again. Exit status 0: all valid and every possible fault proven; 10: a promise was broken; 1: something
was not proven, or could not be judged.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from jepsen_like import history
from jepsen_like.faults import FAULTS
from jepsen_like.run import Result, RunConfig, run
from jepsen_like.verdict import Outcome
from tests.chaos import campaign


class Campaign:
    """What all runs together have shown."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.outcomes: Counter[Outcome] = Counter()
        self.proven: Counter[str] = Counter()
        self.kept: list[Path] = []
        self._began = time.monotonic()

    def play(self, config: RunConfig) -> Result:
        """One run, one line."""
        folder = self.home / f"seed-{config.seed}"
        result = run(config, folder)
        self.outcomes[result.outcome] += 1
        for event in history.read(folder / "history.jsonl"):
            if event.kind == "proof" and event.value:
                self.proven[event.op] += 1
        minutes = (time.monotonic() - self._began) / 60
        what = f"{config.masters} masters, {config.workers} workers, {config.kind}"
        line = f"{minutes:5.1f} min  seed {config.seed:<10} {what:32} {result.seconds:4.0f} s"
        print(f"{line}  {result.outcome}", flush=True)
        if result.outcome is Outcome.VALID:
            shutil.rmtree(folder)
        else:
            self.kept.append(folder)
            print(result.text, flush=True)
            print(f"      kept: {folder}; again: mr chaos replay {folder}", flush=True)
        return result

    def summary(self, wanted: Iterable[str]) -> list[str]:
        """Prints what was proven; returns what was wanted and was not."""
        for name, count in sorted(self.proven.items()):
            print(f"  {name:24} proven {count} times")
        return sorted(name for name in wanted if not self.proven[name])

    @property
    def status(self) -> int:
        """The exit status so far."""
        return 10 if self.outcomes[Outcome.INVALID] else int(bool(self.outcomes[Outcome.UNKNOWN]))


def every_fault(found: Campaign, seed: int) -> int:
    """The 20 minutes."""
    for config in campaign.every_fault(seed, list(FAULTS.values())):
        found.play(config)
    if missing := [name for name in FAULTS if not found.proven[name]]:
        found.play(campaign.again(seed + 1, missing, max(3, *(FAULTS[name].masters for name in missing))))
    left = found.summary(FAULTS)
    if left:
        print(f"NOT PROVEN on this machine: {', '.join(left)}")
    return found.status or int(bool(left))


def at_random(found: Campaign, seed: int, hours: float) -> int:
    """Until the time is over."""
    ends = time.monotonic() + hours * 3600
    for config in campaign.at_random(seed):
        if time.monotonic() > ends:
            break
        found.play(config)
    found.summary(())
    return found.status


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--hours", type=float, help="random storms for so long")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 30) if given.seed is None else given.seed
    found = Campaign(Path(tempfile.mkdtemp(prefix="mr-chaos-campaign-")))
    print(f"campaign seed {seed}, folders in {found.home}", flush=True)
    try:
        return at_random(found, seed, given.hours) if given.hours else every_fault(found, seed)
    finally:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.outcomes.items()))
        print(f"RESULT {counts or 'nothing ran'}")
        if not found.kept:
            shutil.rmtree(found.home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
