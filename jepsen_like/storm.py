"""Carries out a schedule against a place, and writes down what was done, healed and proven.

Each step has a thread of its own, so that faults of different groups overlap as scheduled. Whatever happens, every
fault that began is healed before the storm ends, and every node that should run runs.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from random import Random

from jepsen_like.fault import Fault, Missed
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
        self._groups: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

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
        with self._groups[
            fault.group
        ]:  # a hurt may take longer than planned; groups never overlap all the same
            if not self._ending.is_set():
                self._carry_out(fault, step)

    def _carry_out(self, fault: Fault, step: Step) -> None:
        number = self._history.record(NEMESIS, "note", "begins", step.fault)
        missed = False
        try:
            done = fault.hurt(self._place, Random(step.seed))
            self._history.record(NEMESIS, "hurt", step.fault, done, id=number)
            if "violation" in done:
                self.broken.append(f"{step.fault}: {done['violation']}")
            self._ending.wait(step.hurt_s)
        except Missed as nobody:
            self._history.record(NEMESIS, "note", "missed", f"{step.fault}: {nobody}", id=number)
            missed = True
        except Exception as error:  # whatever it was, the run goes on and heals
            self._fail(step, number, "hurt", error)
        finally:
            self._heal(fault, step, number, missed=missed)

    def _heal(self, fault: Fault, step: Step, number: int, *, missed: bool) -> None:
        try:
            self._history.record(NEMESIS, "note", "heals", step.fault, id=number)
            fault.heal(self._place)
            if missed:
                return
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
