"""An output is there as a whole or not at all, wherever its publication is cut short (D2-D5, D12, FD12-FD14, FD26)."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mr import output
from mr.causes import Cause
from mr.exchange import exchange
from mr.output import OutputError
from mr.results import read_results
from mr.rpc import job_pb2 as pb

COUNTERS = {"mr:records_out": 6}


class Killed(BaseException):
    """The process died here: nothing of ours catches it."""


def job(tmp_path: Path, id: str = "wc-1", **options: Any) -> pb.JobSpec:
    return pb.JobSpec(job_id=id, output=pb.Output(path=str(tmp_path / "out"), format="tsv", **options))


def run_attempts(spec: pb.JobSpec, attempt: int = 1, parts: int = 3) -> list[pb.OutputFile]:
    files = []
    for r in range(parts):
        writer = output.part_writer(spec.output, output.attempt_path(spec, f"0.r-{r:05d}.a{attempt}"))
        writer.extend((f"{spec.job_id}-key{i}", r) for i in range(r * 2))  # part 0 is empty
        file = writer.close()
        file.part = f"part-r-{r:05d}"
        files.append(file)
    side = output.attempt_path(spec, f"0.r-00001.a{attempt}.side")
    side.write_bytes(b"picture")
    digest = hashlib.sha256(b"picture").digest()
    files[1].side_files.add(name=side.name, part="side/r-00001/x.png", bytes=7, sha256=digest)
    return files


@pytest.fixture
def staged(tmp_path: Path) -> tuple[pb.JobSpec, list[pb.OutputFile]]:
    spec = job(tmp_path)
    output.prepare_staging(spec)
    return spec, run_attempts(spec)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_output_is_the_parts_and_the_manifest_and_nothing_else(
    tmp_path: Path, staged: Any
) -> None:  # D2, D3
    spec, files = staged
    loser = output.attempt_path(spec, "0.r-00002.a2")
    loser.write_text("a backup that came too late")
    digest = output.publish(spec, files, COUNTERS)
    found = contents(tmp_path / "out")
    names = ["part-r-00000", "part-r-00001", "part-r-00002", "side/r-00001/x.png"]
    assert sorted(found) == ["_SUCCESS", *names]
    assert found["part-r-00000"] == b"", "an empty part is there (FD26)"
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "nothing is left beside it"
    manifest = json.loads(found["_SUCCESS"])
    assert digest == hashlib.sha256(found["_SUCCESS"]).digest()
    assert [row["name"] for row in manifest["files"]] == names
    for row in manifest["files"]:
        assert row["bytes"] == len(found[row["name"]])
        assert row["sha256"] == hashlib.sha256(found[row["name"]]).hexdigest()
    assert manifest["records"] == sum(row["records"] for row in manifest["files"]) == 6
    assert manifest["counters"] == COUNTERS
    assert manifest["job"] == "wc-1"
    assert list(read_results(tmp_path / "out")) == [(f"wc-1-key{i}", r) for r in (1, 2) for i in range(r * 2)]


# --- cut short anywhere ---

SYSCALLS = ["mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "open"]


@contextmanager
def killed_at(count: int, *, after: bool) -> Iterator[list[str]]:
    """The process dies right before (or after) its system call number `count` that changes or syncs something."""
    made: list[str] = []
    real = {name: getattr(os, name) for name in SYSCALLS}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            if len(made) == count and not after:
                raise Killed
            result = real[name](*args, **kwargs)
            if len(made) == count and after:
                raise Killed
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in SYSCALLS:
            patch.setattr(os, name, wrapped(name))
        yield made


def replayed(tmp_path: Path, spec: pb.JobSpec, before: dict[str, bytes] | None, *, gap: bool) -> int:
    """Publish once for every kill point, each from the same staging place; the number of points."""
    files = run_attempts(spec)
    pristine = tmp_path / "pristine"
    shutil.copytree(tmp_path, pristine, ignore=shutil.ignore_patterns("pristine"))
    whole: dict[str, bytes] = {}
    points, gaps = 0, 0
    for after in (False, True):
        for count in range(10_000):
            for left in [path for path in tmp_path.iterdir() if path != pristine]:
                shutil.rmtree(left)
            shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
            try:
                with killed_at(count, after=after) as made:
                    output.publish(spec, files, COUNTERS)
            except Killed:
                points += 1
            seen = contents(tmp_path / "out") if (tmp_path / "out").exists() else None
            if "_SUCCESS" not in (seen or {}) or seen == before:
                if seen is None and before is not None:
                    gaps += 1  # between the two renames of an overwrite
                else:
                    assert seen == before, f"D4 at {count} {made[-3:]}: neither the old nor the whole output"
            else:
                whole = whole or seen or {}
                assert seen == whole, f"D4 at {count} {made[-3:]}"
            digest = output.publish(spec, files, COUNTERS)  # whoever comes next finishes it
            assert contents(tmp_path / "out") == whole or not whole
            whole = whole or contents(tmp_path / "out")
            assert digest == hashlib.sha256(whole["_SUCCESS"]).digest()
            assert {path.name for path in tmp_path.iterdir()} == {"out", "pristine"}, "nothing is left (D2)"
            if count and len(made) < count:
                break
    assert (gaps > 0) == gap
    return points


def test_publication_is_atomic_at_every_kill_point(tmp_path: Path) -> None:  # D4, D5, FD12
    spec = job(tmp_path)
    output.prepare_staging(spec)
    assert replayed(tmp_path, spec, None, gap=False) > 40


def test_so_it_is_over_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    spec = job(tmp_path)
    output.prepare_staging(spec)
    assert replayed(tmp_path, spec, {}, gap=False) > 40


# Whether two directories can change names in one step: so on NFS, where they can't.
CAN = pytest.mark.parametrize("can", [True, False], ids=["exchange", "two renames"])


@CAN
def test_an_overwrite_shows_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    if not can:
        monkeypatch.setattr(output, "exchange", lambda *_: False)
    old = job(tmp_path, "wc-0")
    output.prepare_staging(old)
    output.publish(old, run_attempts(old), COUNTERS)
    spec = job(tmp_path, overwrite=True)
    output.prepare_staging(spec)
    assert replayed(tmp_path, spec, contents(tmp_path / "out"), gap=not can) > 40


@contextmanager
def interrupted_at(count: int, action: Callable[[], None]) -> Iterator[list[int]]:
    """Right before rename number `count`, `action` runs to its end."""
    calls: list[int] = []
    real = os.rename

    def late(source: Any, target: Any) -> None:
        calls.append(1)
        if len(calls) == count:
            action()
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", late)
        yield calls


@pytest.mark.parametrize("count", range(1, 7))
def test_two_publishers_at_once_are_one(tmp_path: Path, staged: Any, count: int) -> None:
    """FD13, T1: a commit that slept at any rename wakes after another one has published the same job."""
    spec, files = staged
    digests: list[bytes] = []
    with interrupted_at(count, lambda: digests.append(output.publish(spec, files, COUNTERS))) as calls:
        try:
            digests.append(output.publish(spec, files, COUNTERS))
        except OutputError:
            digests.append(output.publish(spec, files, COUNTERS))  # repeated, as the leader does
    assert len(calls) >= count
    assert len(digests) == 2
    assert digests[0] == digests[1]
    parts = [f"part-r-0000{i}" for i in range(3)]
    assert sorted(contents(tmp_path / "out")) == ["_SUCCESS", *parts, "side/r-00001/x.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


class Turns:
    """Lets threads take so many steps each; a step is a system call that changes what others see, or sees it."""

    CALLS = ("mkdir", "rename", "unlink", "rmdir", "open", "scandir", "stat")

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn, self._left = "", 0
        self._over: set[str] = set()

    @contextmanager
    def watched(self, *, can: bool) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in self.CALLS:
                patch.setattr(os, name, self._counted(getattr(os, name)))
            swap = output.exchange if can else lambda *_: False
            patch.setattr(output, "exchange", self._counted(swap))
            patch.setattr(os, "fsync", lambda _: None)
            yield

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            me = threading.current_thread().name
            if me in {"one", "other"}:
                with self._changed:
                    assert self._changed.wait_for(lambda: self._turn == me and self._left > 0, 20)
                    self._left -= 1
                    self._changed.notify_all()
            return real(*args, **kwargs)

        return call

    def play(self, who: str, action: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                action()
            finally:
                with self._changed:
                    self._over.add(who)
                    self._changed.notify_all()

        thread = threading.Thread(target=run, name=who, daemon=True)
        thread.start()
        return thread

    def give(self, who: str, steps: int) -> bool:
        """Returns when they are taken, or all is done: whether it is."""
        with self._changed:
            self._turn, self._left = who, steps
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._left or who in self._over, 20)
            return who in self._over


def published_by(spec: pb.JobSpec, files: list[pb.OutputFile], told: dict[str, Any]) -> Callable[[], None]:
    def publish() -> None:
        try:
            told[threading.current_thread().name] = output.publish(spec, files, COUNTERS)
        except (OutputError, OSError) as error:
            told[threading.current_thread().name] = error

    return publish


def overwriting(place: Path) -> pb.JobSpec:
    """A job that is staged, above the output of an earlier one."""
    old = job(place, "wc-0")
    output.prepare_staging(old)
    output.publish(old, run_attempts(old), COUNTERS)
    spec = job(place, overwrite=True)
    output.prepare_staging(spec)
    return spec


def assert_published(place: Path, spec: pb.JobSpec, at: str = "") -> None:
    found = contents(place / "out")
    assert json.loads(found["_SUCCESS"])["job"] == spec.job_id, at
    assert found["part-r-00001"].startswith(f"{spec.job_id}-key0".encode()), at
    assert [path.name for path in place.iterdir()] == ["out"], at


@pytest.mark.parametrize("mode", ["new", "exchange", "two renames"])
def test_what_is_published_stays_whoever_wakes_when(tmp_path: Path, mode: str) -> None:
    """FD13, T1: one publisher sleeps after so many steps, the other one after so many; both wake, and are repeated if
    they have not done it. Every fifth pair of all."""
    pairs = 0
    for first in itertools.count():
        awake = True
        for second in itertools.count(first % 5, 5):
            place = tmp_path / f"{first}-{second}"
            place.mkdir()
            spec = job(place) if mode == "new" else overwriting(place)
            output.prepare_staging(spec)
            files = run_attempts(spec)
            turns, told = Turns(), dict[str, Any]()
            with turns.watched(can=mode == "exchange"):
                threads = [turns.play(who, published_by(spec, files, told)) for who in ("one", "other")]
                awake = not turns.give("one", first)
                ended = turns.give("other", second)
                for who in ("one", "other"):
                    turns.give(who, 10_000)
                for thread in threads:
                    thread.join()
            at = f"after {first} and {second} steps: {told}"
            if any(isinstance(answer, bytes) for answer in told.values()):
                assert json.loads((place / "out" / "_SUCCESS").read_bytes())["job"] == "wc-1", at
            output.publish(spec, files, COUNTERS)
            assert_published(place, spec, at)
            shutil.rmtree(place)
            pairs += 1
            if ended:
                break
        if not awake:
            break
    assert pairs > 150


@CAN
def test_who_wakes_after_the_next_job_leaves_it_alone(tmp_path: Path, can: bool) -> None:
    """A publisher sleeps after so many steps; another one publishes the same job; then a job overwrites that."""
    for first in itertools.count():
        place = tmp_path / str(first)
        place.mkdir()
        spec = overwriting(place)
        files = run_attempts(spec)
        turns, told = Turns(), dict[str, Any]()
        with turns.watched(can=can):
            thread = turns.play("one", published_by(spec, files, told))
            ended = turns.give("one", first)
            output.publish(spec, files, COUNTERS)
            after = job(place, "wc-2", overwrite=True)
            output.prepare_staging(after)
            output.publish(after, run_attempts(after), COUNTERS)
            turns.give("one", 10_000)
            thread.join()
        assert_published(place, after, f"after {first} steps: {told}")
        shutil.rmtree(place)
        if ended:
            break
    assert first > 40


def test_a_staging_place_that_cannot_be_removed_is_told_and_the_output_is_there(
    tmp_path: Path, staged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS, a file that somebody still has open keeps its folder: no publisher may wait for that without end."""
    spec, files = staged

    def stuck(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stuck)
        patch.setattr(output.time, "sleep", lambda _: None)
        with pytest.raises(OSError, match="not empty"):
            output.publish(spec, files, COUNTERS)
    output.publish(spec, files, COUNTERS)
    assert_published(tmp_path, spec)


