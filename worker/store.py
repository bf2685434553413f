"""Where a worker keeps what it makes: pure names (S1-05), and the few operations on them.

    WORK_DIR/journal.jsonl                     what it did with its attempts (worker/journal.py)
    WORK_DIR/state.json, lock                  who this worker is; one process at a time
    WORK_DIR/code/<digest>/                    unpacked bundles
    WORK_DIR/jobs/<job>/map/0.m-00007.a1.seg   a finished map's output, with .idx beside it
    WORK_DIR/jobs/<job>/attempts/0.m-00007.a1/ an attempt's own folder: spills, fetched regions, "position"
    WORK_DIR/logs/<job>/0.m-00007.a1.log       what user code printed; outlives the job, bounded
    WORK_DIR/trash/                            what is being deleted: a name is free at once, its bytes soon

The law: what stands under its final name is whole, because it was written aside and renamed; two attempts
never share a name; nothing of an earlier life of the worker is offered to anybody.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mr import names
from mr.rpc import job_pb2 as job
from worker.events import Attempt

LOGS_BYTES = 256 << 20  # of all attempts together; the oldest go first
_FOLDER_MODE = 0o700


class WorkDirInUse(Exception):
    """Another worker process runs in this work dir."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Every path below a work dir, as a function of names alone."""

    root: Path

    def job(self, name: str) -> Path:
        """All scratch of one job."""
        return self.root / "jobs" / name

    def maps(self, name: str) -> Path:
        """Where finished map outputs of a job stand."""
        return self.job(name) / "map"

    def segment(self, attempt: Attempt) -> Path:
        """A map attempt's output; the index is the same with ".idx"."""
        return self.maps(attempt.job) / names.segment_name(attempt.wire())

    def attempt(self, attempt: Attempt) -> Path:
        """The attempt's own folder."""
        return self.job(attempt.job) / "attempts" / names.attempt_name(attempt.wire())

    def log(self, attempt: Attempt) -> Path:
        """What the attempt's code printed."""
        return self.root / "logs" / attempt.job / (names.attempt_name(attempt.wire()) + ".log")

    @property
    def code(self) -> Path:
        """Unpacked bundles, one folder a digest."""
        return self.root / "code"

    @property
    def journal(self) -> Path:
        """What was done with attempts."""
        return self.root / "journal.jsonl"

    @property
    def trash(self) -> Path:
        """What is being deleted."""
        return self.root / "trash"


@dataclass(frozen=True, slots=True)
class Life:
    """One start of a worker in its work dir."""

    worker: str
    incarnation: str
    cluster_id: str
    started_ms: int


