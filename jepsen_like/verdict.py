"""What a checker may say: valid, invalid, or unknown. Unknown is a failed run; nothing is valid by default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """Of one checker, or of a whole run."""

    VALID = "valid"
    INVALID = "invalid"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One checker's answer: which invariants it speaks of, and for a violation the smallest excerpt that shows it."""

    checker: str
    outcome: Outcome
    invariants: tuple[str, ...] = ()  # ids of invariants.md, e.g. ("C11",)
    reason: str = ""
    excerpt: tuple[str, ...] = ()
    counted: dict[str, int] = field(default_factory=dict)  # how much evidence it has seen


def worst(verdicts: Iterable[Verdict]) -> Outcome:
    """One invalid spoils all; else one unknown does; a run without any verdict is unknown."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.INVALID in outcomes:
        return Outcome.INVALID
    return Outcome.VALID if outcomes == {Outcome.VALID} else Outcome.UNKNOWN
