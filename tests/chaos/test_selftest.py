"""The parts of `make chaos-selftest` fit together: what is planted is planted, what is taken out is missed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepsen_like.run import Result
from jepsen_like.verdict import Outcome, Verdict
from tests.planted import selftest
from tests.planted.bug import Bug
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


def played(*wrong: str) -> Result:
    """A run in which the checkers of these promises found something."""
    verdicts = [Verdict(checker=f"the {id} one", outcome=Outcome.INVALID, invariants=(id,)) for id in wrong]
    return Result(Path(), Outcome.INVALID if wrong else Outcome.VALID, verdicts, "", 10.0)


@pytest.mark.parametrize(
    ("promise", "runs", "found", "by", "seconds", "clean"),
    [
        ("found at once", [played("T1"), played()], True, "the T1 one", 10.0, "valid"),
        (
            "found by another checker first",
            [played("D9", "T1"), played()],
            True,
            "the T1 one, the D9 one",
            10.0,
            "valid",
        ),
        (
            "found in a second storm",
            [played(), played(), played("T1"), played()],
            True,
            "the T1 one (in a second storm)",
            20.0,
            "valid",
        ),
        (
            "found in a third storm",
            [played(), played(), played(), played(), played("T1"), played()],
            True,
            "the T1 one (in a third storm)",
            30.0,
            "valid",
        ),
        (
            "never found",
            [played(), played(), played("D9"), played(), played(), played()],
            False,
            "",
            30.0,
            "valid",
        ),
        (
            "a false alarm of the first storm is not forgotten",
            [played(), played("D9"), played("T1"), played()],
            True,
            "the T1 one (in a second storm)",
            20.0,
            "the D9 one: ",
        ),
    ],
)
def test_what_counts_as_found(
    promise: str,
    runs: list[Result],
    found: bool,
    by: str,
    seconds: float,
    clean: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coming = iter(runs)
    monkeypatch.setattr(selftest, "attack", lambda *_args, **_options: next(coming))
    row = selftest.in_cluster(Bug(name="x", breaks="T1, T2", plant=lambda: None), 1, clean=True, keep=None)
    assert (row.found, row.by, row.seconds, row.clean) == (found, by, seconds, clean), promise
    assert next(coming, None) is None, promise


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
