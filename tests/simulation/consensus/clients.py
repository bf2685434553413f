"""Clients of the simulated cluster: calls whose fate is recorded for the linearizability check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.applying import Proposal
from consensus.replica import CommitUnknown
from jepsen_like.linearizability import Operation
from tests.simulation.consensus.member import Member

if TYPE_CHECKING:
    from tests.simulation.consensus.world import World

GIVE_UP_S = 1.0  # a client waits this long for one answer


class Call:
    """A client's call: recorded for the linearizability check when it ends."""

    def __init__(self, world: World, member: Member, name: str, key: str, action: str, value: Any) -> None:
        self.world, self.member = world, member
        self.name, self.key, self.action, self.value = name, key, action, value
        self.invoked = world.clock
        self.over = False
        self.proposal: Proposal | None = None
        world.pending.append(self)
        world.at(GIVE_UP_S, self.give_up)

    def done(self) -> bool:
        return self.over

    def set_result(self, result: Any) -> None:
        if self.action == "read":
            result = self.member.machine.values.get(self.key)
        else:
            self.world.checker.acknowledged[self.name] = self.member.machine.index
        self.world.count("acknowledged")
        self._record(result, self.world.clock)

    def set_exception(self, error: Any) -> None:
        if isinstance(error, CommitUnknown):
            self.vanish()
            return
        self._end()
        if self.action != "read":
            self.world.checker.definitely_refused(self.name)

    def give_up(self) -> None:
        """The client's deadline: a command that no log has seen is withdrawn, any other is in doubt."""
        if self.over:
            return
        node = self.member.node
        if self.proposal is not None and self.member.alive and node.proposals.withdraw(self.proposal):
            self._end()
            self.world.checker.definitely_refused(self.name)
        else:
            self.vanish()

    def vanish(self) -> None:
        """No answer: it may have happened, or may yet."""
        if not self.over:
            self._record(None, None)

    def _record(self, result: Any, returned: float | None) -> None:
        self._end()
        if self.action == "read" and returned is None:
            return
        self.world.checker.operations.append(
            Operation(
                process=self.name,
                key=self.key,
                action=self.action,
                value=tuple(self.value) if self.action == "cas" else self.value,
                result=result,
                invoked=self.invoked,
                returned=returned,
            )
        )

    def _end(self) -> None:
        self.over = True
        self.world.pending.remove(self)


class Deaf:
    """Nobody waits for this."""

    def done(self) -> bool:
        return True

    def set_result(self, result: Any) -> None:
        pass

    def set_exception(self, error: Any) -> None:
        pass
