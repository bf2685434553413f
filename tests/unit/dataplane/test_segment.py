"""No altered byte of a segment goes unnoticed, wherever it is read (D7, FD2, FD3)."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mr.causes import Cause
from mr.shuffle import segment
from mr.shuffle.blocks import END_BYTES, Damaged
from mr.shuffle.checker import Checker, verify
from mr.shuffle.merge import CorruptData
from tests.unit.dataplane.pipeline import JOB, region, run_map, run_reduce

OWNER = segment.owner(JOB, 0, 7, 1)
PAIRS = [(f"word{i % 700}", i) for i in range(6000)]
SMALL = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return run_map(tmp_path, 7, PAIRS, reduces=3)[0]


def stored(path: Path, partition: int) -> bytes:
    return b"".join(segment.read_region(path, segment.open_index(path), partition))


def test_names_follow_from_job_and_attempt(made: Path) -> None:  # S1-05
    assert made.name == "0.m-00007.a1.seg"
    assert segment.index_path(made).name == "0.m-00007.a1.idx"
    assert sorted(p.name for p in made.parent.iterdir()) == ["0.m-00007.a1.idx", "0.m-00007.a1.seg"]


def test_the_index_says_where_each_region_is_and_how_much(made: Path) -> None:  # S4-16
    index = segment.open_index(made)
    assert index.reduces == 3
    assert sum(index.records) == len(PAIRS)
    assert index.size == made.stat().st_size == index.offsets[-1] + index.lengths[-1]
    assert index.owner == OWNER


def test_an_empty_region_is_still_there_and_verifies(tmp_path: Path) -> None:
    path, _ = run_map(tmp_path, 7, [], reduces=4)
    assert segment.open_index(path).lengths == (END_BYTES,) * 4
    verify([stored(path, 2)], OWNER, 2, END_BYTES)
    assert run_reduce(tmp_path, [region(path, 7, 2)], 2) == []


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 8, 12, 16, 20, 23, 24, 30, 500, -1, -8, -17, -30])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_in_a_region_is_found(made: Path, at: int, bit: int) -> None:
    data = bytearray(stored(made, 1))
    data[at] ^= 1 << bit
    with pytest.raises(Damaged) as caught:
        verify([bytes(data)], OWNER, 1, len(data), path=made)
    assert caught.value.cause == Cause.CORRUPT_DATA
    assert str(made) in str(caught.value)
    assert "partition 1" in str(caught.value)
    whole = bytearray(made.read_bytes())
    offset = segment.open_index(made).offsets[1]
    whole[offset : offset + len(data)] = data
    made.write_bytes(whole)
    with pytest.raises(CorruptData) as lost:
        run_reduce(made.parent, [region(made, 7, 1)], 1)
    assert (lost.value.map, lost.value.attempt, lost.value.partition) == (7, 1, 1)


@SMALL
@given(st.data())
def test_any_damage_to_a_region_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path, _ = run_map(tmp_path / "once", 7, PAIRS[:800], reduces=1)
    good = stored(path, 0)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.sampled_from(
            [
                good[:at],  # cut
                good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :],
                good[:at] + good[at + 1 :],  # a byte lost
                good[:at] + b"\0" + good[at:],  # a byte too many
                good + good,
                good + b"\0",
            ]
        )
    )
    with pytest.raises(Damaged):
        verify([bad], OWNER, 0, len(good))
    with pytest.raises(Damaged):
        verify([bad], OWNER, 0, len(bad))


@pytest.mark.parametrize(
    ("promise", "owner", "partition"),
    [
        ("an older attempt's region is refused", segment.owner(JOB, 0, 7, 2), 1),
        ("another map's", segment.owner(JOB, 0, 8, 1), 1),
        ("another step's", segment.owner(JOB, 1, 7, 1), 1),
        ("another job's", segment.owner("job-2", 0, 7, 1), 1),
        ("another partition's", OWNER, 2),
    ],
)
def test_an_intact_region_of_another_owner_is_damage(
    made: Path, promise: str, owner: bytes, partition: int
) -> None:
    data = stored(made, 1)
    verify([data], OWNER, 1, len(data))
    with pytest.raises(Damaged):
        verify([data], owner, partition, len(data), path=promise)


def test_a_block_left_out_moved_or_doubled_is_found(tmp_path: Path) -> None:
    rng = random.Random(3)
    path, _ = run_map(tmp_path, 7, [(rng.randbytes(40), 0) for _ in range(20_000)])
    data = stored(path, 0)
    checker, ends = Checker(OWNER, 0, len(data)), [0]
    for i in range(len(data)):
        checker.feed(data[i : i + 1])
        if checker.verified != ends[-1]:
            ends.append(checker.verified)
    blocks = [data[a:b] for a, b in pairwise(ends)]
    assert len(blocks) > 5
    for wrong in (
        [*blocks[:2], *blocks[3:]],
        [blocks[1], blocks[0], *blocks[2:]],
        [blocks[0], *blocks],
        blocks[:-1],
    ):
        with pytest.raises(Damaged):
            verify(wrong, OWNER, 0, sum(map(len, wrong)))


@SMALL
@given(st.lists(st.integers(0, 40_000), max_size=12), st.integers(0, 40_000))
def test_a_region_cut_anywhere_verifies_and_resumes(tmp_path: Path, cuts: list[int], broken: int) -> None:
    path, _ = run_map(tmp_path / "once", 7, PAIRS, reduces=1)
    data = stored(path, 0)
    checker = Checker(OWNER, 0, len(data))
    checker.feed(data[:broken])  # here the stream broke
    checker.resume()
    begin = checker.verified
    assert begin <= broken
    index = segment.open_index(path)
    again = b"".join(segment.read_region(path, index, 0, begin, piece_bytes=1000))
    assert data[:begin] + again == data
    edges = sorted({min(cut, len(again)) for cut in cuts} | {0, len(again)})
    for a, b in pairwise(edges):
        checker.feed(again[a:b])
    checker.finish()


def test_a_region_that_ends_early_is_not_finished(made: Path) -> None:
    data = stored(made, 0)
    checker = Checker(OWNER, 0, len(data))
    checker.feed(data[:-1])
    with pytest.raises(Damaged, match="ends early"):
        checker.finish()


def test_a_truncated_file_is_found_by_who_serves_it(made: Path) -> None:
    index = segment.open_index(made)
    with open(made, "r+b") as file:
        file.truncate(index.size - 10)
    with pytest.raises(Damaged, match="ends early"):
        list(segment.read_region(made, index, 2))


@SMALL
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_damage_to_an_index_is_found(tmp_path: Path, at: int, flip: int) -> None:
    path, _ = run_map(tmp_path / "once", 7, PAIRS[:50], reduces=3)
    index = segment.index_path(path)
    data = bytearray(index.read_bytes())
    digest = segment.index_digest(path)
    data[at % len(data)] ^= flip
    index.write_bytes(data)
    with pytest.raises(Damaged):
        segment.open_index(path)
    assert segment.index_digest(path) != digest


def test_a_failing_map_leaves_no_file(tmp_path: Path) -> None:
    def pairs():  # type: ignore[no-untyped-def]
        for i in range(50_000):
            yield f"{i:06d}", 1
        raise RuntimeError("user code")

    from mr.shuffle.buffer import MapBuffer

    buffer = MapBuffer(tmp_path, 2, owner=OWNER, limit_bytes=1 << 20)
    with pytest.raises(RuntimeError):
        buffer.extend(pairs())
    assert buffer.spills
    buffer.discard()
    assert list(tmp_path.iterdir()) == []
