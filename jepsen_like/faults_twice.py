"""Two processes where there must be one: on one disk, or under one name."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from jepsen_like.control import Control
from jepsen_like.fault import Fault, Missed, follower_of, worker_of
from jepsen_like.links import DATA
from jepsen_like.place import Place
from mr.processes import Server

_REFUSES_S = 60.0  # on a machine with far more work than processors
_JOINS_S = 15.0


class DoubleStart(Fault):
    """A second process on the state of a living master: it must refuse (FC25)."""

    name = "double-start"
    group = "process"
    hurt_s = (0.1, 0.5)
    weight = 0.5
    cites = ("FC25",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        id = follower_of(place, rng)
        server = place.server(id)
        self._status: int | None = None
        first, deadline = server.pid, time.monotonic() + _REFUSES_S
        with tempfile.TemporaryFile() as said:
            second = subprocess.Popen(server.argv, env=dict(server.env), stdout=said, stderr=said)
            try:
                while second.poll() is None and time.monotonic() < deadline:
                    if not server.alive or server.pid != first:
                        raise Missed(f"{id} died of another fault: its state was free to take")
                    time.sleep(0.05)
            finally:
                if second.poll() is None:
                    second.kill()
                    second.wait()
                    self._status = None
                else:
                    self._status = second.returncode
            if self._status is None:
                return {"node": id, "violation": "a second process on one state directory went on running"}
            said.seek(0)
            return {"node": id, "status": self._status, "said": said.read().decode(errors="replace")[-300:]}

    def heal(self, place: Place) -> None:
        """See Fault."""

    def proof(self, place: Place) -> dict[str, Any] | None:
        """How the second one ended."""
        return {"status": self._status} if self._status else None


class WorkerTwin(Fault):
    """A second worker takes the name of a living one, from another disk: the first must go, and nothing of it count
    (FT21)."""

    name = "worker-twin"
    group = "process"
    hurt_s = (2.0, 6.0)
    weight = 0.5
    needs = ("netns",)
    cites = ("FT21", "C12", "T5")

    def __init__(self) -> None:
        self._server: Server | None = None
        self._twin: subprocess.Popen[bytes] | None = None
        self._home = Path()
        self._joined = False
        self._first: int | None = None  # how the first one ended

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        id = worker_of(place, rng)
        server = self._server = place.server(id)
        if not server.alive:
            raise Missed(f"{id} is down")
        process = server.process
        self._home = Path(tempfile.mkdtemp(prefix="twin-", dir=server.home))
        with contextlib.closing(Control(self._home / "control")):
            pass
        with (self._home / "log").open("wb") as said:
            self._twin = subprocess.Popen(
                self._command(place), env=dict(server.env), stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        deadline = time.monotonic() + _JOINS_S
        while time.monotonic() < deadline and self._twin.poll() is None and not self._joined:
            self._joined = b'"joined"' in self._journal
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._first = process.wait(_JOINS_S) if self._joined and process is not None else None
        return {"node": id, "pid": server.pid, "twin": self._twin.pid, "joined": self._joined}

    @property
    def _journal(self) -> bytes:
        file = self._home / "work" / "journal.jsonl"
        return file.read_bytes() if file.exists() else b""

    def _command(self, place: Place) -> list[str]:
        """That of the first, with a disk, a port and a page of its own."""
        assert self._server is not None  # hurt begins with it
        argv = list(self._server.argv)
        address = place.addresses[self._server.id]
        for flag, value in {
            "jepsen_like.failpoints": str(self._home / "control"),
            "--work-dir": str(self._home / "work"),
            "--listen": f"{address}:{DATA + 1}",
            "--advertise": f"{address}:{DATA + 1}",
        }.items():
            argv[argv.index(flag) + 1] = value
        return argv

    def heal(self, place: Place) -> None:
        """See Fault. What the twin did belongs to the story of its name. A first one that still lives may only not
        have heard yet that it must go: it makes room too."""
        if self._server is None or self._twin is None:
            return
        self._twin.kill()
        self._twin.wait()
        with place.hold(self._server.id), (self._server.work_dir / "journal.jsonl").open("ab") as journal:
            journal.write(self._journal)
        shutil.rmtree(self._home, ignore_errors=True)
        if self._joined:
            place.kill(self._server.id)
        place.start(self._server.id)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """The twin was let in, and the first one went by itself."""
        went = self._first is not None and self._first != -signal.SIGKILL
        return {"status": self._first, "kills": 1} if self._joined and went else None


FAULTS: tuple[type[Fault], ...] = (DoubleStart, WorkerTwin)
