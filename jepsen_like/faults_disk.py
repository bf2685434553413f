"""Disks that are slow, full, failing or read-only."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from jepsen_like.fault import Fault, Missed, leader_of, master_of, worker_of
from jepsen_like.place import Place

_CATCH_UP_S = 45.0
_STRIKES_S = 3.0


class DiskFault(Fault):
    """One group: never are the disks of two masters hurt at once, except by the faults that say so."""

    group: ClassVar[str] = "disk"
    hurt_s = (2.0, 6.0)


class Shimmed(DiskFault):
    """What the preloaded shim does to one node; it counts what it did. A node that ended over it is started again."""

    needs: ClassVar[tuple[str, ...]] = ("shim",)
    counter: ClassVar[str]

    def __init__(self) -> None:
        self.id, self.struck = "", 0
        self.status: int | None = None

    def victim(self, place: Place, rng: Random) -> str:
        """Whose disk."""
        return leader_of(place, rng) if rng.random() < 0.5 else master_of(place, rng)

    def set(self, place: Place, rng: Random) -> dict[str, Any]:
        """Begins it on `self.id`."""
        raise NotImplementedError

    def clear(self, place: Place) -> None:
        """Ends it."""
        raise NotImplementedError

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self.id = self.victim(place, rng)
        if not place.server(self.id).alive:
            raise Missed(f"{self.id} is down")
        self.struck = -place.shims[self.id].count(self.counter)
        return {"node": self.id, **self.set(place, rng)}

    def heal(self, place: Place) -> None:
        """See Fault."""
        if not self.id:
            return
        self.struck += place.shims[self.id].count(self.counter)
        self.clear(place)
        process = place.server(self.id).process
        self.status = process.poll() if process else None
        place.start(self.id)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """How often the shim struck, and how the process ended if it did."""
        return {self.counter: self.struck, "exit": self.status} if self.struck > 0 else None


class SlowFsync(Shimmed):
    """Every fsync of a master takes 50 to 500 ms longer (FC16)."""

    name = "slow-fsync"
    counter = "syncs_delayed"
    cites = ("FC16",)

    def set(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Shimmed."""
        seconds = rng.choice([0.05, 0.3, 0.5])
        place.shims[self.id].delay_syncs(seconds)
        return {"fsync_s": seconds}

    def clear(self, place: Place) -> None:
        """See Shimmed."""
        place.shims[self.id].delay_syncs(0)


