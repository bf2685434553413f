"""Wall clocks that jump, drift and strobe. The monotonic clock is left alone, as on real machines."""

from __future__ import annotations

import threading
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, master_of, worker_of
from jepsen_like.place import Place


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

    def path(self, rng: Random) -> tuple[list[float], float]:
        """The seconds by which it is wrong, one after the other (the last stays), and for how long each."""
        raise NotImplementedError

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self.id = master_of(place, rng) if rng.random() < 0.7 else worker_of(place, rng)
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
    cites = ("FC21", "FT20")

    def path(self, rng: Random) -> tuple[list[float], float]:
        """See ClockFault."""
        return [rng.choice([-86400.0, -3600.0, 3600.0, 86400.0])], 0.1


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


FAULTS: tuple[type[Fault], ...] = (ClockJump, ClockDrift, ClockStrobe)
