"""The directory of one member: whose it is, who uses it now, and who may read it.

    lock        held while a process uses the directory
    identity    who lives here, of which cluster; written last when the directory is made
    log/        consensus/journal.py
    snapshots/  consensus/snapshots.py

The law: a directory is either empty, or wholly what its identity says, or the member refuses to start. That
an identity exists means that a log exists; so a log that is gone is damage and never taken for a new one
(FC20).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from consensus.handshake import Disk, is_newer
from consensus.journal import Journal, damaged
from consensus.replica import RefusedToStart
from consensus.rocks import RocksStore
from consensus.snapshots import SnapshotStore, sync_directory

FORMAT = 1
"""Of the whole directory. A release reads its own and older ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who lives in a directory. `cluster_id` is empty until a cluster was founded or joined."""

    member: str
    members: tuple[str, ...]
    nonce: int  # drawn once for this directory: tells this disk from one that replaces it
    cluster_id: str = ""
    founders: Mapping[str, int] = field(default_factory=dict)  # the nonces that founded the cluster
    born: int = 0  # wall clock when the directory was made, ns: a replacement's generation is at least that
    generation: int = 0  # of this disk; see handshake.Disk
    met: Mapping[str, Disk] = field(
        default_factory=dict
    )  # the newest disk of every other member that was here
    format: int = FORMAT

    @property
    def disk(self) -> Disk:
        """This one, as it is introduced to the others."""
        return Disk(self.generation, self.nonce)


class DataDir:
    """An open directory, locked. Raises RefusedToStart when it may not be used by `member` of `members`."""

    def __init__(self, path: Path, member: str, members: tuple[str, ...]) -> None:
        self.path = path
        _own(path)
        self._lock = _take_lock(path)
        self._meeting = threading.Lock()
        try:
            new = Identity(member=member, members=members, nonce=secrets.randbits(63), born=time.time_ns())
            self.identity = self._open(new)
        except BaseException:
            self.close()
            raise

    def open_log(self) -> Journal:
        """The log. Raises RefusedToStart."""
        store = RocksStore(self.path / "log", create=False)
        try:
            return Journal(store)
        except BaseException:
            store.close()
            raise

    def open_snapshots(self) -> SnapshotStore:
        """The snapshots."""
        return SnapshotStore(self.path / "snapshots")

    def become(self, identity: Identity) -> None:
        """Replaces the identity, durably."""
        _write_identity(self.path, identity)
        self.identity = identity

    def meet(self, member: str, disk: Disk) -> None:
        """Another member is here with `disk`: remembered, durably, before anything of it counts. Any thread. Raises
        Refused for a disk that was replaced."""
        with self._meeting:
            known = self.identity.met
            if is_newer(member, known.get(member), disk):
                self.become(replace(self.identity, met={**known, member: disk}))

    def close(self) -> None:
        """Gives the lock back. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open(self, new: Identity) -> Identity:
        if not (self.path / "identity").exists():
            self._make(new)
            return new
        found = read_identity(self.path)
        if found.member != new.member:
            raise RefusedToStart(
                f"{self.path} belongs to master {found.member!r}, not to {new.member!r}:"
                " correct --data-dir or --id"
            )
        if found.members != new.members:
            raise RefusedToStart(
                f"{self.path} belongs to a cluster of {', '.join(found.members)}, and --peers names"
                f" {', '.join(new.members)}. The members of a cluster do not change while it lives: another"
                " majority could decide otherwise. To change them, stop all masters and use: mr master recover"
            )
        for part in ("log", "snapshots"):
            if not (self.path / part).is_dir():
                raise damaged(part, f"{self.path / part} is missing")
        return found

    def _make(self, identity: Identity) -> None:
        log = self.path / "log"
        if (log / "watermark").exists():
            # A crash fell just before the identity was written, or somebody deleted it.
            self._check_blank(log)
        else:
            shutil.rmtree(log, ignore_errors=True)
            log.mkdir(mode=0o700)
            RocksStore(log, create=True).close()
        SnapshotStore(self.path / "snapshots")
        for directory in (log, self.path, *self.path.absolute().parents):
            # The directory's own name must outlive a power cut too; who may not read an ancestor did not make it.
            with contextlib.suppress(PermissionError):
                sync_directory(directory)
        _write_identity(self.path, identity)

    def _check_blank(self, log: Path) -> None:
        store = RocksStore(log, create=False)
        try:
            loaded = store.load()
        finally:
            store.close()
        if loaded.entries or loaded.hard.term:
            raise damaged("identity", f"{self.path / 'identity'} is missing")


def read_identity(path: Path) -> Identity:
    """The identity in the directory `path`. Raises RefusedToStart."""
    try:
        text, _, checksum = (path / "identity").read_text().rpartition("\n#")
        if int(checksum, 16) != zlib.crc32(text.encode()):
            raise ValueError("wrong checksum")
        fields = json.loads(text)
        if fields["format"] > FORMAT:
            raise RefusedToStart(
                f"{path} was written by a newer release (format {fields['format']}, this one reads up to {FORMAT}):"
                " start that release again"
            )
        met = {member: Disk(**disk) for member, disk in fields.get("met", {}).items()}
        return Identity(**fields | {"members": tuple(fields["members"]), "met": met})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged("identity", f"{path / 'identity'}: {error}") from error


def _write_identity(path: Path, identity: Identity) -> None:
    text = json.dumps(asdict(identity), indent=1, sort_keys=True)
    aside = path / "identity.new"
    with open(aside, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(f"{text}\n#{zlib.crc32(text.encode()):08x}")
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path / "identity")
    sync_directory(path)


def _own(path: Path) -> None:
    """The state decides who leads and what was promised: nobody else may write it, or read it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise RefusedToStart(
            f"{path} belongs to user {found.st_uid}, not to {os.geteuid()}, who runs this master"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        if any(path.iterdir()):
            raise RefusedToStart(
                f"others may read or write {path}; if nobody did, allow it again with: chmod 700 {path}"
            )
        path.chmod(0o700)


def _take_lock(path: Path) -> int:
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).decode(errors="replace").strip()
        os.close(lock)
        raise RefusedToStart(f"{path} is in use by process {holder or 'unknown'}") from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock
