"""Gathers the evidence of a run: asks while the cluster lives, reads disks when it is stopped."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepsen_like import reference, tasks
from jepsen_like.evidence import Evidence, Job, Mark, Master, Worker
from jepsen_like.workloads import ERRAND, Work, failure_of
from mr import shapes
from mr.errors import Error, NotFound
from mr.guardian import tree

if TYPE_CHECKING:
    from jepsen_like.scenes import Expected
    from mr.client import Client
    from mr.processes import Server

GC_S = (
    30.0  # after the end of a job, until nothing of it may be left on a worker or beside its output (D2, D9)
)
_DUMP_S = 120.0
IDLE_PROCESSES = 8  # below one idle worker of one slot


class Collector:
    """`home` is where the clients worked, `zero` the monotonic nanosecond at which the history began."""

    def __init__(self, home: Path, zero: int) -> None:
        self.home, self.zero = home, zero
        self.evidence = Evidence()
        self._staging: dict[str, str] = {}  # job -> the pattern of its staging place

    def expect(self, works: Iterable[Work]) -> None:
        """Before the storm: what the inputs are. The reference runs afterwards, when nothing is measured."""
        self._works = list(works)
        self._scenes: Mapping[str, Expected] = {}

    def expect_scenes(self, scenes: Mapping[str, Expected]) -> None:
        """What the jobs of scenes must leave."""
        self._scenes = scenes

    def ask(self, client: Client, connect_one: Any, masters: Mapping[str, Server]) -> None:
        """While the cluster lives and is calm: every job, and how each master by itself shows it."""
        known = {work.id: work for work in self._works}
        listed = {job.id for job in client.jobs(limit=10_000)}
        for id in sorted({*known, *listed, *self._scenes}):
            tried_again = any(other.startswith(f"{id}-r") for other in listed)
            self.evidence.jobs.append(self._job(client, id, known.get(id), tried_again))
        self._forgive_overwritten()
        for id, server in masters.items():
            self.evidence.masters.append(self._view(connect_one, id, server, sorted(listed)))

    def _job(self, client: Client, id: str, work: Work | None, tried_again: bool) -> Job:
        job = Job(id=id)
        if work is not None:
            job.shape, job.expected, job.reduces = work.shape, work.expected, work.reduces
        elif id.startswith("register"):
            job.shape, job.reduces = "register", 1
        elif id.startswith(ERRAND):
            job.expected, _, _ = failure_of(id.removeprefix(f"{ERRAND}-").rpartition("-")[0])
        try:
            handle = client.attach(id)
            if handle.id == id:
                job.status = shapes.job(handle.status())
                job.events = [shapes.event(event) for event in handle.events(tasks=False)]
        except NotFound:
            pass
        if tried_again:
            return job  # the place of its output is another try's
        out = Path(job.status["output"]) if job.status else self.home / "out" / id
        job.output = hashed(out) if out.is_dir() else None
        manifest = out / "_SUCCESS"
        job.manifest = json.loads(manifest.read_bytes()) if manifest.is_file() else None
        self._staging[id] = str(out.parent / f".{glob.escape(out.name)}.mr-{glob.escape(id)}")
        self._refer(job, work)
        return job

    def _forgive_overwritten(self) -> None:
        """Of two jobs with one place the later one owns it, if it succeeded; or else still the first one."""
        jobs = {job.id: job for job in self.evidence.jobs}
        for id, scene in self._scenes.items():
            if scene.over:
                later = jobs[id]
                succeeded = later.status is not None and later.status["state"] == "SUCCEEDED"
                other = jobs[scene.over] if succeeded else later
                other.elsewhere, other.output, other.manifest, other.reference = True, None, None, {}

    def _refer(self, job: Job, work: Work | None) -> None:
        """What the reference interpreter makes of the same input."""
        if job.id in self._scenes:
            scene = self._scenes[job.id]
            job.shape, job.expected, job.counters = scene.shape, scene.state, scene.counters
            job.reference = scene.digests() if scene.state == "SUCCEEDED" else {}
            job.deadline_s = scene.deadline_s
            return
        if job.shape not in tasks.SHAPES and job.shape != "register":
            return
        name, shape = (work.id, work.shape) if work else ("register", "tiny")
        files = sorted((self.home / "in" / name).iterdir())
        if job.expected == "SUCCEEDED":
            mapper, reducer, _ = tasks.SHAPES[shape]
            answer = reference.run(mapper, reducer, files, job.reduces)
            job.reference = {
                f"part-r-{n:05d}": {"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
                for n, part in enumerate(answer.parts)
            }
            job.counters = {
                "mr:map_records_in": answer.records_in,
                "mr:map_records_out": answer.emitted,
                "mr:reduce_groups_in": answer.groups,
                "mr:reduce_records_out": answer.records_out,
            }
        if work is not None:
            from jepsen_like.workloads import write_inputs

            again = self.home / "again" / work.id
            for path in write_inputs(work, again):
                if path.read_bytes() != (self.home / "in" / work.id / path.name).read_bytes():
                    job.input_changed.append(path.name)

    def _view(self, connect_one: Any, id: str, server: Server, jobs: list[str]) -> Master:
        """Stale reads at one master: its own table, nobody else's."""
        from mr.rpc.cluster_pb2 import GetJobRequest

        master = Master(id=id)
        if not server.alive:
            return master
        with connect_one(server.address) as client:
            for job in jobs:
                try:
                    found = shapes.job(
                        client.calls.call("GetJob", GetJobRequest(job=job, stale_ok=True), timeout=3)
                    )
                except Error as error:
                    master.view[job] = {"error": type(error).__name__}
                    continue
                names = ("state", "counters", "reruns", "attempts", "manifest")
                master.view[job] = {name: found[name] for name in names}
                master.applied = found["applied_index"]
        return master

    def leftovers(self, workers: Mapping[str, Server], ended: set[str]) -> None:
        """After the calm: waits up to GC_S for staging places, scratch and task processes of ended jobs to go, then
        notes the rest."""
        deadline = time.monotonic() + GC_S
        while True:
            found = [
                Worker(
                    id=id, scratch=list(_scratch(server.work_dir)), processes=_task_processes(server, ended)
                )
                for id, server in workers.items()
            ]
            staged = {job for job in ended & self._staging.keys() if _staged(self._staging[job])}
            left = staged or any(one.scratch or one.processes for one in found)
            if time.monotonic() > deadline or not left:
                break
            time.sleep(0.5)
        self.evidence.workers = found
        for job in self.evidence.jobs:
            job.staging = job.id in staged

    def read_disks(
        self, masters: Mapping[str, Server], workers: Mapping[str, Server], env: Mapping[str, str]
    ) -> None:
        """When every server is stopped."""
        for master in self.evidence.masters:
            self._dump(master, masters[master.id], env)
        for worker in self.evidence.workers:
            worker.logs = _largest(workers[worker.id].work_dir / "logs")
            for name in ("journal.1.jsonl", "journal.jsonl"):
                path = workers[worker.id].work_dir / name
                for record in _jsonl(path.read_text()) if path.is_file() else ():
                    record["t"] -= self.zero
                    worker.journal.append(record)
        for path in (self.home / "marks").iterdir():
            job, task, attempt, t = path.name.split("~")
            self.evidence.marks.append(Mark(job=job, task=task, attempt=int(attempt), t=int(t) - self.zero))
        self.evidence.marks.sort(key=lambda mark: mark.t)

    def _dump(self, master: Master, server: Server, env: Mapping[str, str]) -> None:
        argv = [sys.executable, "-P", "-m", "mr.cli", "master", "dump", str(server.data_dir), "--every", "1"]
        done = subprocess.run(
            argv, env=dict(env), capture_output=True, text=True, check=False, timeout=_DUMP_S
        )
        master.dump = list(_jsonl(done.stdout))
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            master.refused = lines[0] if lines else f"exit status {done.returncode}"

    def search_secrets(self, needles: Iterable[bytes], places: Iterable[Path]) -> None:
        """Looks for each needle in every file below `places` (S5)."""
        wanted = list(needles)
        for path in (file for place in places for file in _files(place)):
            try:
                data = path.read_bytes()
            except OSError:
                continue
            self.evidence.secrets_searched += len(data)
            if any(needle in data for needle in wanted):
                self.evidence.secrets.append(str(path))

    def search_arguments(self, needles: Iterable[bytes], servers: Iterable[Server]) -> None:
        """Looks for each needle in the arguments of every living process of the cluster (S5)."""
        wanted = list(needles)
        for server in servers:
            for pid in tree(server.pid) if server.alive else ():
                data = _proc(pid, "cmdline")
                self.evidence.secrets_searched += len(data)
                if any(needle in data for needle in wanted):
                    self.evidence.secrets.append(f"arguments of process {pid} of {server.id}")


