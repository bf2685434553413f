"""The short tier: two fixed schedules on real processes in their own network namespaces, judged by every checker."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepsen_like import net
from jepsen_like.run import RunConfig, run
from jepsen_like.verdict import Outcome

WHY_NOT = net.possible()
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(170),
    pytest.mark.skipif(bool(WHY_NOT), reason=f"NO CLUSTER WAS ATTACKED: {WHY_NOT}"),
]

# (at, fault, for so long), in seconds
SCHEDULES = {
    "masters": (
        (2.0, "kill-leader", 1.0),
        (6.0, "leader-from-masters", 3.0),
        (11.0, "pause-leader", 2.0),
        (15.0, "power-cut-all", 0.5),
    ),
    "workers": (
        (2.0, "kill-worker", 1.0),
        (5.0, "workers-apart", 3.0),
        (10.0, "kill-burst", 0.5),
        (14.0, "halves", 2.0),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_promise_holds_in_a_short_storm(name: str, tmp_path: Path) -> None:
    """C1-C11, T1-T12, D1-D9: each fault is proven, and every checker says valid."""
    config = RunConfig(seed=7, seconds=20.0, script=SCHEDULES[name], kind="netns", calm_s=60.0)
    result = run(config, tmp_path / "run")
    assert result.outcome is Outcome.VALID, result.text
