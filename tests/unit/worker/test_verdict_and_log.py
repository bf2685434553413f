"""The death of a process has one cause of the closed list; what it printed is kept within a bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr.rpc import job_pb2 as job
from worker import verdict
from worker.log import AttemptLog

GIB = 1 << 30


@pytest.mark.parametrize(
    ("promise", "status", "peak", "limit", "cause", "exit_status"),
    [
        ("an exit in the middle is the user's", "exit 0", 0, GIB, job.USER_EXIT, 0),
        ("with its status", "exit 3", 0, GIB, job.USER_EXIT, 3),
        ("a crash is native code's", "signal 11", 0, GIB, job.NATIVE_SIGNAL, -11),
        ("a kill is a kill", "signal 9", GIB // 2, GIB, job.NATIVE_SIGNAL, -9),
        ("but near the limit it was for memory", "signal 9", GIB, GIB, job.OUT_OF_MEMORY, -9),
        ("which needs a limit to be said", "signal 9", GIB, 0, job.NATIVE_SIGNAL, -9),
        ("CPU time is time", "signal 24", 0, GIB, job.TASK_TIMEOUT, -24),
        ("a dead keeper says nothing", "", 0, GIB, job.NATIVE_SIGNAL, -9),
        ("a signal without a name has a number", "signal 63", 0, GIB, job.NATIVE_SIGNAL, -63),
    ],
)
def test_a_death_has_one_cause(
    promise: str, status: str, peak: int, limit: int, cause: int, exit_status: int
) -> None:
    failure = verdict.of_death(status, peak, limit)
    assert (failure.cause, failure.exit_status) == (cause, exit_status), promise
    assert failure.message


@given(st.text(max_size=30))
def test_no_status_is_no_crash(status: str) -> None:
    assert verdict.of_death(status, 0, 0).cause


@given(
    st.lists(st.binary(max_size=50), max_size=30),
    st.integers(0, 200),
    st.integers(1, 60),
)
def test_a_log_is_whole_or_says_what_is_missing(pieces: list[bytes], head: int, tail: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job" / "a.log"
        with AttemptLog(path, head, tail) as log:
            for piece in pieces:
                log.write(piece)
        written, kept = b"".join(pieces), path.read_bytes()
    if len(written) <= head + tail:
        assert kept == written
        return
    dropped = len(written) - head - tail
    assert kept == written[:head] + f"\n... {dropped} bytes left out ...\n".encode() + written[-tail:]


def test_a_full_disk_loses_text_and_nothing_else() -> None:
    with AttemptLog(Path("/dev/full")) as log:
        log.write(b"x" * 100)


def test_no_place_for_a_log_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with AttemptLog(tmp_path / "file" / "below.log") as log:
        log.write(b"x")
