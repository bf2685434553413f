"""What a planted bug is: a name, the function that plants it, and the run that must expose it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jepsen_like.workloads import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """`plant` wraps named functions in the process that calls it; `run` is what differs from a default RunConfig."""

    name: str
    breaks: str  # ids of what it breaks
    plant: Callable[[], None]
    run: dict[str, Any] = field(default_factory=dict)
    in_tasks: bool = False  # also planted in task processes


def work(shape: str, number: int = 0, **given: Any) -> Work:
    """One job of a directed run."""
    base = {"at_s": 0.0, "seed": 7 + number, "files": 4, "lines": 20, "reduces": 2}
    return Work(id=f"{shape}-{number:03d}", shape=shape, **{**base, **given})


# One master, two workers, a few quick jobs, nothing hurts: for what needs no bad luck.
QUIET = {
    "masters": 1,
    "workers": 2,
    "seconds": 8.0,
    "faults": "none",
    "lossy": False,
    "registers": False,
    "scenes": "none",
    "works": (work("wordcount", 0), work("sort", 1), work("index", 2, reduces=3)),
    "calm_s": 40.0,
}