def test_two_directories_change_names(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    (one / "mine").touch()
    with pytest.raises(FileNotFoundError):
        exchange(one, other)
    other.mkdir()
    if not exchange(one, other):
        pytest.skip("this file system can't exchange two names")
    assert contents(other) == {"mine": b""}
    assert contents(one) == {}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_who_cannot_exchange_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """NFS and old kernels: the caller then moves one after the other."""

    def renameat2(*_: Any) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr("mr.exchange.ctypes.CDLL", lambda *_, **__: SimpleNamespace(renameat2=renameat2))
    assert not exchange(tmp_path / "one", tmp_path / "other")
    monkeypatch.setattr("mr.exchange.ctypes.CDLL", lambda *_, **__: SimpleNamespace())
    assert not exchange(tmp_path / "one", tmp_path / "other"), "a libc without it"


# --- what stands in the way ---


def test_an_output_that_is_there_is_refused_and_not_touched(tmp_path: Path) -> None:  # D12
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(OutputError) as caught:
        output.prepare_staging(job(tmp_path))
    assert caught.value.cause == Cause.OUTPUT_EXISTS
    assert contents(tmp_path) == {"out/mine": b"precious"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def _file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")


def _parent_is_a_file(tmp_path: Path) -> None:
    tmp_path.rmdir()
    tmp_path.write_text("a file")


@pytest.mark.parametrize(
    ("promise", "arrange", "overwrite", "cause"),
    [
        ("a file is no output", _file, False, Cause.OUTPUT_EXISTS),
        ("nor is it overwritten", _file, True, Cause.OUTPUT_EXISTS),
        ("a parent that is a file", _parent_is_a_file, False, Cause.OUTPUT_EXISTS),
    ],
)
def test_what_can_be_no_output(
    tmp_path: Path, promise: str, arrange: Callable[[Path], None], overwrite: bool, cause: Cause
) -> None:  # FD14
    place = tmp_path / "place"
    place.mkdir()
    arrange(place)
    with pytest.raises(OutputError) as caught:
        output.prepare_staging(job(place, overwrite=overwrite))
    assert caught.value.cause == cause, promise


@pytest.mark.parametrize("path", ["/", "/proc/out", "/proc"])
def test_places_where_nothing_can_be_written(path: str) -> None:  # FD14
    spec = pb.JobSpec(job_id="j", output=pb.Output(path=path, overwrite=True))
    with pytest.raises(OutputError) as caught:
        output.prepare_staging(spec)
    assert caught.value.cause == Cause.OUTPUT_UNWRITABLE


def test_missing_parents_are_made_and_links_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    spec = pb.JobSpec(job_id="j", output=pb.Output(path=str(tmp_path / "link" / "a" / "out"), format="tsv"))
    output.prepare_staging(spec)
    assert spec.output.path == str(tmp_path / "real/a/out")
    assert spec.staging == str(tmp_path / "real/a/.out.mr-j")
    output.publish(spec, [], {})
    assert sorted(contents(tmp_path / "real")) == ["a/out/_SUCCESS"]


def test_staging_again_for_the_same_job_keeps_what_is_there(tmp_path: Path) -> None:
    first, again, other = job(tmp_path), job(tmp_path), job(tmp_path, "wc-2")
    for spec in (first, again, other):
        output.prepare_staging(spec)
    assert first == again
    assert other.nonce != first.nonce
    assert other.staging != first.staging


def test_of_many_that_stage_the_same_job_at_once_all_have_one_nonce(tmp_path: Path) -> None:
    """Two clients under one id: the nonce that the accepted spec names must be the one on disk."""
    for round in range(50):
        specs = [job(tmp_path, f"wc-{round}") for _ in range(4)]
        together = threading.Barrier(len(specs))

        def stage(spec: pb.JobSpec, together: threading.Barrier = together) -> None:
            together.wait(timeout=10)
            output.prepare_staging(spec)

        with futures.ThreadPoolExecutor(len(specs)) as pool:
            list(pool.map(stage, specs))
        assert len({spec.nonce for spec in specs}) == 1
        output.check_nonce(specs[0])
    assert not list(tmp_path.glob("*~*")), "what the losers made is gone"


def test_a_place_that_is_half_removed_is_refused(tmp_path: Path) -> None:
    spec = job(tmp_path)
    output.prepare_staging(spec)
    Path(spec.staging, "nonce").unlink()
    with pytest.raises(OutputError, match="half removed"):
        output.prepare_staging(job(tmp_path))


@pytest.mark.parametrize("change", ["gone", "another", "unreadable"])
def test_a_place_that_is_not_the_same_is_found(tmp_path: Path, change: str) -> None:
    spec = job(tmp_path)
    output.prepare_staging(spec)
    output.check_nonce(spec)
    nonce = Path(spec.staging, "nonce")
    match change:
        case "gone":
            shutil.rmtree(spec.staging)
        case "another":
            nonce.write_text("0" * 32)
        case "unreadable":
            nonce.unlink()
            nonce.mkdir()
    with pytest.raises(OutputError) as caught:
        output.check_nonce(spec)
    assert caught.value.cause == Cause.PATH_NOT_SHARED


def test_a_part_that_is_not_as_reported_is_not_published(tmp_path: Path, staged: Any) -> None:
    spec, files = staged
    output.attempt_path(spec, files[2].name).write_bytes(b"short")
    with pytest.raises(OutputError, match="has 5 bytes"):
        output.publish(spec, files, COUNTERS)
    assert not (tmp_path / "out").exists()


def test_a_winner_that_vanished_is_named_and_nothing_appears(tmp_path: Path, staged: Any) -> None:
    spec, files = staged
    output.attempt_path(spec, files[2].name).unlink()
    with pytest.raises(OutputError, match="part-r-00002"):
        output.publish(spec, files, COUNTERS)
    assert not (tmp_path / "out").exists()


def test_an_output_filled_meanwhile_is_not_overwritten(tmp_path: Path, staged: Any) -> None:  # D12
    spec, files = staged
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(OutputError) as caught:
        output.publish(spec, files, COUNTERS)
    assert caught.value.cause == Cause.OUTPUT_EXISTS
    assert contents(tmp_path / "out") == {"mine": b"precious"}
    (tmp_path / "out" / "mine").unlink()
    output.publish(spec, files, COUNTERS)  # the leader repeats it until it can be done
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("part", ["../escape", "/etc/escape", "a/../../escape", ""])
def test_no_name_leads_out_of_the_output(tmp_path: Path, staged: Any, part: str) -> None:
    spec, files = staged
    files[2].part = part
    with pytest.raises(OutputError, match="no name inside an output"):
        output.publish(spec, files, COUNTERS)


def test_cleanup_removes_all_and_may_be_repeated(tmp_path: Path, staged: Any) -> None:  # D9
    spec, _ = staged
    output.cleanup(spec)
    output.cleanup(spec)
    assert list(tmp_path.iterdir()) == []


def test_an_aborted_part_is_gone(tmp_path: Path) -> None:
    writer = output.part_writer(pb.Output(format="tsv"), tmp_path / "x")
    writer.extend([("a", 1)])
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_room_is_no_fault_of_the_worker() -> None:  # FD9
    """Not DISK_FULL, which is the worker's own disk and counts against it."""
    writer = output.part_writer(pb.Output(format="tsv"), Path("/dev/full"))
    writer.extend([("key", 1)])
    with pytest.raises(OutputError, match="No space left on device for /dev/full") as full:
        writer.close()
    assert full.value.cause is Cause.OUTPUT_FULL
