"""`make chaos`: every fault at least once, about 20 minutes. `make chaos HOURS=n`: random storms for n hours.

One line a run, and at the end the faults that were proven and the totals; `--totals FILE` adds them to those of earlier
campaigns. Runs that were not valid keep their folder; the line says how to play them again. Exit status 0: all valid
and every possible fault proven; 10: a promise was broken; 1: something was not proven, or could not be judged.
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

from jepsen_like import evidence, history
from jepsen_like.faults import FAULTS
from jepsen_like.run import Result, RunConfig, run
from jepsen_like.verdict import Outcome
from tests.chaos import campaign, totals


class Campaign:
    """What all runs together have shown."""

    def __init__(self, home: Path, sums: Path | None = None) -> None:
        self.home = home
        self.sums = sums
        self.totals = totals.load(sums)
        self.outcomes: Counter[Outcome] = Counter()
        self.proven: Counter[str] = Counter()
        self.kept: list[Path] = []
        self._began = time.monotonic()

    def play(self, config: RunConfig) -> Result:
        """One run, one line."""
        folder = self.home / f"seed-{config.seed}"
        result = run(config, folder)
        self.outcomes[result.outcome] += 1
        events = history.read(folder / "history.jsonl")
        self.proven.update(event.op for event in events if event.kind == "proof" and event.value)
        self.totals.add(result.outcome, events, evidence.load(folder / "evidence.json"), result.seconds)
        totals.save(self.totals, self.sums)
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
        print("\n".join(self.totals.lines()))
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


def play_all(found: Campaign, configs: Iterable[RunConfig], hours: float) -> int:
    """Until the time is over."""
    ends = time.monotonic() + hours * 3600
    for config in configs:
        if time.monotonic() > ends:
            break
        found.play(config)
    found.summary(())
    return found.status


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--hours", type=float, help="random storms for so long")
    parser.add_argument("--deaths", action="store_true", help="only kills and power cuts (with --hours)")
    parser.add_argument("--totals", type=Path, help="a file of sums to add to")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 30) if given.seed is None else given.seed
    found = Campaign(Path(tempfile.mkdtemp(prefix="mr-chaos-campaign-")), given.totals)
    print(f"campaign seed {seed}, folders in {found.home}", flush=True)
    try:
        if given.hours:
            configs = campaign.deaths(seed) if given.deaths else campaign.at_random(seed)
            return play_all(found, configs, given.hours)
        return every_fault(found, seed)
    finally:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.outcomes.items()))
        print(f"RESULT {counts or 'nothing ran'}")
        if not found.kept:
            shutil.rmtree(found.home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
