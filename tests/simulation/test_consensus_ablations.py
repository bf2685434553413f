"""The simulation notices a missing rule: within a stated number of seeds, a history breaks a promise."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.consensus import powercuts
from tests.simulation.consensus.ablations import SEEDED, SYNCS, Ablation
from tests.simulation.consensus.cuts import applied
from tests.simulation.consensus.histories import play
from tests.simulation.consensus.plan import draw, profile


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def clean(ablation: Ablation) -> str:
    return (
        f"{ablation.within} histories ({ablation.theme}) without the rule {ablation.rule!r} "
        f"(hazard {ablation.hazard}) were clean"
    )


@pytest.mark.slow
@pytest.mark.parametrize("ablation", SEEDED, ids=lambda a: a.rule)
def test_a_missing_rule_is_noticed(ablation: Ablation) -> None:
    with applied(ablation.cuts):
        for seed in range(ablation.first, ablation.first + ablation.within):
            kind = profile(seed, ablation.theme)
            _, failure = play(seed, kind, draw(seed, kind))
            if failure is not None:
                return
    pytest.fail(clean(ablation))


@pytest.mark.slow
@pytest.mark.parametrize("ablation", SYNCS, ids=lambda a: a.rule)
def test_a_missing_sync_is_noticed(ablation: Ablation, tmp_path: Path) -> None:
    with applied(ablation.cuts):
        for seed in range(ablation.first, ablation.first + ablation.within):
            scratch = tmp_path / str(seed)
            scratch.mkdir()
            try:
                powercuts.play(seed, scratch)
            except Exception:  # a promise is broken, or the product noticed that it was
                return
    pytest.fail(clean(ablation))


@pytest.mark.parametrize("seed", range(40))
def test_what_was_synced_outlives_any_power_cut(seed: int, tmp_path: Path) -> None:
    """C2, C8, FC18: the real log, vote, watermark, snapshots and identity."""
    powercuts.play(seed, tmp_path)
