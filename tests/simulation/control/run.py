"""`PYTHONHASHSEED=0 python -m tests.simulation.control.run FIRST [LAST]`: histories of the control plane."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

from tests.simulation.control.histories import play


def main() -> int:
    """0 when every history was clean; the first broken one ends the run with its traceback."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.exit("set PYTHONHASHSEED=0, else a seed does not replay")
    first = int(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else first
    began, counts = time.monotonic(), Counter[str]()
    for seed in range(first, last + 1):
        try:
            counts += play(seed)
        except Exception:
            print(f"seed {seed} is broken", file=sys.stderr)
            raise
    print(f"{last - first + 1} histories in {time.monotonic() - began:.0f} s, all clean: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
