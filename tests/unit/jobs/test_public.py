"""`import mr`: light, complete, typed; functions testable with no cluster (S2-10), and its small parts."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mr
from mr import frames, names, position
from mr.context import Context
from mr.rpc import job_pb2 as pb


def test_every_public_name_is_there() -> None:
    for name in mr.__all__:
        assert getattr(mr, name) is not None, name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mr.nonsense


def test_a_job_file_imports_neither_grpc_nor_protobuf_nor_pyarrow() -> None:
    check = """
import sys, mr
@mr.mapper("m")
def m(line): yield line, 1
job = mr.Job("j", mr.step(m), input=mr.text())
heavy = [name for name in ("grpc", "google.protobuf", "pyarrow", "asyncio", "click") if name in sys.modules]
sys.exit(", ".join(heavy) or 0)
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_at_a_prompt_a_function_may_be_defined_again() -> None:
    again = """
import mr
for n in (1, 2):
    @mr.mapper("m")
    def m(line): return [(line, n)]
assert mr.step(m).mapper == "m"
@mr.reducer("m")
def other(key, values): pass
"""
    done = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=False)
    assert 'the name "m" is used twice: mapper at' in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_outside_of_a_task_the_context_takes_what_it_is_told() -> None:
    ctx = mr.ctx()
    ctx.count("seen", 2)
    ctx.status("busy")
    ctx.emit_to("other")("k", "v")
    with ctx.side_file("f") as file:
        file.write(b"x")
    assert ctx.counters["user:seen"] >= 2
    assert isinstance(ctx.log, logging.Logger)
    assert mr.ctx() is ctx


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "x" * 101, "a\0b"])
def test_a_side_file_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a side file"):
        Context().side_file(name)


@pytest.mark.parametrize("name", ["part", "side", "_SUCCESS"])
def test_a_side_output_hides_nothing_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a side output"):
        Context().emit_to(name)


def test_counters_are_bounded_and_ours_are_ours() -> None:
    context = Context()
    with pytest.raises(ValueError, match="system's"):
        context.count("records", group="mr")
    for i in range(1000):
        context.count(f"c{i}")
    context.count("c0")
    with pytest.raises(ValueError, match="more than 1000 counters"):
        context.count("one more")


TASKS = st.builds(
    pb.TaskId,
    job=st.just("j"),
    step=st.integers(0, 2**31),
    kind=st.sampled_from(list(names.LETTERS)),
    index=st.integers(0, 2**31),
)


@given(task=TASKS, number=st.integers(1, 2**31))
def test_names_of_tasks_and_attempts_go_both_ways(task: pb.TaskId, number: int) -> None:
    """S1-05: the names are a pure function, and two attempts never share one."""
    assert names.parse_task(names.task_text(task), "j") == task
    attempt = pb.AttemptId(task=task, number=number)
    assert names.parse_attempt(names.attempt_name(attempt), "j") == attempt


@pytest.mark.parametrize("text", ["", "m7", "q-7", "m-", "m--7", "1.m-7.a1", "m-7 "])
def test_what_names_no_task_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="names no task"):
        names.parse_task(text)


def test_the_names_of_the_documents() -> None:
    task = pb.TaskId(job="j", kind=pb.MAP, index=7)
    assert names.task_text(task) == "m-7"
    assert names.segment_name(pb.AttemptId(task=task, number=1)) == "0.m-00007.a1.seg"
    assert names.part_name(pb.TaskId(kind=pb.REDUCE, index=3)) == "part-r-00003"
    assert names.parse_task("2.m-00007") == pb.TaskId(step=2, kind=pb.MAP, index=7)


@given(st.lists(st.binary(max_size=70000), max_size=4))
def test_frames_come_out_as_they_went_in(bodies: list[bytes]) -> None:
    read, write = os.pipe()

    def send() -> None:
        for body in bodies:
            frames.write_frame(write, body)
        os.close(write)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        got = []
        while (frame := frames.read_frame(read)) is not None:
            got.append(frame)
        assert got == bodies
    finally:
        sender.join()
        os.close(read)


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_a_frame_that_is_cut_is_an_error(cut: int) -> None:
    read, write = os.pipe()
    os.write(write, (b"\0\0\0\5hello")[:cut])
    os.close(write)
    with pytest.raises(EOFError):
        frames.read_frame(read)
    os.close(read)


def test_the_record_in_hand_is_read_by_another(tmp_path: Path) -> None:
    """P-07."""
    assert position.read(tmp_path) is None
    marker = position.Marker(tmp_path)
    marker.phase(position.Phase.MAP)
    marker.slots[0] = 41
    assert position.read(tmp_path) == (41, position.Phase.MAP)
    marker.close()
    assert (tmp_path / "position").stat().st_size == position.SIZE
