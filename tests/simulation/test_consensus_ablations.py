"""The simulation notices a missing rule: within a stated number of seeds, a history breaks a promise."""

from __future__ import annotations

import logging

import pytest

from tests.simulation.consensus.ablations import ABLATIONS, Ablation
from tests.simulation.consensus.histories import play
from tests.simulation.consensus.plan import draw, profile


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: a.name)
def test_a_missing_rule_is_noticed(ablation: Ablation) -> None:
    logging.disable(logging.CRITICAL)
    try:
        with ablation.applied():
            for seed in range(ablation.within):
                kind = profile(seed)
                _, failure = play(seed, kind, draw(seed, kind))
                if failure is not None:
                    return
    finally:
        logging.disable(logging.NOTSET)
    pytest.fail(
        f"{ablation.within} histories without the rule {ablation.name!r} (hazard {ablation.hazard}) were clean"
    )
