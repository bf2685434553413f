"""What a fault is: it hurts, it heals, and it proves that it bit.

A fault object lives for one step of a schedule. `hurt` says what it did, `heal` undoes it and always succeeds or
raises, `proof` is asked after the heal and gives evidence measured from outside (packets counted, a process that died,
bytes lost), or None: then the step proves nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from random import Random
from typing import Any, ClassVar

from jepsen_like.nemesis import Kind
from jepsen_like.place import Place


class Missed(Exception):
    """There was nobody to hurt: every victim was down already, or what should be damaged did not exist."""


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
        """Begins. Returns what was done to whom. Raises Missed."""

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
    """Who leads, or any master when nobody is known to."""
    leader = place.leader()
    return leader.id if leader else master_of(place, rng)


def master_of(place: Place, rng: Random) -> str:
    """Any master, rather one that lives."""
    return _any_of(place, place.masters, rng)


def follower_of(place: Place, rng: Random) -> str:
    """A master that does not lead, rather one that lives."""
    leader = leader_of(place, rng)
    return _any_of(place, [id for id in place.masters if id != leader] or [leader], rng)


def worker_of(place: Place, rng: Random) -> str:
    """Any worker, rather one that lives."""
    return _any_of(place, place.workers, rng)


def _any_of(place: Place, ids: Collection[str], rng: Random) -> str:
    return rng.choice(sorted(id for id in ids if place.server(id).alive) or sorted(ids))
