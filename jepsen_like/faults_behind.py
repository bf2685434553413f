"""One master loses what another one never had: what was acknowledged is then in the hands of those who are away.

The only ones that run are too few to know it, and enough to elect somebody: they must not, until one who has everything
is back.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from jepsen_like import flood
from jepsen_like.fault import Missed, follower_of, leader_of
from jepsen_like.faults_disk import DiskFault
from jepsen_like.faults_state import await_together
from jepsen_like.place import Place
from mr.errors import Error

_ENTRIES = 60
_WRITE_S = 4.0
_TOGETHER_S = 20.0
_WATERMARK_S = 2.0  # until a log knows on disk how far it reached: a second, on a busy machine


class _Behind(DiskFault):
    """Some followers are down while entries are acknowledged, so that the others just make a majority. Then those go,
    and one of them comes back with less, among those that were behind."""

    hurt_s = (2.5, 4.5)  # longer than an election
    masters = 3
    cites: ClassVar[tuple[str, ...]] = ("FC20",)

    def __init__(self) -> None:
        self._down: list[str] = []
        self.victim = ""
        self.taken: dict[str, Any] = {}
        self.refused = ""

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        await_together(place)
        self.victim = victim = follower_of(place, rng)
        leader = leader_of(place, rng)
        others = [id for id in sorted(place.masters) if id not in (victim, leader)]
        behind = rng.sample(others, (len(place.masters) - 1) // 2)
        for id in behind:
            self._away(place, id)
        before = self.look(place.server(victim).data_dir)
        answered = flood.write(place, _ENTRIES, _WRITE_S)
        time.sleep(_WATERMARK_S)
        if not answered:
            raise Missed("nothing was acknowledged meanwhile")
        for id in sorted(set(place.masters) - {victim, *behind}):
            self._away(place, id)
        with place.hold(victim):  # nobody else brings it back meanwhile
            self._away(place, victim)
            self.take(place, victim, before)
        for id in behind:
            place.start(id)
        return {"node": victim, "behind": behind, "answered": answered, "taken": self.taken}

    def _away(self, place: Place, id: str) -> None:
        self._down.append(id)
        place.kill(id)

    def look(self, folder: Path) -> tuple[Path, int] | None:
        """What of the victim's folder must be known before the entries come."""

    def take(self, place: Place, id: str, before: tuple[Path, int] | None) -> None:
        """What a dead master loses; it runs again afterwards, one way or the other."""
        raise NotImplementedError

    def heal(self, place: Place) -> None:
        """See Fault."""
        for id in self._down:
            place.start(id)
        await_together(place, _TOGETHER_S)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """What was lost, and what the member said to it."""
        return {"taken": self.taken, "refused": self.refused} if self.taken else None


class ShorterLog(_Behind):
    """The log of a stopped master ends earlier than it once did: acknowledged entries are gone from it (FC20, C8).

    It refuses to start, and gets a new disk; it comes back without a vote."""

    name = "shorter-log"

    def look(self, folder: Path) -> tuple[Path, int] | None:
        """See _Behind: the end of the newest write-ahead log."""
        files = sorted((folder / "raft" / "log" / "rocks").glob("*.log"))
        return (files[-1], files[-1].stat().st_size) if files else None

    def take(self, place: Place, id: str, before: tuple[Path, int] | None) -> None:
        """See _Behind."""
        now = self.look(place.server(id).data_dir)
        if before is None or now is None or now[0] != before[0] or now[1] <= before[1]:
            raise Missed("the log went on in another file")
        with now[0].open("r+b") as file:
            file.truncate(before[1])
        self.taken = {"file": str(now[0]), "bytes": now[1] - before[1]}
        with suppress(Error):  # it may refuse at once
            place.start(id, tries=1)

    def heal(self, place: Place) -> None:
        """See Fault."""
        for id in self._down:
            if id != self.victim:
                place.start(id)
        try:
            self._bring_back(place)
        except Error:  # it may have taken its time to refuse
            if not self.taken or place.server(self.victim).alive:
                raise
            self._bring_back(place)

    def _bring_back(self, place: Place) -> None:
        victim = place.server(self.victim) if self.taken else None
        if victim and not victim.alive:
            self.refused = victim.log_tail(1)[:300]
            place.replace(victim.id)
        elif self.victim:
            place.start(self.victim)
        await_together(place, _TOGETHER_S)


class EarlyReplacement(_Behind):
    """A master comes back on an empty disk when those that have everything are away (FC20, C2, C8)."""

    name = "early-replacement"

    def take(self, place: Place, id: str, before: tuple[Path, int] | None) -> None:
        """See _Behind."""
        folder = place.server(id).data_dir
        self.taken = {"file": str(folder), "files": sum(path.is_file() for path in folder.rglob("*"))}
        place.replace(id)


FAULTS: tuple[type[DiskFault], ...] = (ShorterLog, EarlyReplacement)
