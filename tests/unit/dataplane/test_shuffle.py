"""Groups come out as documented, whatever the buffer, the runs and the memory (D6, D11, S3-28, FD17, FD21-24)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mr.codec import NotAPair, Unencodable, encode_key
from mr.rpc.job_pb2 import Options
from mr.shuffle import merge, segment
from mr.shuffle.buffer import BadPartition, MapBuffer, limit_for
from mr.shuffle.merge import FAN_IN, ChangedKey, narrow
from tests.unit.dataplane.pipeline import encoded, expected, region, run_job, run_map, run_reduce

PROPERTY = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KEYS = st.one_of(
    st.integers(-3, 3), st.floats(-1, 1), st.booleans(), st.none(), st.text(max_size=3), st.binary(max_size=2),
    st.tuples(st.integers(0, 2), st.text(max_size=2)), st.lists(st.integers(0, 1), max_size=2),
)  # fmt: skip
VALUES = st.one_of(
    st.integers(),
    st.text(max_size=5),
    st.tuples(st.integers(0, 9), st.none()),
    st.lists(st.integers(0, 9), max_size=2),
)
MAPS = st.lists(st.lists(st.tuples(KEYS, VALUES), max_size=30), max_size=5)


def add(key: Any, values: Iterator[int]) -> Iterator[tuple[Any, int]]:
    yield key, sum(values)


def fresh(folder: Path) -> Path:
    """A new folder for every example of a property."""
    folder = folder / f"{len(list(folder.iterdir())):05d}"
    folder.mkdir()
    return folder


@PROPERTY
@given(MAPS, st.integers(1, 4), st.sampled_from([0, 900, 2500]))
def test_every_pair_comes_out_once_in_order(
    tmp_path: Path, maps: list[list[Any]], reduces: int, limit: int
) -> None:
    out = run_job(fresh(tmp_path), maps, reduces, limit_bytes=limit)
    assert encoded(out) == expected(maps, reduces)


@PROPERTY
@given(MAPS, st.sampled_from([0, 900]))
@example([[("", 0), ("\x00", 0)]], 0)
def test_sorted_values_stand_in_the_documented_order(
    tmp_path: Path, maps: list[list[Any]], limit: int
) -> None:
    out = run_job(fresh(tmp_path), maps, 2, limit_bytes=limit, sort_values=True)
    wanted = [[(key, sorted(values, key=encode_key)) for key, values in part] for part in expected(maps, 2)]
    assert encoded(out) == wanted


@PROPERTY
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-(10**9), 10**9)), max_size=40), max_size=40
    ),
    st.sampled_from([0, 1200]),
)
def test_a_combiner_may_run_any_number_of_times(
    tmp_path: Path, maps: list[list[Any]], limit: int
) -> None:  # FD21
    plain = run_job(fresh(tmp_path), maps, 2)
    combined = run_job(fresh(tmp_path), maps, 2, combine=add, limit_bytes=limit)
    assert [[(k, sum(v)) for k, v in part] for part in combined] == [
        [(k, sum(v)) for k, v in part] for part in plain
    ]


@pytest.mark.parametrize("limit", [0, 20_000, 50_000])
@pytest.mark.parametrize("distinct", [1, 50, 5_000])
def test_records_are_conserved(tmp_path: Path, limit: int, distinct: int) -> None:  # D6
    pairs = [(i * 7919 % distinct, 1) for i in range(8_000)]
    path, buffer = run_map(tmp_path, 0, pairs, reduces=3, combine=add, limit_bytes=limit)
    assert buffer.records_in == 8_000
    assert buffer.records_in - buffer.combine_in + buffer.combine_out == buffer.records_out
    assert buffer.records_out == sum(segment.open_index(path).records) == distinct
    assert list(tmp_path.glob("*.run")) == list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("options", [{}, {"combine": add}, {"limit_bytes": 20_000}, {"sort_values": True}])
def test_the_same_pairs_make_the_same_bytes(tmp_path: Path, options: dict[str, Any]) -> None:  # D11
    """However they were handed over: by record, at once, or while the collector ran."""
    pairs = [(f"w{i * i % 991}", i) for i in range(10_000)]
    first, _ = run_map(tmp_path / "a", 0, pairs, reduces=3, **options)
    buffer = MapBuffer(tmp_path / "a", 3, owner=segment.owner("job-1", 0, 0, 1), **options)
    for pair in pairs:
        buffer.extend([pair])
    second = tmp_path / "second.seg"
    buffer.finish(second)
    assert first.read_bytes() == second.read_bytes()
    assert segment.index_digest(first) == segment.index_digest(second)


@pytest.mark.parametrize(
    ("runs", "widths"),
    [
        (1, []),
        (FAN_IN, []),
        (FAN_IN + 1, [2]),
        (2 * FAN_IN, [FAN_IN, 2]),
        (1000, [FAN_IN] * 31 + [8]),
    ],
)
def test_no_more_runs_are_joined_than_needed(runs: int, widths: list[int]) -> None:  # FD23
    seen: list[int] = []

    def join(part: Any) -> tuple[int, ...]:
        seen.append(len(part))
        return tuple(number for item in part for number in item)

    left = narrow([(i,) for i in range(runs)], join)
    assert [number for item in left for number in item] == list(range(runs)), "the order of runs is kept"
    assert len(left) == min(runs, FAN_IN)
    assert max(seen, default=0) <= FAN_IN
    assert sorted(seen, reverse=True) == widths


@pytest.mark.parametrize("options", [{}, {"combine": add}, {"sort_values": True}])
def test_a_thousand_runs_merge_with_few_open_files(tmp_path: Path, options: dict[str, Any]) -> None:  # FD23
    paths = [run_map(tmp_path / "maps", i, [(k, i) for k in range(5)], **options)[0] for i in range(1000)]
    runs = [region(path, i) for i, path in enumerate(paths)]
    opened = len(os.listdir("/proc/self/fd"))
    most = 0
    out = []
    for key, values in merge.groups(runs, tmp_path, job="job-1", step=0, partition=0, **options):
        most = max(most, len(os.listdir("/proc/self/fd")))
        out.append((key, list(values)))
    assert most <= opened + 2
    if "combine" in options:
        assert [(key, sum(values)) for key, values in out] == [(k, 499_500) for k in range(5)]
    else:
        assert out == [(k, list(range(1000))) for k in range(5)]
    assert [p.name for p in tmp_path.iterdir()] == ["maps"], "passes leave nothing behind"


def test_one_key_with_nearly_all_values_is_streamed_in_order(tmp_path: Path) -> None:  # FD17
    maps = [[("hot" if i % 10 else f"cold{i % 3}", (m, i)) for i in range(30_000)] for m in range(3)]
    out = run_job(tmp_path, maps, 1, limit_bytes=1 << 20)
    assert encoded(out) == expected(maps, 1)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_values_that_are_not_read_are_passed_over(tmp_path: Path, step: int) -> None:
    maps = [[(f"k{i % 40:02d}", i) for i in range(40_000)] for _ in range(2)]
    runs = [region(run_map(tmp_path, i, pairs)[0], i) for i, pairs in enumerate(maps)]
    seen = []
    for n, (key, values) in enumerate(merge.groups(runs, tmp_path, job="job-1", step=0, partition=0)):
        if n % step == 0:
            assert next(values) == int(key[1:])
        seen.append(key)
    assert seen == [f"k{i:02d}" for i in range(40)]


def test_huge_keys_and_values_pass(tmp_path: Path) -> None:  # FD17
    big_key, big_value = "k" * 10_000_000, "v" * 30_000_000
    maps = [[("a", 1), (big_key, 2), ("z", big_value), ("z", 3)], [(big_key, big_value), ("z", "small")]]
    out = run_job(tmp_path, maps, 1, limit_bytes=1 << 20)
    assert out == [[("a", [1]), (big_key, [2, big_value]), ("z", [big_value, 3, "small"])]]


def test_a_mapper_may_reuse_what_it_emitted(tmp_path: Path) -> None:
    def pairs() -> Iterator[tuple[str, list[int]]]:
        row: list[int] = []
        for i in range(3):
            row.append(i)
            yield "k", row

    for combine in (None, lambda key, values: ((key, value) for value in values)):
        path, _ = run_map(tmp_path, 0, pairs(), combine=combine)
        assert run_reduce(tmp_path, [region(path, 0)]) == [("k", [[0], [0, 1], [0, 1, 2]])]


@pytest.mark.parametrize(
    ("promise", "pair", "error", "says"),
    [
        ("a word alone is no pair", "ab", NotAPair, "'ab'"),
        ("a triple is no pair", (1, 2, 3), NotAPair, "(1, 2, 3)"),
        ("None is no pair", None, NotAPair, "None"),
        ("a set is no key", ({1}, 1), Unencodable, "a set can't be a key"),
        ("a set is no value", (1, {1}), Unencodable, "a set can't be a value"),
    ],
)
def test_what_is_no_pair_is_named(
    tmp_path: Path, promise: str, pair: Any, error: type[Exception], says: str
) -> None:
    buffer = MapBuffer(tmp_path, 1, owner=b"")
    with pytest.raises(error) as caught:
        buffer.extend([("good", 1), pair])
    assert says in str(caught.value), promise
    assert buffer.records_in == 1


@pytest.mark.parametrize("answer", [-1, 2, None, 0.0, True, "1"])
def test_a_partitioner_must_answer_a_partition(tmp_path: Path, answer: Any) -> None:  # P-02
    with pytest.raises(BadPartition):
        run_map(tmp_path, 0, [("a", 1)], reduces=2, partition=lambda key, reduces: answer)


def test_a_partitioner_sees_the_key_and_r(tmp_path: Path) -> None:  # P-02
    maps = [[((letter, i), i) for letter in "ab" for i in range(3)]]
    out = run_job(tmp_path, maps, 2, partition=lambda key, reduces: "ab".index(key[0]) % reduces)
    assert [[key for key, _ in part] for part in out] == [
        [("a", i) for i in range(3)],
        [("b", i) for i in range(3)],
    ]


def test_a_combiner_must_keep_its_key(tmp_path: Path) -> None:
    with pytest.raises(ChangedKey):
        run_map(tmp_path, 0, [("a", 1), ("a", 2)], combine=lambda key, values: [("b", sum(values))])


def test_exceptions_of_user_code_pass_through(tmp_path: Path) -> None:  # FD21
    def broken(key: Any, values: Iterator[int]) -> Iterator[tuple[Any, int]]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_map(tmp_path, 0, [("a", 1), ("a", 2)], combine=broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        (Options(), 32 << 20),
        (Options(sort_buffer_bytes=5 << 20), 5 << 20),
        (Options(sort_buffer_bytes=1), 1 << 20),
        (Options(memory_bytes=64 << 20), 8 << 20),
        (Options(memory_bytes=8 << 30), 32 << 20),
    ],
)
def test_the_spill_limit_follows_from_the_job_alone(options: Options, limit: int) -> None:
    assert limit_for(options) == limit


REDUCE_UNDER_LIMIT = """
import resource, sys
from pathlib import Path
from tests.unit.dataplane.pipeline import region
from mr.shuffle.merge import groups
folder, maps = Path(sys.argv[1]), int(sys.argv[2])
runs = [region(folder / f"0.m-{i:05d}.a1.seg", i) for i in range(maps)]
resource.setrlimit(resource.RLIMIT_DATA, (40 << 20, 40 << 20))
records = size = 0
last = ""
for key, values in groups(runs, folder, job="job-1", step=0, partition=0):
    assert key > last
    last = key
    for value in values:
        records += 1
        size += len(value)
print(records, size)
"""


def test_a_partition_of_ten_times_the_memory_is_reduced(tmp_path: Path) -> None:  # S3-28, FD24
    """A process limited to 40 MiB of memory reduces 400 MiB in 40 runs, hence in two passes."""
    maps, each = 40, 10_000
    for m in range(maps):
        run_map(tmp_path, m, ((f"{i * 7919 % 100_003:06d}", f"{m:024d}" * 42) for i in range(each)))
    child = subprocess.run(
        [sys.executable, "-c", REDUCE_UNDER_LIMIT, str(tmp_path), str(maps)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [str(maps * each), str(maps * each * 24 * 42)]
