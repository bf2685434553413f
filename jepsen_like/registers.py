"""The register-like workload: several clients at once ask for, end, and read the same few jobs (C10, C11).

Each register is a job id. All clients know the same prepared job, so any of them may be the one that makes it; each
draws what it does next from the seed. A request id is also tried under another job's name: it must answer with the
first one and make nothing (C10).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from jepsen_like import tasks
from jepsen_like.clients import SECRET, cancel, recorded, status
from jepsen_like.history import History
from jepsen_like.workloads import Work, write_inputs
from mr import output, submit
from mr.client import Client
from mr.errors import TaskFailure

if TYPE_CHECKING:
    from mr.rpc.job_pb2 import JobSpec

CLIENTS = 3
TURNS = 9  # of each client at one register


class Registers(threading.Thread):
    """Plays register after register until `until` (monotonic seconds)."""

    def __init__(
        self, connect: Callable[..., Client], seed: int, home: Path, history: History, every_s: float = 6.0
    ) -> None:
        super().__init__(name="registers", daemon=True)
        self._connect, self._seed, self._home, self._history = connect, seed, home, history
        self._every_s = every_s
        self.until = float("inf")

    def run(self) -> None:
        """See the class."""
        work = Work(
            id="register", shape="tiny", at_s=0, seed=self._seed, files=1, lines=5, reduces=1, map_s=0.5
        )
        write_inputs(work, self._home / "in" / work.id)
        file = self._home / "jobs" / "register.py"
        file.write_text(tasks.source("tiny"))
        prepared = submit.prepare(
            submit.Request(
                job_file=file,
                inputs=(str(self._home / "in" / work.id),),
                output=str(self._home / "out" / "register"),
                flags={
                    "name": "register",
                    "reduces": 1,
                    "env": {
                        "CHAOS_MARKS": str(self._home / "marks"),
                        "CHAOS_MAP_S": "0.5",
                        "CHAOS_SECRET": SECRET,
                    },
                },
            )
        )
        number = 0
        while time.monotonic() < self.until:
            self._play(prepared, number)
            number += 1
            time.sleep(max(0.0, min(self._every_s / 2, self.until - time.monotonic())))

    def _play(self, prepared: submit.Prepared, number: int) -> None:
        """One register: every client takes its turns."""
        spec = type(prepared.spec)()
        spec.CopyFrom(prepared.spec)
        spec.job_id = f"register-{number:03d}"
        spec.output.path = str(self._home / "out" / spec.job_id)
        try:
            output.prepare_staging(spec)
        except TaskFailure as full:  # the disk that all publish on
            self._history.record("registers", "note", "no register", str(full))
            return
        with (
            self._connect(timeout=5.0) as client,
            recorded(self._history, "registers", "blobs", spec.job_id) as stored,
        ):
            submit.put_blob(client.calls, prepared.bundle)
            submit.put_blob(client.calls, prepared.plan.SerializeToString(deterministic=True))
            stored.answer = True
        if not stored.answer:
            output.cleanup(spec)
            return
        players = [
            threading.Thread(target=self._turns, args=(spec, number, player), daemon=True)
            for player in range(CLIENTS)
        ]
        for thread in players:
            thread.start()
        for thread in players:
            thread.join(60)

    def _turns(self, spec: JobSpec, number: int, player: int) -> None:
        rng = Random(f"register {self._seed} {number} {player}")
        name = f"register-{player}"
        with self._connect(timeout=3.0) as client:
            for turn in range(TURNS):
                draw = rng.random()
                if draw < 0.3 or (turn == 0 and player == 0):
                    self._submit(client, name, spec, spec.job_id)
                elif draw < 0.4:
                    self._submit(client, name, spec, f"{spec.job_id}-other")
                elif draw < 0.5 and turn > 1:
                    cancel(self._history, client, name, spec.job_id)
                else:
                    status(self._history, client, name, spec.job_id)
                time.sleep(rng.uniform(0, 0.25))

    def _submit(self, client: Client, name: str, spec: JobSpec, asked: str) -> None:
        """Under the register's one request id; `asked` may be another job: the request id decides."""
        from mr.rpc.cluster_pb2 import SubmitRequest

        mine = type(spec)()
        mine.CopyFrom(spec)
        mine.job_id = asked
        mine.output.path += "" if asked == spec.job_id else "-other"
        op = "submit" if asked == spec.job_id else "again"
        value = {"job": spec.job_id, "asked": asked, "request": f"request-{spec.job_id}"}
        if op == "again" and not self._made(spec.job_id):
            return  # the first of a request id decides; only then another name proves anything
        with recorded(self._history, name, op, value) as call:
            reply = client.calls.call("Submit", SubmitRequest(spec=mine, request_id=value["request"]))
            call.answer = {"job": reply.job, "existed": reply.existed, "index": reply.index}

    def _made(self, job: str) -> bool:
        return any(
            event.op == "submit" and event.kind == "ok" and event.value["job"] == job
            for event in reversed(self._history.events)
        )