class FsyncError(Shimmed):
    """fsync of a master fails with EIO (FC17)."""

    name = "fsync-eio"
    counter = "syncs_failed"
    cites = ("FC17",)

    def set(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Shimmed."""
        place.shims[self.id].fail_syncs(errno.EIO)
        return {}

    def clear(self, place: Place) -> None:
        """See Shimmed."""
        place.shims[self.id].fail_syncs(0)


class MasterDiskFull(Shimmed):
    """Writes of a master fail with ENOSPC (FC17)."""

    name = "master-disk-full"
    counter = "writes_failed"
    cites = ("FC17",)

    def set(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Shimmed."""
        place.shims[self.id].fail_writes(errno.ENOSPC)
        return {}

    def clear(self, place: Place) -> None:
        """See Shimmed."""
        place.shims[self.id].fail_writes(0)


class WorkerReadError(Shimmed):
    """Reads of a worker's scratch fail with EIO (FD11)."""

    name = "worker-read-eio"
    counter = "reads_failed"
    cites = ("FD11",)

    def victim(self, place: Place, rng: Random) -> str:
        """See Shimmed."""
        return worker_of(place, rng)

    def set(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Shimmed."""
        place.shims[self.id].fail_reads(errno.EIO)
        return {}

    def clear(self, place: Place) -> None:
        """See Shimmed."""
        place.shims[self.id].fail_reads(0)


class WorkerDiskFull(DiskFault):
    """The scratch of a worker has no byte left (FD8). It lies on a small tmpfs."""

    name = "worker-disk-full"
    needs = ("tmpfs",)
    cites = ("FD8",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        id, self._folder = next(iter(place.small.items()))
        self._ballast = self._folder / ".ballast"
        self._free: int | None = None
        return {"node": id, "filled": _fill(self._ballast)}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self._free = os.statvfs(self._folder).f_bavail
        self._ballast.unlink(missing_ok=True)
        place.start(next(iter(place.small)))

    def proof(self, place: Place) -> dict[str, Any] | None:
        """No block was free when it healed."""
        return {"free blocks": self._free} if self._free is not None and self._free < 64 else None


class WorkerInodesFull(WorkerDiskFull):
    """The scratch of a worker has no inode left (FD8)."""

    name = "worker-inodes-full"

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        id, self._folder = next(iter(place.small.items()))
        self._ballast = self._folder / ".ballast"
        self._free: int | None = None
        self._ballast.mkdir(exist_ok=True)
        made = 0
        try:
            while True:
                (self._ballast / str(made)).touch()
                made += 1
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        return {"node": id, "files": made}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self._free = os.statvfs(self._folder).f_favail
        shutil.rmtree(self._ballast, ignore_errors=True)
        place.start(next(iter(place.small)))


class OutputDiskFull(DiskFault):
    """Where all jobs publish there is no byte left: nobody can write an output, a marker or a new staging place
    (FD9). What runs waits or tries again, and nothing half is ever seen."""

    name = "output-disk-full"
    needs = ("tmpfs",)
    cites = ("FD9", "D4", "D5")

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        if place.outputs is None:
            raise Missed("outputs lie on the disk of everybody")
        self._folder = place.outputs
        self._ballast = self._folder / ".ballast"
        self._free: int | None = None
        filled = _fill(self._ballast)
        return {"filled": filled}

    def heal(self, place: Place) -> None:
        """See Fault."""
        if place.outputs is not None:
            self._free = os.statvfs(self._folder).f_bavail
            self._ballast.unlink(missing_ok=True)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """No block was free when it healed."""
        return {"free blocks": self._free} if self._free is not None and self._free < 64 else None


class WorkerReadOnly(Shimmed):
    """Writes to a worker's scratch fail with EROFS, as after the kernel gave up on a disk (FC18).

    Not by a remount: that is refused while a file is open for writing, and one always is."""

    name = "worker-read-only"
    counter = "writes_failed"
    cites = ("FC18", "FD8")

    def victim(self, place: Place, rng: Random) -> str:
        """See Shimmed."""
        return worker_of(place, rng)

    def set(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Shimmed."""
        place.shims[self.id].fail_writes(errno.EROFS)
        return {}

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault. A worker that gets no work, as one that is excluded, writes nothing: then nobody is hurt."""
        done = super().hurt(place, rng)
        deadline = time.monotonic() + _STRIKES_S
        while self.struck + place.shims[self.id].count(self.counter) <= 0:
            if time.monotonic() > deadline:
                raise Missed(f"{self.id} wrote nothing for {_STRIKES_S:.0f} s")
            time.sleep(0.05)
        return done

    def clear(self, place: Place) -> None:
        """See Shimmed."""
        place.shims[self.id].fail_writes(0)


class MasterReadOnly(DiskFault):
    """The state of a master can be read but not written (FC18)."""

    name = "master-read-only"
    needs = ("lossy",)
    cites = ("FC18",)

    def hurt(self, place: Place, rng: Random) -> dict[str, Any]:
        """See Fault."""
        self._id = leader_of(place, rng) if rng.random() < 0.5 else master_of(place, rng)
        self._refused = -place.disks[self._id].lost()["refused"]
        place.disks[self._id].read_only(True)
        return {"node": self._id}

    def heal(self, place: Place) -> None:
        """See Fault."""
        self._refused += place.disks[self._id].lost()["refused"]
        place.disks[self._id].read_only(False)
        place.start(self._id)

    def proof(self, place: Place) -> dict[str, Any] | None:
        """Changes that the file system refused."""
        return {"refused": self._refused} if self._refused > 0 else None


def _fill(ballast: Path) -> int:
    """Writes `ballast` until there is no room; how many bytes that took. Raises OSError for any other trouble."""
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return ballast.stat().st_size


FAULTS: tuple[type[Fault], ...] = (
    SlowFsync,
    FsyncError,
    MasterDiskFull,
    WorkerReadError,
    WorkerDiskFull,
    WorkerInodesFull,
    OutputDiskFull,
    WorkerReadOnly,
    MasterReadOnly,
)
