"""Clients that do what users do now and then: jobs of two steps, without a reduce, with side files; a full output; a
retry; a cancel twice; watchers who go away. One scene after another until the storm is over.

What each job must leave behind is worked out here, by the reference interpreter or by hand, and judged like any other
job's output.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from jepsen_like import reference, scene_jobs
from jepsen_like.clients import SECRET, cancel, recorded, status
from jepsen_like.collect import hashed
from jepsen_like.history import History
from jepsen_like.workloads import WORDS
from mr import outcome, submit
from mr import tls as certificates
from mr.client import Client, Handle, connect
from mr.errors import Error, NotAllowed, Rejected
from mr.settings import Tls

JOBS = {
    "chain": "job = mr.Job('chain', [mr.step(words, total, combiner=total, reduces=2),"
    " mr.step(turn, gather, reduces=1)])",
    "maponly": "job = mr.Job('maponly', [mr.step(number)])",
    "sides": "job = mr.Job('sides', [mr.step(counted, total, reduces=1)])",
    "sparse": "job = mr.Job('sparse', [mr.step(words, total, reduces=7)])",
    "peek": "job = mr.Job('peek', [mr.step(look, total, reduces=1)])",
    "wide": "job = mr.Job('wide', [mr.step(placed, in_order, reduces=2)])",
    "late": "job = mr.Job('late', [mr.step(slowly, total)])",
    "odd": "job = mr.Job('odd', [mr.step(whole, total, reduces=2)])",
}
# Texts as users have them, and the lines that they are (FD16).
ODD: dict[str, tuple[bytes, list[str]]] = {
    "0000.txt": (b"\xef\xbb\xbfa mark\r\nthen CRLF\r\n", ["a mark", "then CRLF"]),
    "0001.txt": (b"", []),
    "0002.txt": (b"no end of the last line", ["no end of the last line"]),
    "0003.txt": (b"\xff\xfe no text \x00 at all\n\n\n", ["\udcff\udcfe no text \x00 at all", "", ""]),
    "0004.txt.gz": (gzip.compress(b"two\nmem") + gzip.compress(b"bers\n"), ["two", "members"]),
    "0005.txt": (b"long" * 200_000 + b"\nand short\n", ["long" * 200_000, "and short"]),
}
LATE_S = (4, 12)  # a job's deadline
LATE_LINES = 20  # of a job that is late
WIDE_FILES = 40
PAUSE_S = 1.5
LAST_S = 12.0  # nothing new is begun so long before the end


@dataclass(slots=True)
class Expected:
    """What a job of a scene must end as and leave."""

    shape: str
    state: str = "SUCCEEDED"
    files: dict[str, bytes] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    over: str = ""  # the job whose output it overwrites if it succeeds
    deadline_s: float = 0.0

    def digests(self) -> dict[str, dict[str, Any]]:
        """Its files, as evidence keeps them."""
        return {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in self.files.items()
        }


class Scenes(threading.Thread):
    """Plays scene after scene, in an order drawn from the seed, until `until` (monotonic seconds); those that were
    `wanted` by name, each once at least. `expected` holds every job that was begun."""

    def __init__(
        self,
        connect: Callable[..., Client],
        seed: int,
        home: Path,
        keys: Path | None,
        history: History,
        wanted: str = "all",
    ) -> None:
        super().__init__(name="scenes", daemon=True)
        self._connect, self._seed, self._home, self._keys = connect, seed, home, keys
        self._history, self._wanted = history, wanted
        self.until = float("inf")
        self.deadline = float("inf")
        self.expected: dict[str, Expected] = {}
        self.peeks = home / "peeks"

    def run(self) -> None:
        """See the class."""
        for name in ("marks", "in", "out", "jobs", "peeks"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        rng = Random(f"scenes {self._seed}")
        scenes = {shape: self._shape(shape) for shape in JOBS if shape != "late"}
        scenes |= {"occupied": self._occupied, "retried": self._retried, "altered": self._altered}
        scenes |= {"rivals": self._rivals, "overwritten": self._overwritten, "late": self._late}
        scenes |= {"trespass": self._trespass} if self._keys is not None else {}
        asked = self._wanted != "all"
        names = [name.strip() for name in self._wanted.split(",")] if asked else sorted(scenes)
        rng.shuffle(names)
        number = 0
        while time.monotonic() < self.until - LAST_S or number < (len(names) if asked else 1):
            try:
                scenes[names[number % len(names)]](f"{number:03d}", rng)
            except (Error, OSError) as error:  # nobody answered, or no room, while it was being prepared
                self._history.record("scenes", "note", "no scene", str(error))
            number += 1
            time.sleep(max(0.0, min(PAUSE_S, self.until - time.monotonic())))

    def _shape(self, shape: str) -> Callable[[str, Random], None]:
        def play(number: str, rng: Random) -> None:
            id = f"{shape}-s{number}"
            prepared = self._prepare(id, shape, rng)
            with self._connect(timeout=8.0) as client:
                if self._submit(client, id, prepared):
                    self._glance(client, id)
                    self._wait(client, id)

        return play

    def _occupied(self, number: str, rng: Random) -> None:
        """D12: there is something where the output should be."""
        id = f"occupied-s{number}"
        prepared = self._prepare(id, "sparse", rng)
        del self.expected[id]
        out = self._home / "out" / id
        out.mkdir()
        (out / "thesis.txt").write_text("not yours")
        before = {name: row["sha256"] for name, row in hashed(out).items()}
        with (
            self._connect(timeout=8.0) as client,
            recorded(self._history, "scenes", "occupied", {"job": id}) as call,
        ):
            refused = ""
            try:
                submit.send(client.calls, prepared)
            except Rejected as error:
                refused = error.code
            after = {name: row["sha256"] for name, row in hashed(out).items()}
            call.answer = {"refused": refused, "before": before, "after": after}

    def _rivals(self, number: str, rng: Random) -> None:
        """D12: two jobs want to publish at one place; whoever comes second is refused, as long as the first one lives
        and afterwards."""
        id, second = f"rivals-s{number}", f"rivals-t{number}"
        prepared, other = self._prepare(id, "chain", rng), self._prepare(second, "sides", rng, out=id)
        del self.expected[second]
        with self._connect(timeout=8.0) as client:
            if not self._submit(client, id, prepared):
                return
            with recorded(self._history, "scenes", "rival", {"job": second}) as call:
                refused = ""
                try:
                    submit.send(client.calls, other)
                except Rejected as error:
                    refused = error.code
                call.answer = {"refused": refused}
            self._wait(client, id)

    def _overwritten(self, number: str, rng: Random) -> None:
        """D4, D5: a job publishes over the output of another one, or is cancelled and leaves that as it was."""
        id, second = f"overwritten-s{number}", f"overwritten-t{number}"
        prepared = self._prepare(id, "sides", rng)
        cancelled = rng.random() < 0.4
        with self._connect(timeout=8.0) as client:
            if not self._submit(client, id, prepared) or self._wait(client, id) != "SUCCEEDED":
                return
            other = self._prepare(second, "chain", rng, out=id, overwrite=True)
            self.expected[second].over = id
            if not self._submit(client, second, other):
                return
            if cancelled:
                cancel(self._history, client, "scenes", second)
            self._wait(client, second)

    def _late(self, number: str, rng: Random) -> None:
        """T6: a job that is not done by its deadline ends then, whoever leads by that time."""
        id = f"late-s{number}"
        deadline_s = rng.randint(*LATE_S)
        prepared = self._prepare(id, "late", rng, deadline=f"{deadline_s}s")
        self.expected[id] = Expected("late", "FAILED", deadline_s=deadline_s)
        with self._connect(timeout=8.0) as client:
            if self._submit(client, id, prepared):
                self._wait(client, id)

    def _retried(self, number: str, rng: Random) -> None:
        """A job is cancelled, twice, and tried again as a new one."""
        id = f"retried-s{number}"
        prepared = self._prepare(id, "chain", rng)
        with self._connect(timeout=8.0) as client:
            if not self._submit(client, id, prepared):
                return
            ends = {cancel(self._history, client, "scenes", id) for _ in range(2)}
            if ends != {"CANCELLED"}:
                return
            with recorded(self._history, "scenes", "retry", {"job": id}) as call:
                reply = submit.retry(client.calls, Handle(client, id).status(), [id])
                call.answer = {"job": reply.job, "existed": reply.existed}
            if call.answer:
                self.expected[call.answer["job"]] = self.expected[id]
                self.expected[id] = Expected("retried", "CANCELLED")
                left = max(0.1, min(60.0, self.deadline - time.monotonic()))
                with contextlib.suppress(Error, TimeoutError):
                    Handle(client, call.answer["job"]).wait(timeout=left)

    def _altered(self, number: str, rng: Random) -> None:
        """D8, FD15: an input is no longer what was listed when a map opens it: the job fails, and says so."""
        id = f"altered-s{number}"
        prepared = self._prepare(id, "sides", rng)
        self.expected[id] = Expected("altered", "FAILED")
        file = self._home / "in" / id / "0000.txt"
        match rng.choice(("longer", "other", "gone")):
            case "longer":
                file.write_bytes(file.read_bytes() + b"more\n")
            case "other":
                file.write_bytes(file.read_bytes()[::-1])
            case _:
                file.unlink()
        with self._connect(timeout=8.0) as client:
            if self._submit(client, id, prepared):
                self._wait(client, id)

    def _trespass(self, number: str, rng: Random) -> None:
        """FT14, S2, S5: another user, with a true certificate, asks for the end of a job that is not theirs, and reads
        what there is of it."""
        id = f"trespass-s{number}"
        prepared = self._prepare(id, "sides", rng)
        with self._connect(timeout=8.0) as client:
            if not self._submit(client, id, prepared):
                return
            with (
                connect(client.calls.addresses, tls=self._of_another(), timeout=8.0) as other,
                recorded(self._history, "scenes", "trespass", {"job": id}) as call,
            ):
                refused = ""
                try:
                    Handle(other, id).cancel("not mine")
                except NotAllowed:
                    refused = "NotAllowed"
                except Rejected as error:  # it publishes already
                    refused = error.code
                call.answer = {"refused": refused, "shown": _leaks(other, id)}
            self._wait(client, id)

    def _of_another(self) -> Tls:
        """The certificate of another user of this cluster, in a folder of its own."""
        assert self._keys is not None  # see run
        folder = self._home / "mallory"
        if not folder.exists():
            folder.mkdir(mode=0o700)
            for name in ("ca.pem", "ca.key"):
                shutil.copy(self._keys / name, folder)
            certificates.issue(folder, "client", "mallory")
            (folder / "ca.key").unlink()
        files = certificates.find(folder, "client", "mallory")
        return Tls(ca=files.ca, cert=files.cert, key=files.key)

    def _prepare(self, id: str, shape: str, rng: Random, out: str = "", **flags: Any) -> submit.Prepared:
        """Input, job file, and what must come of them. `out` is whose output it wants instead of its own."""
        folder = self._home / "in" / id
        write_inputs(shape, folder, rng)
        file = self._home / "jobs" / f"{id}.py"
        text = Path(scene_jobs.__file__).read_text()
        file.write_text(f"{text}\n\nimport mr\n\n{JOBS[shape]}\n")
        self.expected[id] = expected(shape, sorted(folder.iterdir()), self._home / "again" / id)
        env = {"CHAOS_MARKS": str(self._home / "marks"), "CHAOS_SECRET": SECRET}
        env |= {"CHAOS_PEEKS": str(self.peeks), "CHAOS_KEYS": str(self._keys or "/nowhere")}
        if shape == "wide":  # a map for each file
            flags["split_size"] = max(path.stat().st_size for path in folder.iterdir())
        return submit.prepare(
            submit.Request(
                job_file=file,
                inputs=(str(folder),),
                output=str(self._home / "out" / (out or id)),
                id=id,
                flags={"env": env, **flags},
            )
        )

    def _submit(self, client: Client, id: str, prepared: submit.Prepared) -> bool:
        while time.monotonic() < self.deadline:
            with recorded(self._history, "scenes", "submit", {"job": id}) as call:
                reply = submit.send(client.calls, prepared)
                call.answer = {"job": reply.job, "existed": reply.existed, "index": reply.index}
            if call.answer:
                return True
            time.sleep(0.3)
        return False

    def _glance(self, client: Client, id: str) -> None:
        """Watchers who go away in the middle (FT25)."""
        for _ in range(3):
            try:
                for _event in Handle(client, id).follow(deadline=time.monotonic() + 0.2):
                    break
            except (Error, TimeoutError):
                continue

    def _wait(self, client: Client, id: str) -> str:
        """Its last state that was heard of."""
        state = ""
        while time.monotonic() < self.deadline:
            state = status(self._history, client, "scenes", id) or state
            if state in outcome.OVER:
                break
            time.sleep(0.4)
        return state


def write_inputs(shape: str, folder: Path, rng: Random) -> None:
    """What a job of `shape` reads."""
    folder.mkdir()
    rows = [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 40))]
    texts = {"0000.txt": "".join(f"{row}\n" for row in rows).encode()}
    if shape == "late":
        texts = {"0000.txt": b"so long\n" * LATE_LINES}
    elif shape == "wide":  # more maps than a reduce merges at once
        texts = {
            f"{n:04d}.txt": f"{n} {' '.join(rng.choices(WORDS, k=3))}\n".encode() for n in range(WIDE_FILES)
        }
    elif shape == "sparse":
        texts = {"0000.txt": b"one word\n", "0001.txt": b""}
    elif shape == "odd":
        texts = {name: data for name, (data, _) in ODD.items()}
    for name, data in texts.items():
        (folder / name).write_bytes(data)


def expected(shape: str, files: list[Path], scratch: Path) -> Expected:
    """What a job of `shape` makes of `files`."""
    found = Expected(shape)
    if shape == "odd":
        lines = [line for _, texts in ODD.values() for line in texts]
        scratch.mkdir(parents=True, exist_ok=True)
        plain = scratch / "plain"
        plain.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        found.files = _parts(reference.run(scene_jobs.whole, scene_jobs.total, [plain], 2).parts)
        return found
    lines = [line for file in files for line in file.read_text().splitlines()]
    match shape:
        case "chain":
            scratch.mkdir(parents=True, exist_ok=True)
            for number, part in enumerate(reference.run(scene_jobs.words, scene_jobs.total, files, 2).parts):
                (scratch / f"{number}").write_bytes(part)
            answer = reference.run(_turned, scene_jobs.gather, sorted(scratch.iterdir()), 1)
            found.files = _parts(answer.parts)
        case "maponly":
            found.files = {"part-m-00000": "".join(f"{line}\t{len(line)}\n" for line in lines).encode()}
        case "sides":
            answer = reference.run(lambda line: [(line.split()[0], 1)], scene_jobs.total, files, 1)
            found.files = _parts(answer.parts)
            found.files["side/m-00000/lines"] = "".join(f"{line}\n" for line in lines).encode()
            found.counters = {"user:lines": len(lines), "user:letters": sum(map(len, lines))}
        case "sparse":
            found.files = _parts(reference.run(scene_jobs.words, scene_jobs.total, files, 7).parts)
        case "wide":
            found.files = _parts(reference.run(scene_jobs.placed, scene_jobs.in_order, files, 2).parts)
        case "peek":
            counts = Counter(lines)
            rows: Any = "".join(f"{line}\t{counts[line]}\n" for line in sorted(counts))
            found.files = {"part-r-00000": rows.encode()}
    return found


def _turned(line: str) -> list[tuple[str, Any]]:
    word, _, count = line.partition("\t")
    return list(scene_jobs.turn(word, int(count)))


def _parts(parts: list[bytes]) -> dict[str, bytes]:
    return {f"part-r-{number:05d}": part for number, part in enumerate(parts)}


def _leaks(client: Client, job: str) -> list[str]:
    """The methods by which a user is shown what stands in the environment of another's job."""
    from mr.rpc.cluster_pb2 import GetJobRequest, ListJobsRequest, WatchRequest

    found = set()
    with contextlib.suppress(Error):
        for method, request in (
            ("GetJob", GetJobRequest(job=job)),
            ("ListJobs", ListJobsRequest(limit=1000)),
        ):
            answer = client.calls.call(method, request, timeout=3.0)
            found |= {method} if SECRET.encode() in answer.SerializeToString() else set()
        for event in client.calls.stream("Watch", WatchRequest(job=job, follow=True), timeout=3.0):
            found |= {"Watch"} if SECRET.encode() in event.SerializeToString() else set()
    return sorted(found)