def kill_all(servers: Iterable[Server]) -> None:
    """The end of the cluster: no farewell, its disks are evidence."""
    for server in servers:
        if server.alive and server.process is not None:
            for pid in reversed(tree(server.pid)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            server.process.wait()


def hashed(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file below `folder`, by its name there."""
    found = {}
    for path in _files(folder):
        data = path.read_bytes()
        found[str(path.relative_to(folder))] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    return dict(sorted(found.items()))


def _staged(pattern: str) -> bool:
    """Whether a staging place is there, or one that somebody has taken (mr/output.py)."""
    return bool(glob.glob(pattern) or glob.glob(f"{pattern}~*"))


def _largest(place: Path) -> dict[str, int]:
    """The largest file below `place`, and its bytes; nothing where there is none."""
    size, path = max(((path.stat().st_size, path) for path in _files(place)), default=(0, None))
    return {str(path.relative_to(place)): size} if path else {}


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        for folder, _, names in os.walk(place):
            yield from (Path(folder, name) for name in names)


def _jsonl(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # a process was killed while it wrote the line


def _scratch(work_dir: Path) -> Iterator[str]:
    """Everything of jobs: their folders, what is being deleted, unpacked code."""
    for name in ("jobs", "trash", "code"):
        for path in sorted((work_dir / name).glob("*")) if (work_dir / name).is_dir() else ():
            yield f"{name}/{path.name}"


def _task_processes(server: Server, ended: set[str]) -> list[str]:
    """Descendants of a worker that still have a file of an ended job open, or stand in its folder; and too many idle
    ones (each slot may keep a spare process and its keeper warm)."""
    if not server.alive:
        return []
    found, descendants = [], tree(server.pid)[1:]
    for pid in descendants:
        for link in (Path(f"/proc/{pid}/cwd"), *_links(Path(f"/proc/{pid}/fd"))):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            parts = Path(target).parts
            if str(server.work_dir) in target and ended.intersection(parts):
                found.append(f"process {pid}: {Path(target).name}")
    if len(descendants) > IDLE_PROCESSES:
        found.append(f"{len(descendants)} processes, though nothing runs")
    return found


def _links(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
