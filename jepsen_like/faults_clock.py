"""Wall clocks that jump, drift and strobe. The monotonic clock is left alone, as on real machines."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, leader_of, master_of, worker_of
from jepsen_like.place import Place
from mr.errors import Error

_SHIFTED_S = 0.3  # the shim has heard of it
_LIVES_S = 5.0  # longer than a worker takes to be let in, or refused


class ClockFault(Fault):
    """The wall clock of one node is wrong, by the shim."""

    group: ClassVar[str] = "clock"
    hurt_s = (2.0, 8.0)
    needs: ClassVar[tuple[str, ...]] = ("shim",)
    cites: ClassVar[tuple[str, ...]] = ("FC21",)

    def __init__(self) -> None:
        self.id, self._struck = "", 0
        self._healed = threading.Event()
        self._thread: threading.Thread | None = None

    def victim(self, place: Place, rng: Random) -> str:
        """Whose clock: rather the leader's, whose time the others take over."""
        return rng.choice([leader_of, leader_of, master_of, worker_of])(place, rng)

    def path(self, rng: Random) -> tuple[list[float], float]:
        """The seconds by which it is wrong, one after the other (the last stays), and for how long each."""
        raise NotImplementedError

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self.id = self.victim(place, rng)
        offsets, every_s = self.path(rng)
        shim = place.shims[self.id]
        self._struck = -shim.count("clocks_shifted")

        def turn() -> None:
            for offset in offsets:
                shim.shift_clock(offset)
                if self._healed.wait(every_s):
                    return

        self._thread = threading.Thread(target=turn, daemon=True)
        self._thread.start()
        return {"node": self.id, "from_s": offsets[0], "to_s": offsets[-1]}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self._healed.set()
        if self._thread is None:
            return
        self._thread.join()
        place.shims[self.id].shift_clock(0.0)
        self._struck += place.shims[self.id].count("clocks_shifted")

    def proof(self, place: Place) -> dict[str, Any] | None:
        """How often the node was told a wrong time."""
        return {"node": self.id, "wrong answers": self._struck} if self._struck > 0 else None


class ClockJump(ClockFault):
    """An hour ahead or behind, or a day (FC21, FT20)."""

    name = "clock-jump"
    cites: ClassVar[tuple[str, ...]] = ("FC21", "FT20")

    def path(self, rng: Random) -> tuple[list[float], float]:
        """See ClockFault."""
        return [rng.choice([-86400.0, -3600.0, 3600.0, 86400.0])], 0.1


class ClockAtStart(ClockJump):
    """A worker starts when its clock is wrong by an hour, or a day, and right again later (FT20)."""

    name = "clock-at-start"
    cites = ("FT20",)

    def victim(self, place: Place, rng: Random) -> str:
        """See ClockFault."""
        return worker_of(place, rng)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault. It must come back: nothing rests on what its clock says."""
        done = super().hurt(place, rng)
        wrong_s = done["to_s"]
        with place.hold(self.id):  # nobody else ends it meanwhile
            # A disk that is full just then ends it too: its clock is to blame when it lives without, and not with it.
            if not (
                self._lives(place, wrong_s) or not self._lives(place, 0.0) or self._lives(place, wrong_s)
            ):
                told = place.server(self.id).log_tail(1)[:300]
                done["violation"] = f"{self.id} did not live with a wrong clock: {told}"
        return done

    def _lives(self, place: Place, shift_s: float) -> bool:
        """Starts it anew with a clock that is wrong by so much; whether it is still there when it has been let in."""
        place.shims[self.id].shift_clock(shift_s)
        time.sleep(_SHIFTED_S)
        place.kill(self.id)
        with suppress(Error):
            place.start(self.id, tries=1)
        deadline = time.monotonic() + _LIVES_S
        while place.server(self.id).alive and time.monotonic() < deadline:
            time.sleep(0.1)
        return place.server(self.id).alive


class ClockDrift(ClockFault):
    """Half as fast again, or half as fast (FC21)."""

    name = "clock-drift"

    def path(self, rng: Random) -> tuple[list[float], float]:
        """See ClockFault."""
        rate = rng.choice([-0.5, 0.5])
        return [rate * 0.05 * n for n in range(1, 400)], 0.05


class ClockStrobe(ClockFault):
    """Forth and back by 10 s, ten times a second (FC21)."""

    name = "clock-strobe"
    weight = 0.5

    def path(self, rng: Random) -> tuple[list[float], float]:
        """See ClockFault."""
        return [10.0, -10.0] * 100, 0.1


FAULTS: tuple[type[Fault], ...] = (ClockJump, ClockAtStart, ClockDrift, ClockStrobe)
