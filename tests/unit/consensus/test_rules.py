"""Every rule that chance hardly ever needs, or that a second one stands behind, taken out of the code by its text.

The table is `DIRECTED` in tests/simulation/consensus/ablations.py; each row names a story or a test of this folder
that ends well with the rule and badly without it.
"""

from __future__ import annotations

import importlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.consensus.ablations import DIRECTED, Directed
from tests.simulation.consensus.cuts import applied


def story(row: Directed) -> Callable[..., Any]:
    module, _, name = row.story.partition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f"tests.unit.consensus.{module}"), name)
    return found


def rows(told: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """The arguments of a story: those of its table, if it has one."""
    tables = [m for m in getattr(told, "pytestmark", []) if m.name == "parametrize"]
    if not tables:
        yield {}
    for table in tables:
        names = (
            [n.strip() for n in table.args[0].split(",")] if isinstance(table.args[0], str) else table.args[0]
        )
        for value in table.args[1]:
            values = getattr(value, "values", (value,) if len(names) == 1 else value)
            yield dict(zip(names, values, strict=True))


def ends_well(told: Callable[..., Any]) -> bool:
    for arguments in rows(told):
        with tempfile.TemporaryDirectory() as scratch:
            place = {"tmp_path": Path(scratch)} if "tmp_path" in inspect.signature(told).parameters else {}
            try:
                if told(**arguments, **place) is False:
                    return False
            except (Exception, pytest.fail.Exception):
                return False
    return True


@pytest.mark.parametrize("row", DIRECTED, ids=lambda row: row.rule)
def test_a_rule_is_needed_by_its_story(row: Directed) -> None:
    assert ends_well(story(row)), "with the rule in place"
    with applied(row.cuts):
        assert not ends_well(story(row)), f"nothing notices that it is missing: {row.rule}"
