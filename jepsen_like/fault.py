"""What a fault is: it hurts, it heals, and it proves that it bit.

A fault object lives for one step of a schedule. `hurt` says what it did, `heal` undoes it and always succeeds or
raises, `proof` is asked after the heal and gives evidence measured from outside (packets counted, a process that died,
bytes lost), or None: then the step proves nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import Any, ClassVar

from jepsen_like.nemesis import Kind
from jepsen_like.place import Place


class Fault(ABC):
    """One step. Class attributes are what the schedule and the report need."""

    name: ClassVar[str]
    group: ClassVar[str]  # faults of one group never overlap
    hurt_s: ClassVar[tuple[float, float]] = (2.0, 6.0)
    weight: ClassVar[float] = 1.0
    needs: ClassVar[tuple[str, ...]] = ()  # abilities of the place
    masters: ClassVar[int] = 1  # at least so many
    cites: ClassVar[tuple[str, ...]] = ()  # ids of the fault catalogue

    @abstractmethod
    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """Begins. Returns what was done to whom."""

    @abstractmethod
    def heal(self, place: Place) -> None:
        """Ends, whatever the hurt did or did not do."""

    @abstractmethod
    def proof(self, place: Place) -> dict[str, Any] | None:
        """Evidence that it bit, asked once after `heal`; None when there is none."""

    @classmethod
    def kind(cls) -> Kind:
        """For the schedule."""
        return Kind(name=cls.name, group=cls.group, hurt_s=cls.hurt_s, weight=cls.weight)

    @classmethod
    def impossible(cls, place: Place) -> str:
        """Why it cannot be done at `place`; "" when it can."""
        for need in cls.needs:
            if place.abilities[need]:
                return f"needs {need}: {place.abilities[need]}"
        if len(place.masters) < cls.masters:
            return f"needs {cls.masters} masters"
        return ""


def leader_of(place: Place, rng: Random) -> str:
    """Who leads, or anyone when nobody is known to."""
    leader = place.leader()
    return leader.id if leader else rng.choice(sorted(place.masters))


def follower_of(place: Place, rng: Random) -> str:
    """A master that does not lead."""
    leader = leader_of(place, rng)
    return rng.choice([id for id in sorted(place.masters) if id != leader] or [leader])


def worker_of(place: Place, rng: Random) -> str:
    """Any worker."""
    return rng.choice(sorted(place.workers))
