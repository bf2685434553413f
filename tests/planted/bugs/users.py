"""Bugs that only certain jobs, and certain users, meet."""

from __future__ import annotations

from typing import Any

from tests.planted.bug import Bug
from tests.planted.bugs.edges import SCENES


def joined_runs_at_the_end() -> None:
    """Where there are too many runs for one merge, those that were joined come behind the others."""
    from mr.shuffle import buffer, merge

    def narrow(items: list[Any], join: Any) -> list[Any]:
        items = list(items)
        while len(items) > merge.FAN_IN:
            width = min(merge.FAN_IN, len(items) - merge.FAN_IN + 1)
            items = [*items[width:], join(items[:width])]
        return items

    merge.narrow = buffer.narrow = narrow  # type: ignore[attr-defined]


def environment_handed_on() -> None:
    """User code sees all that its worker was started with."""
    from worker import child

    child.scrubbed = dict  # type: ignore[assignment]


def environment_shown() -> None:
    """Whoever asks for a job sees its arguments and its environment."""
    from master.service import ClusterService

    ClusterService._hide = lambda self, status, caller: status  # type: ignore[method-assign]


BUGS = [
    Bug(
        name="joined-runs-at-the-end",
        breaks="D1, D11",
        plant=joined_runs_at_the_end,
        run={**SCENES, "scenes": "wide"},
        in_tasks=True,
    ),
    Bug(
        name="environment-handed-on",
        breaks="S4, S5",
        plant=environment_handed_on,
        run={**SCENES, "scenes": "peek"},
    ),
    Bug(
        name="environment-shown",
        breaks="S2, S5",
        plant=environment_shown,
        run={**SCENES, "scenes": "trespass"},
    ),
]
