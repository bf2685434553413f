"""`make bench`: word count beside other tools, the data plane, the scheduler. Consensus: `make bench-consensus`."""

from __future__ import annotations

import subprocess
import sys

BENCHES = (
    ("word count, side by side", ["tests.bench.wordcount", "--with", "dask,mrjob"]),
    ("data plane, one core", ["tests.bench.dataplane"]),
    ("scheduler, simulated workers", ["tests.bench.scheduler"]),
)


def main() -> int:
    """Runs one after the other; the exit status is that of the first that fails."""
    for title, argv in BENCHES:
        print(f"\n## {title}\n", flush=True)
        code = subprocess.run([sys.executable, "-m", *argv], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
