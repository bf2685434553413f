"""Carries out a schedule against a place, and writes down what was done, healed and proven.

Each step has a thread of its own, so that faults of different groups overlap as scheduled. Whatever happens, every fault
that began is healed before the storm ends, and every node that should run runs. A watcher notes who leads, from which
elections and the gaps between leaders are told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from random import Random
from typing import Any

from jepsen_like.fault import Fault
from jepsen_like.faults import FAULTS
from jepsen_like.history import History
from jepsen_like.nemesis import Step
from jepsen_like.place import Place

NEMESIS = "nemesis"


class Storm(threading.Thread):
    """Runs when started; `join` returns when all is healed. `stop` ends it early, healed all the same."""

    def __init__(self, place: Place, history: History, steps: Sequence[Step]) -> None:
        super().__init__(name="storm", daemon=True)
        self.proven: dict[str, int] = {}  # fault -> how often
        self.unproven: dict[str, int] = {}
        self.broken: list[str] = []  # hurts and heals that raised
        self._place, self._history, self._steps = place, history, list(steps)
        self._ending = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """The storm."""
        began = time.monotonic()
        threads = []
        for step in self._steps:
            if self._ending.wait(max(0.0, began + step.at_s - time.monotonic())):
                break
            thread = threading.Thread(
                target=self._step, args=(step,), name=f"storm-{step.fault}", daemon=True
            )
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        self._place.links.heal()
        for id in self._place.revive():
            if id.startswith("!"):
                self.broken.append(id)
            self._history.record(NEMESIS, "note", "revived", id)

    def stop(self) -> None:
        """Heals now what hurts, and begins nothing new."""
        self._ending.set()

    def _step(self, step: Step) -> None:
        fault = FAULTS[step.fault]()
        began = time.monotonic()
        number = self._history.record(NEMESIS, "note", "begins", step.fault)
        try:
            done = fault.hurt(self._place, Random(step.seed))
            self._history.record(NEMESIS, "hurt", step.fault, done, id=number)
            if "violation" in done:
                self.broken.append(f"{step.fault}: {done['violation']}")
            self._ending.wait(max(0.0, began + step.hurt_s - time.monotonic()))
        except Exception as error:  # whatever it was, the run goes on and heals
            self._fail(step, number, "hurt", error)
        finally:
            self._heal(fault, step, number)

    def _heal(self, fault: Fault, step: Step, number: int) -> None:
        try:
            fault.heal(self._place)
            self._history.record(NEMESIS, "heal", step.fault, id=number)
            proof = fault.proof(self._place)
        except Exception as error:
            self._fail(step, number, "heal", error)
            return
        with self._lock:
            counts = self.proven if proof else self.unproven
            counts[step.fault] = counts.get(step.fault, 0) + 1
        self._history.record(NEMESIS, "proof", step.fault, proof, id=number)

    def _fail(self, step: Step, number: int, what: str, error: Exception) -> None:
        with self._lock:
            self.broken.append(f"{what} of {step.fault}: {error!r}")
        self._history.record(NEMESIS, "note", f"{what} failed", f"{step.fault}: {error!r}", id=number)


class Watcher(threading.Thread):
    """Notes every change of leader, and every node that ends or comes back, until `stop`.

    Events of process "watcher", kind note: op "leader" with value {"id", "term"} or None; op "down" and "up" with node and
    value {"pid", "status"}.
    """

    def __init__(self, place: Place, history: History, every_s: float = 0.1) -> None:
        super().__init__(name="watcher", daemon=True)
        self._place, self._history, self._every_s = place, history, every_s
        self._ending = threading.Event()

    def run(self) -> None:
        """Watches."""
        led: Any = ()
        running: dict[str, int] = {}
        while not self._ending.wait(self._every_s):
            now = {id: server.pid for id, server in self._place.servers.items() if server.alive}
            for id in sorted(running.keys() | now.keys()):
                self._compare(id, running.get(id, 0), now.get(id, 0))
            running = now
            leader = self._place.leader()
            seen = {"id": leader.id, "term": leader.term} if leader else None
            if seen != led:
                self._history.record("watcher", "note", "leader", seen, node=leader.id if leader else "")
                led = seen

    def stop(self) -> None:
        """Ends it, and waits for that."""
        self._ending.set()
        self.join()

    def _compare(self, id: str, before: int, after: int) -> None:
        if before == after:
            return
        if before:
            process = self._place.server(id).process
            status = process.poll() if process and process.pid == before else None
            self._history.record("watcher", "note", "down", {"pid": before, "status": status}, node=id)
        if after:
            self._history.record("watcher", "note", "up", {"pid": after}, node=id)
