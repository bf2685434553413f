"""A share of a processor for a tree of processes, by a control group (version 1, root)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from jepsen_like.leftovers import Marker
from mr.guardian import tree

_ROOT = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000


def possible() -> str:
    """Why there can be no such share here; "" when there can."""
    if not (_ROOT / "cgroup.procs").exists():
        return f"no control groups of processors at {_ROOT}"
    return "" if os.access(_ROOT, os.W_OK) and os.geteuid() == 0 else "not root"


class Share:
    """The group of one node; removed by the marker's sweep, when its processes are gone."""

    def __init__(self, marker: Marker, node: str) -> None:
        self._folder = _ROOT / f"{marker.prefix}-{node}"
        if not self._folder.exists():
            marker.add("cgroup", self._folder)
            self._folder.mkdir()
        self._before = self._count()

    def take(self, pid: int, share: float) -> int:
        """`pid` and all below it, also what they start later, get `share` of one processor. Returns how many."""
        (self._folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (self._folder / "cpu.cfs_quota_us").write_text(str(max(1_000, int(share * _PERIOD_US))))
        pids = tree(pid)
        for member in pids:
            with suppress(ProcessLookupError):
                (self._folder / "cgroup.procs").write_text(str(member))
        return len(pids)

    def give_back(self) -> None:
        """As much as there is, for those in the group."""
        (self._folder / "cpu.cfs_quota_us").write_text("-1")

    def throttled(self) -> int:
        """Periods in which the kernel made them wait, since this object was made."""
        return self._count() - self._before

    def _count(self) -> int:
        words = (self._folder / "cpu.stat").read_text().split()
        return int(words[words.index("nr_throttled") + 1])