class Store:
    """The work dir of a running worker. Raises WorkDirInUse if it is not ours, OSError if it is unusable."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
        self.layout = Layout(root.resolve())
        self._trashed = itertools.count()
        self._lock = os.open(self.layout.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise WorkDirInUse(f"another worker runs in {root}") from None
        for folder in ("jobs", "code", "logs", "trash"):
            (self.layout.root / folder).mkdir(exist_ok=True, mode=_FOLDER_MODE)

    def close(self) -> None:
        """Lets another process have the work dir."""
        os.close(self._lock)

    def begin_life(self, wanted_id: str = "", *, now_ms: int | None = None) -> Life:
        """A new incarnation, greater than every earlier one here, durable before anybody hears of it.

        The wall clock only makes incarnations of two work dirs with one id comparable; within one work dir
        the number grows whatever the clock says (FT20, FT21).
        """
        state = self._read_state()
        now_ms = int(time.time() * 1000) if now_ms is None else now_ms
        number = max(now_ms, int(state.get("incarnation_ms", 0)) + 1)
        worker = wanted_id or str(state.get("worker") or _invent_id())
        cluster_id = str(state.get("cluster_id", "")) if worker == state.get("worker") else ""
        self._write_state({"worker": worker, "incarnation_ms": number, "cluster_id": cluster_id})
        return Life(worker, f"{number:013d}-{secrets.token_hex(2)}", cluster_id, number)

    def remember_cluster(self, cluster_id: str) -> None:
        """Keeps the id of the cluster that welcomed this worker; it never serves another one from here."""
        state = self._read_state()
        if state.get("cluster_id") != cluster_id:
            self._write_state({**state, "cluster_id": cluster_id})

    def make_attempt_dir(self, attempt: Attempt) -> Path:
        """The folder of the attempt, and the one that its map output is renamed into. Raises OSError."""
        path = self.layout.attempt(attempt)
        for folder in (self.layout.job(attempt.job), self.layout.maps(attempt.job), path.parent, path):
            folder.mkdir(exist_ok=True, mode=_FOLDER_MODE)
        return path

    def drop_attempt(self, attempt: Attempt) -> None:
        """The attempt's folder goes; its output, already renamed out of it, stays."""
        self._throw_away(self.layout.attempt(attempt))

    def drop_output(self, attempt: Attempt) -> None:
        """A map output goes: the index first, so that no reader finds half of it."""
        segment = self.layout.segment(attempt)
        for path in (segment.with_suffix(".idx"), segment):
            with suppress(OSError):
                path.unlink()

    def drop_job(self, name: str) -> None:
        """All scratch of the job goes; its logs stay."""
        self._throw_away(self.layout.job(name))

    def drop_code(self, digest: bytes) -> None:
        """An unpacked bundle goes."""
        self._throw_away(self.layout.code / digest.hex())

    def sweep(self, keep_jobs: Collection[str], keep_code: Collection[str]) -> None:
        """Everything goes that no live job owns: scratch of other jobs and of earlier lives (FD22)."""
        for folder, keep in ((self.layout.root / "jobs", keep_jobs), (self.layout.code, keep_code)):
            for entry in _entries(folder):
                if entry.name not in keep:
                    self._throw_away(entry)

    def empty_trash(self) -> None:
        """Deletes what was thrown away, and the oldest logs beyond their bound. Slow: call it in a thread."""
        for entry in _entries(self.layout.trash):
            shutil.rmtree(entry, ignore_errors=True)
            entry.unlink(missing_ok=True) if entry.is_file() else None
        logs = sorted(
            ((s.st_mtime, s.st_size, p) for p, s in _files(self.layout.root / "logs")), reverse=True
        )
        for total, (_, _, path) in zip(itertools.accumulate(size for _, size, _ in logs), logs, strict=True):
            if total > LOGS_BYTES:
                path.unlink(missing_ok=True)
                with suppress(OSError):
                    path.parent.rmdir()

    def disk_free(self) -> int:
        """Bytes that this process may still write in the work dir; 0 when inodes have run out (FD8)."""
        stats = os.statvfs(self.layout.root)
        if stats.f_files and not stats.f_favail:
            return 0
        return stats.f_bavail * stats.f_frsize

    def _throw_away(self, path: Path) -> None:
        with suppress(OSError):
            path.rename(self.layout.trash / f"{next(self._trashed)}-{secrets.token_hex(4)}")

    def _read_state(self) -> dict[str, str | int]:
        try:
            state = json.loads((self.layout.root / "state.json").read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write_state(self, state: dict[str, str | int]) -> None:
        aside = self.layout.root / "state.json.new"
        with aside.open("w") as out:
            json.dump(state, out)
            out.flush()
            os.fsync(out.fileno())
        aside.rename(self.layout.root / "state.json")
        folder = os.open(self.layout.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def drop_published(staging: str, result: job.TaskResult) -> None:
    """Deletes the files of a refused attempt from a job's staging place; their names are its own alone."""
    folder = Path(staging) / "attempts"
    for file in (result.file, *result.file.side_files):
        if file.name and "/" not in file.name and file.name not in {".", ".."}:
            with suppress(OSError):
                (folder / file.name).unlink()


def _invent_id() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0])[:40].strip("-")
    return f"{host or 'worker'}-{secrets.token_hex(2)}"


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.rglob("*"):
        with suppress(OSError):
            stats = path.stat()
            if path.is_file():
                yield path, stats
