"""Processes that hang: there, but silent."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, Missed, follower_of, leader_of, worker_of
from jepsen_like.place import Place
from mr import guardian


class Pause(Fault):
    """SIGSTOP for 0.5 to 12 s: there, but silent (FC14)."""

    group: ClassVar[str] = "pause"
    hurt_s = (0.5, 12.0)

    def __init__(self) -> None:
        self.id, self.pid = "", 0
        self._tree: dict[int, str] = {}  # process -> its start time
        self._seen_s = 0.0
        self._healed = threading.Event()
        self._watch: threading.Thread | None = None

    def victim(self, place: Place, rng: Random) -> str:
        """Who is stopped."""
        raise NotImplementedError

    def whole_machine(self, rng: Random) -> bool:
        """Whether its tasks hang, too."""
        return rng.random() < 0.5

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self.id = self.victim(place, rng)
        if not place.server(self.id).alive:
            raise Missed(f"{self.id} is down")
        self.pid = place.kill(self.id, signal.SIGSTOP)["pid"]
        if self.whole_machine(rng):
            self._tree = {pid: guardian.started(pid) for pid in guardian.tree(self.pid)[1:]}
            for pid in self._tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
        self._watch = threading.Thread(target=self._measure, daemon=True)
        self._watch.start()
        return {"node": self.id, "pid": self.pid, "tasks": len(self._tree)}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self._healed.set()
        if self._watch:
            self._watch.join()
        for pid, birth in self._tree.items():
            if guardian.started(pid) == birth:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if self.id:
            place.kill(self.id, signal.SIGCONT)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Seconds for which the kernel said that it was stopped."""
        return {"pid": self.pid, "stopped_s": round(self._seen_s, 2)} if self._seen_s > 0 else None

    def _measure(self) -> None:
        last = time.monotonic()
        while not self._healed.wait(0.05):
            now = time.monotonic()
            if state_of(self.pid) == "T":
                self._seen_s += now - last
            last = now


class PauseLeader(Pause):
    """The leader hangs (FC14, FT26)."""

    name = "pause-leader"
    weight = 2.0
    cites = ("FC14", "FT26")

    def victim(self, place: Place, rng: Random) -> str:
        """See Pause."""
        return leader_of(place, rng)


class PauseFollower(Pause):
    """A follower hangs, and is behind when it goes on (FC15)."""

    name = "pause-follower"
    cites = ("FC15",)

    def victim(self, place: Place, rng: Random) -> str:
        """See Pause."""
        return follower_of(place, rng)


class PauseWorker(Pause):
    """A worker hangs, for less than its lease or more."""

    name = "pause-worker"
    cites: ClassVar[tuple[str, ...]] = ("FT19",)

    def victim(self, place: Place, rng: Random) -> str:
        """See Pause."""
        return worker_of(place, rng)


class Zombie(PauseWorker):
    """A worker hangs for longer than its lease; its attempts run elsewhere; then it goes on (FT4)."""

    name = "zombie-worker"
    hurt_s = (11.0, 14.0)
    cites = ("FT4", "FT5", "FD13")


def state_of(pid: int) -> str:
    """The kernel's letter for the state of a process; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


FAULTS: tuple[type[Fault], ...] = (
    PauseLeader,
    PauseFollower,
    PauseWorker,
    Zombie,
)
