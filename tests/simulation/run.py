"""`make sim SEEDS=2000`, `SEEDS=500-900`, `THEME=votes`: simulated histories of the consensus layer on all cores.

A history is a function of its seed alone; so that this holds, the program runs itself again with a fixed
hash seed.
"""

from __future__ import annotations

import os
import sys
import time

if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(
        sys.executable,
        [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]],
        {**os.environ, "PYTHONHASHSEED": "0"},
    )

import argparse
import signal

from tests.simulation.consensus.histories import Result, parallel
from tests.simulation.consensus.themes import THEMES


def seeds(text: str) -> tuple[int, int]:
    """A count, or a range with both ends."""
    first, dash, last = text.partition("-")
    return (int(first), int(last)) if dash else (0, int(first) - 1)


def main() -> int:
    """0 when every history was clean."""
    parser = argparse.ArgumentParser(prog="make sim")
    parser.add_argument("--seeds", type=seeds, default=(0, 499), help="a count, or a range a-b")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--theme", choices=sorted(THEMES), help="of all seeds; else each has its own")
    parser.add_argument("--failures", type=int, default=1, help="go on until so many histories failed")
    options = parser.parse_args()
    first, last = options.seeds
    began, told = time.monotonic(), time.monotonic()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a night's run that is ended says what it has seen

    result = Result()
    try:
        for part in parallel(first, last, options.processes, options.failures, options.theme):
            result.add(part)
            for failure in part.failures:
                print(failure, flush=True)
            if time.monotonic() - told > 10:
                told = time.monotonic()
                rate = result.seeds / (told - began)
                print(f"{result.seeds} of {last - first + 1} seeds, {rate:.0f}/s", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    counted = ", ".join(f"{what} {count}" for what, count in sorted(result.counts.items()))
    print(f"{result.seeds} seeds ({first}-{last}) in {time.monotonic() - began:.0f} s: {counted}")
    if result.failures:
        again = result.failures[0].seed
        theme = f" THEME='{options.theme}'" if options.theme else ""
        print(f"FAILED: {len(result.failures)}; play one again with make sim SEEDS={again}-{again}{theme}")
        return 1
    print("every history that was played was clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
