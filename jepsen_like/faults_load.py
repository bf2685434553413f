"""What is lost, late or too much: a worker's disk, ten thousand entries, processor time, connections."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from jepsen_like import descriptors, flood
from jepsen_like.cpu import Share
from jepsen_like.fault import Fault, Missed, follower_of, leader_of, worker_of
from jepsen_like.links import GRPC, RAFT
from jepsen_like.place import Place

_KEPT = "journal"  # a worker's record of its attempts: evidence of the harness, and nothing reads it there


class WorkerDiskLost(Fault):
    """A worker dies, and comes back with an empty disk: map outputs, identity and scratch are gone (FD1, FD22)."""

    name = "worker-disk-lost"
    group: ClassVar[str] = "disk"
    hurt_s = (0.2, 3.0)
    cites = ("FD1", "FD22", "FT21")

    def __init__(self) -> None:
        self._death: dict[str, Any] = {}
        self._files = 0

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        id = worker_of(place, rng)
        with place.hold(id):
            self._death = place.kill(id)
            if not self._death["lived"]:
                raise Missed(f"{id} is down")
            folder = place.server(id).work_dir
            self._files = sum(path.is_file() for path in folder.rglob("*"))
            _empty(folder)
        return {**self._death, "files": self._files}

    def heal(self, place: Place) -> None:
        """See Fault."""
        if self._death:
            place.start(self._death["node"])

    def proof(self, place: Place) -> dict[str, Any] | None:
        """The process died, and files went with it."""
        if self._death.get("status") != -signal.SIGKILL or not self._files:
            return None
        return {"kills": 1, "files": self._files}


class FarBehind(Fault):
    """A follower is away, dead or stopped, while 10,000 entries are written: only a snapshot helps (FC15, FC26)."""

    name = "far-behind"
    group: ClassVar[str] = "process"
    hurt_s = (0.2, 1.0)
    weight = 0.1
    masters = 3
    cites = ("FC15", "FC26", "T15")
    entries: ClassVar[int] = 10_000
    seconds: ClassVar[float] = 90.0

    def __init__(self) -> None:
        self._id = ""
        self._before = self._written = 0
        self._stopped = False
        self._caught_up: dict[str, Any] = {}

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self._id = follower_of(place, rng)
        row = place.cluster.ask(place.server(self._id), 1.0)
        if row is None:
            raise Missed(f"{self._id} is down")
        self._before, self._stopped = row.applied, rng.random() < 0.5
        with place.hold(self._id):
            place.kill(self._id, signal.SIGSTOP if self._stopped else signal.SIGKILL)
            self._written = flood.write(place, self.entries, self.seconds)
        return {"node": self._id, "stopped": self._stopped, "at": self._before, "entries": self._written}

    def heal(self, place: Place) -> None:
        """See Fault. Returns when it has what was written, or after a while."""
        if not self._id:
            return
        if self._stopped:
            place.kill(self._id, signal.SIGCONT)
        place.start(self._id)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not self._caught_up:
            row = place.cluster.ask(place.server(self._id), 1.0)
            if row is not None and row.applied >= self._before + self._written:
                self._caught_up = {"applied": row.applied, "snapshot": row.snapshot_index}
            time.sleep(0.2)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """It has applied what was written while it was away, from a snapshot that it had not."""
        done = self._caught_up and self._caught_up["snapshot"] > self._before and self._written
        return {"entries": self._written, **self._caught_up} if done else None


class Starved(Fault):
    """A worker with all its tasks gets a few hundredths of a processor: a straggler (FT19)."""

    name = "worker-starved"
    group: ClassVar[str] = "cpu"
    hurt_s = (3.0, 10.0)
    needs = ("cpu",)
    cites = ("FT19",)
    shares: ClassVar[tuple[float, ...]] = (0.03, 0.05, 0.1)

    def __init__(self) -> None:
        self._share: Share | None = None
        self._throttled = 0

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        id = worker_of(place, rng)
        if not place.server(id).alive:
            raise Missed(f"{id} is down")
        share = rng.choice(self.shares)
        self._share = Share(place.marker, id)
        count = self._share.take(place.server(id).pid, share)
        return {"node": id, "share": share, "processes": count}

    def heal(self, place: Place) -> None:
        """See Fault."""
        if self._share is not None:
            self._throttled = self._share.throttled()
            self._share.give_back()

    def proof(self, place: Place) -> dict[str, Any] | None:
        """How often the kernel made it wait."""
        return {"throttled": self._throttled} if self._throttled else None


class ConnectionFlood(Fault):
    """Thousands of connections that say nothing, to both ports of a master (FC30)."""

    name = "connection-flood"
    group: ClassVar[str] = "hostile"
    hurt_s = (3.0, 8.0)
    needs = ("netns",)
    cites = ("FC30", "S6")
    most: ClassVar[int] = 4_000  # open at once, on each port

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._opened = {GRPC: 0, RAFT: 0}

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        descriptors.allow(3 * self.most)
        id = leader_of(place, rng)
        for port in self._opened:
            thread = threading.Thread(target=self._open, args=(place.addresses[id], port), daemon=True)
            thread.start()
            self._threads.append(thread)
        return {"node": id, "ports": list(self._opened), "at once": self.most}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Connections that the node's kernel took."""
        return {"connections": self._opened} if min(self._opened.values()) > self.most // 4 else None

    def _open(self, address: str, port: int) -> None:
        """Opens connection after connection; the oldest go when there are too many."""
        held: list[socket.socket] = []
        while not self._over.is_set():
            try:
                held.append(socket.create_connection((address, port), timeout=0.5))
                self._opened[port] += 1
            except OSError:
                self._over.wait(0.01)
            if len(held) >= self.most:
                for connection in held[: self.most // 4]:
                    connection.close()
                del held[: self.most // 4]
        for connection in held:
            connection.close()


def _empty(folder: Path) -> None:
    """Removes what is in it but the worker's record; tasks that die just now may still write."""
    for _ in range(50):
        left = [entry for entry in folder.iterdir() if not entry.name.startswith(_KEPT)]
        if not left:
            return
        for entry in left:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    entry.unlink()
        time.sleep(0.02)


FAULTS: tuple[type[Fault], ...] = (WorkerDiskLost, FarBehind, Starved, ConnectionFlood)
