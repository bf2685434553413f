"""Messages that come twice or late, and answers that are lost (FT6, FT7): what `replays` does inside the nodes."""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

from jepsen_like import replays
from jepsen_like.control import Rule
from jepsen_like.fault import Fault
from jepsen_like.place import Place


class MessageFault(Fault):
    """A rule in the pages of all masters, or of all workers; each message that it met counted there."""

    group: ClassVar[str] = "rpc"
    hurt_s = (4.0, 10.0)
    rule_number: ClassVar[int]
    of_masters: ClassVar[bool] = True

    def __init__(self) -> None:
        self._nodes: list[str] = []
        self._before = self._met = 0

    def rule(self, rng: Random) -> Rule:
        """How often, and how late."""
        raise NotImplementedError

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self._nodes = sorted(place.masters if self.of_masters else place.workers)
        self._before = self._count(place)
        rule = self.rule(rng)
        for id in self._nodes:
            place.controls[id].rule(self.rule_number, rule)
        return {"one of": rule.every, "late_s": rule.late_s}

    def heal(self, place: Place) -> None:
        """See Fault."""
        for id in self._nodes:
            place.controls[id].rule(self.rule_number, Rule(0))
        self._met = self._count(place) - self._before

    def proof(self, place: Place) -> dict[str, Any] | None:
        """How many messages were met."""
        return {"messages": self._met} if self._met > 0 else None

    def _count(self, place: Place) -> int:
        return sum(place.controls[id].met(self.rule_number) for id in self._nodes)


class ReportsTwice(MessageFault):
    """What workers say (heartbeats, results, failures) comes twice (FT6)."""

    name = "reports-twice"
    cites = ("FT6",)
    rule_number = replays.REPORTS
    of_masters = False

    def rule(self, rng: Random) -> Rule:
        """See MessageFault."""
        return Rule(rng.choice([1, 2, 3]))


class ReportsLate(ReportsTwice):
    """What workers say comes again seconds later, also in a newer session (FT6)."""

    name = "reports-late"

    def rule(self, rng: Random) -> Rule:
        """See MessageFault."""
        return Rule(rng.choice([1, 2, 3]), rng.choice([0.3, 1.5, 4.0]))


class OrdersTwice(MessageFault):
    """What the leader says to workers (assignments, settlements, map outputs, cancels) comes twice (FT6)."""

    name = "orders-twice"
    cites = ("FT6",)
    rule_number = replays.ORDERS

    def rule(self, rng: Random) -> Rule:
        """See MessageFault."""
        return Rule(rng.choice([1, 2, 3]))


class OrdersLate(OrdersTwice):
    """Assignments, settlements and cancels come again seconds later, perhaps after the job's end (FT6)."""

    name = "orders-late"

    def rule(self, rng: Random) -> Rule:
        """See MessageFault."""
        return Rule(rng.choice([1, 2]), rng.choice([0.3, 1.5, 4.0]))


class CallsTwice(MessageFault):
    """A client's submit, cancel or retry is carried out twice, at once or again seconds later (FT6)."""

    name = "calls-twice"
    cites = ("FT6",)
    rule_number = replays.CALLS

    def rule(self, rng: Random) -> Rule:
        """See MessageFault."""
        return Rule(rng.choice([1, 2]), rng.choice([0.0, 0.0, 1.5, 4.0]))


class RepliesLost(MessageFault):
    """A client's submit, cancel or retry is applied, and never answered (FT7, FT9)."""

    name = "replies-lost"
    cites = ("FT7", "FT9", "FT15")
    rule_number = replays.LOST_CALLS

    def rule(self, rng: Random) -> Rule:
        """See MessageFault."""
        return Rule(rng.choice([2, 3]))


class SettlementsLost(MessageFault):
    """A worker's result is applied, and the answer is lost with its stream (FT7)."""

    name = "settlements-lost"
    cites = ("FT7",)
    rule_number = replays.LOST_ORDERS

    def rule(self, rng: Random) -> Rule:
        """See MessageFault."""
        return Rule(rng.choice([2, 3, 5]))


FAULTS: tuple[type[Fault], ...] = (
    ReportsTwice,
    ReportsLate,
    OrdersTwice,
    OrdersLate,
    CallsTwice,
    RepliesLost,
    SettlementsLost,
)
