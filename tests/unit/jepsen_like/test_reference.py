"""The reference interpreter against answers written by hand; workloads are functions of a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepsen_like import reference, tasks, workloads
from jepsen_like.watcher import look


def write(folder: Path, *texts: bytes) -> list[Path]:
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    return paths


def test_words_are_counted_over_files_with_and_without_a_last_newline(tmp_path: Path) -> None:
    files = write(tmp_path, b"b a\r\nA", b"a\n")
    answer = reference.run(tasks.count_map, tasks.count_reduce, files, 1)
    assert answer.parts == [b"a\t3\nb\t1\n"]
    assert (answer.records_in, answer.emitted, answer.groups, answer.records_out) == (3, 4, 2, 2)


def test_values_keep_the_order_of_the_input_and_fields_are_escaped(tmp_path: Path) -> None:
    files = write(tmp_path, b"k\t2\tx\nj\t0\n", b"k\t1\\\n")
    answer = reference.run(tasks.sort_map, tasks.sort_reduce, files, 1)
    assert answer.parts == [b"j\t0\nk\t2\\tx\nk\t1\\\\\n"]


def test_a_key_goes_where_the_published_vectors_say(tmp_path: Path) -> None:
    """mr/partition.py: key "a" is in partition 3 of 7 and 565 of 1000."""
    files = write(tmp_path, b"a")
    for reduces, part in ((7, 3), (1000, 565)):
        parts = reference.run(tasks.count_map, tasks.count_reduce, files, reduces).parts
        assert [number for number, data in enumerate(parts) if data] == [part]


def test_equal_seeds_give_equal_jobs_and_equal_inputs(tmp_path: Path) -> None:
    plan = workloads.plan(5, 60)
    assert plan == workloads.plan(5, 60)
    assert plan != workloads.plan(6, 60)
    assert len({work.id for work in plan}) == len(plan)
    assert not any(a.id != b.id and b.id.startswith(a.id) for a in plan for b in plan)
    for work in plan[:4]:
        first = [path.read_bytes() for path in workloads.write_inputs(work, tmp_path / "1" / work.id)]
        assert first == [path.read_bytes() for path in workloads.write_inputs(work, tmp_path / "2" / work.id)]


@pytest.mark.parametrize("shape", list(tasks.SHAPES))
def test_every_shape_is_a_job_file_that_loads(shape: str, tmp_path: Path) -> None:
    from mr.loader import load

    file = tmp_path / f"chaos_{shape}.py"
    file.write_text(tasks.source(shape))
    step = load(file).job.steps[0]
    assert bool(step.combiner) == (tasks.SHAPES[shape][2] is not None)


def test_a_marker_without_its_parts_is_torn(tmp_path: Path) -> None:
    """D4, as a user's next program would see it."""
    assert look(tmp_path) is None
    (tmp_path / "_SUCCESS").write_text('{"files": [{"name": "part-r-00000", "bytes": 2}]}')
    assert look(tmp_path) == ["part-r-00000"]
    (tmp_path / "part-r-00000").write_bytes(b"x")
    assert look(tmp_path) == ["part-r-00000"]
    (tmp_path / "part-r-00000").write_bytes(b"xy")
    assert look(tmp_path) == []
