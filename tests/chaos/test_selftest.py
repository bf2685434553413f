"""The parts of `make chaos-selftest` fit together: what is planted is planted, what is taken out is missed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.planted.bugs import BUGS
from tests.planted.selftest import without_rule
from tests.simulation.consensus import ablations


@pytest.fixture(autouse=True)
def _logging_again() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("table", ["SEEDED", "SYNCS"])
def test_a_rule_taken_out_is_missed_and_the_same_seeds_with_it_are_clean(table: str) -> None:
    quickest = min(range(len(getattr(ablations, table))), key=lambda n: getattr(ablations, table)[n].within)
    row = without_rule(table, quickest)
    assert row.found, row
    assert row.clean == "valid"


PLANT_EACH = """
import os, traceback
import master.main, worker.main, mr.attempt  # once, before the forks
from tests.planted.bugs import BUGS
for name, bug in BUGS.items():
    child = os.fork()
    if child == 0:
        try:
            bug.plant()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(name, os.waitpid(child, 0)[1], flush=True)
"""


def test_every_bug_can_be_planted() -> None:
    """Each wraps functions by name: a name that is gone would make its run a clean one. At least 20 are promised."""
    done = subprocess.run(
        [sys.executable, "-c", PLANT_EACH], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.split() == [word for name in BUGS for word in (name, "0")], done.stderr
    assert len(BUGS) >= 20
