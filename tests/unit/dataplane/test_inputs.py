"""What was typed becomes a listing, a listing a plan; what is wrong is named (S3-11, S3-12, FT23, D8, FD15)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.causes import Cause
from mr.formats import input_format
from mr.inputs import InputError, list_inputs
from mr.io import read_range, tokenize
from mr.rpc.job_pb2 import Split
from mr.splits import FileInfo, codec_of, plan

MIB = 1 << 20
FILES = st.lists(st.tuples(st.sampled_from(["t", "gz"]), st.integers(0, 5000)), max_size=30).map(
    lambda rows: [FileInfo(f"/in/{i:05d}.{kind}", size, 1) for i, (kind, size) in enumerate(rows)]
)


@settings(deadline=None, max_examples=200)
@given(FILES, st.integers(1, 3000), st.booleans())
def test_a_plan_covers_every_byte_once_in_order(
    files: list[FileInfo], split_bytes: int, splittable: bool
) -> None:
    splits = plan(files, split_bytes, splittable=splittable).splits
    pieces = [piece for split in splits for piece in split.pieces]
    at = {file.path: 0 for file in files}
    for piece in pieces:
        assert piece.start == at[piece.path] < piece.end
        at[piece.path] = piece.end
    assert at == {file.path: file.size for file in files}
    assert [p.path for p in pieces] == sorted(p.path for p in pieces), "map order is the order of the listing"
    for split in splits:
        assert split.bytes == sum(p.end - p.start for p in split.pieces)
        whole = all(p.codec or not splittable for p in split.pieces)
        assert split.bytes <= split_bytes * 1.1 or (len(split.pieces) == 1 and whole), (
            "about as large as asked"
        )
    assert plan(files, split_bytes, splittable=splittable).splits == splits, "the same listing, the same plan"


@pytest.mark.parametrize(
    ("promise", "sizes", "split_mib", "splits"),
    [
        ("a big file is cut evenly", [100], 30, [[25], [25], [25], [25]]),
        ("a little more than a split is one", [32], 30, [[32]]),
        ("small files are packed", [10, 10, 10, 10], 30, [[10, 10, 10], [10]]),
        ("an empty file makes no piece", [0, 5, 0], 30, [[5]]),
        ("no input at all is one empty split", [], 30, [[]]),
    ],
)
def test_plans(promise: str, sizes: list[int], split_mib: int, splits: list[list[int]]) -> None:
    files = [FileInfo(f"/in/{i}", size * MIB, 1) for i, size in enumerate(sizes)]
    got = [[(p.end - p.start) // MIB for p in split.pieces] for split in plan(files, split_mib * MIB).splits]
    assert got == splits, promise


def test_tens_of_thousands_of_files_are_planned() -> None:
    files = [FileInfo(f"/in/{i:06d}.py", 7_000, 1) for i in range(50_000)]
    splits = plan(files, 8 * MIB).splits
    assert sum(len(split.pieces) for split in splits) == 50_000
    assert len(splits) == -(-50_000 // (8 * MIB // 7_000))
    assert (
        max(len(split.pieces) for split in plan([FileInfo(str(i), 1, 1) for i in range(30_000)]).splits)
        == 10_000
    )


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.gz", "gz"), ("a.tar.bz2", "bz2"), ("a.xz", "xz"), ("a.zst", "zst"), ("a.txt", ""), ("gz", "")],
)
def test_compression_is_known_by_name(name: str, codec: str) -> None:
    assert codec_of(name) == codec


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.txt",
        "a.txt",
        "sub/c.txt",
        "sub/deep/d.log",
        ".hidden",
        "sub/.git/x",
        "_SUCCESS",
        "sub/_SUCCESS",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "list").write_text(f"# inputs\n{tmp_path}/sub\n\n  {tmp_path}/b.txt\n")
    return tmp_path


@pytest.mark.parametrize(
    ("promise", "patterns", "found"),
    [
        ("a file", ["{}/b.txt"], ["b.txt"]),
        ("a directory is walked, but for dotfiles and _SUCCESS", ["{}/sub"], ["sub/c.txt", "sub/deep/d.log"]),
        ("a glob", ["{}/*.txt"], ["a.txt", "b.txt"]),
        ("a deep glob", ["{}/**/*.txt"], ["a.txt", "b.txt", "sub/c.txt"]),
        ("a glob may match a directory", ["{}/su?"], ["sub/c.txt", "sub/deep/d.log"]),
        ("a list", ["@{}/list"], ["b.txt", "sub/c.txt", "sub/deep/d.log"]),
        ("what is named twice is read once", ["{}/b.txt", "{}/*.txt", "{}/sub/../b.txt"], ["a.txt", "b.txt"]),
        ("a hidden file may be named", ["{}/.hidden"], [".hidden"]),
    ],
)  # fmt: skip
def test_listing(tree: Path, promise: str, patterns: list[str], found: list[str]) -> None:
    files = list_inputs([pattern.replace("{}", str(tree)) for pattern in patterns])
    assert [os.path.relpath(file.path, tree) for file in files] == found, promise
    for file in files:
        status = os.stat(file.path)
        assert (file.size, file.mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    (tmp_path / "a1.txt").write_text("x")
    assert [os.path.basename(f.path) for f in list_inputs([f"{tmp_path}/a[1].txt"])] == ["a[1].txt"]


def test_paths_are_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "sub")
    assert [f.path for f in list_inputs(["../a.txt"])] == [str(tree / "a.txt")]


@pytest.mark.parametrize(
    ("pattern", "cause", "says"),
    [
        ("{}/a.tx", Cause.INPUT_MISSING, "did you mean {}/a.txt?"),
        ("{}/subb/c.txt", Cause.INPUT_MISSING, "did you mean {}/sub?"),
        ("{}/zzzzzz", Cause.INPUT_MISSING, "nothing like it in {}"),
        ("{}/*.csv", Cause.INPUT_MISSING, "no file matches"),
        ("@{}/nolist", Cause.INPUT_MISSING, "no such input"),
        ("{}/a.txt/b", Cause.INPUT_MISSING, "no such input"),
        ("{}/pipe", Cause.INPUT_UNREADABLE, "neither a file nor a directory"),
        ("@{}/loop", Cause.INPUT_UNREADABLE, "name each other"),
    ],
)
def test_what_is_wrong_with_an_input_is_said(tree: Path, pattern: str, cause: Cause, says: str) -> None:
    os.mkfifo(tree / "pipe")
    (tree / "loop").write_text(f"@{tree}/loop\n")
    with pytest.raises(InputError) as caught:
        list_inputs([pattern.replace("{}", str(tree))])
    assert caught.value.cause == cause
    assert says.replace("{}", str(tree)) in str(caught.value)


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more\n")


def _rewrite(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)
    os.utime(path, ns=(1, time.time_ns() + 10**9))


def _cut(path: Path) -> None:
    os.truncate(path, 3)


def _replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("when", "change", "cause"),
    [
        ("before it is opened", _append, Cause.INPUT_CHANGED),
        ("before it is opened", _rewrite, Cause.INPUT_CHANGED),
        ("before it is opened", _cut, Cause.INPUT_CHANGED),
        ("before it is opened", Path.unlink, Cause.INPUT_MISSING),
        ("before it is opened", _replace_by_a_directory, Cause.INPUT_UNREADABLE),
        ("while it is read", _append, Cause.INPUT_CHANGED),
        ("while it is read", _rewrite, Cause.INPUT_CHANGED),
        ("while it is read", _cut, Cause.INPUT_CHANGED),
    ],
)
def test_a_change_of_an_input_is_noticed(  # D8, FD15
    tmp_path: Path, when: str, change: Callable[[Path], None], cause: Cause
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"line\n" * 100_000)
    (split,) = plan(list_inputs([str(path)])).splits
    batches = input_format("text").read(split)
    if when == "while it is read":
        next(batches)
    change(path)
    with pytest.raises(InputError) as caught:
        list(batches)
    assert caught.value.cause == cause
    assert str(path) in str(caught.value)


def test_an_empty_split_has_no_records() -> None:
    assert list(input_format("text").read(Split())) == []


def test_tools_for_users(tmp_path: Path) -> None:  # S3-23
    (tmp_path / "f").write_bytes(b"0123456789")
    assert read_range(tmp_path / "f", 2, 5) == b"234"
    assert read_range(tmp_path / "f", 8, 50) == b"89"
    with pytest.raises(ValueError, match="no range"):
        read_range(tmp_path / "f", 5, 2)
    assert tokenize("Käse, don't  2_x!") == ["Käse", "don", "t", "2_x"]
    assert tokenize("a;b;;c d", ";") == ["a", "b", "c d"]
