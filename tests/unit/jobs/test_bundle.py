"""The code bundle: deterministic, complete for plain imports, and believed only by its digest (FD25, D7)."""

import gc
import hashlib
import io
import os
import sys
import zipfile
from concurrent import futures
from pathlib import Path

import pytest

from mr import bundle
from mr.bundle import BundleError
from mr.errors import Cause, Usage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    code = tmp_path / "code"
    (code / "pack" / "inner").mkdir(parents=True)
    (code / "job.py").write_text("import helper\nimport json\ndef m(v):\n    from pack.inner import deep\n")
    (code / "helper.py").write_text("import other\n")
    (code / "other.py").write_text("import helper\n")
    (code / "unused.py").write_text("")
    (code / "pack" / "__init__.py").write_text("")
    (code / "pack" / "inner" / "__init__.py").write_text("")
    (code / "pack" / "inner" / "deep.py").write_text("import late\n")
    (code / "late.py").write_text("")
    return code


def test_what_the_job_imports_from_its_folder_is_taken_along(folder: Path) -> None:
    names = bundle.build(folder / "job.py").names
    assert names == (
        "helper.py",
        "job.py",
        "late.py",
        "other.py",
        "pack/__init__.py",
        "pack/inner/__init__.py",
        "pack/inner/deep.py",
    )


def test_equal_files_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    first = bundle.build(folder / "job.py")
    for path in folder.rglob("*.py"):
        os.utime(path, (0, 0))
        path.chmod(0o600)
    assert bundle.build(folder / "job.py") == first
    (folder / "helper.py").write_text("import other  # changed\n")
    assert bundle.build(folder / "job.py").digest != first.digest


def test_extra_files_and_folders_lie_at_the_top(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stop.txt").write_text("a")
    (tmp_path / "data" / "__pycache__").mkdir()
    (tmp_path / "data" / "__pycache__" / "x.pyc").write_text("a")
    names = bundle.build(folder / "job.py", [folder / "unused.py"], [tmp_path / "data"]).names
    assert {"unused.py", "data/stop.txt"} < set(names)
    assert not any("pyc" in name for name in names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["gone.py"], []), r"no file .*gone\.py, named with --py-files or --files"),
        (([], ["sub/job.py"]), r"two files of the bundle have the name job\.py"),
    ],
)
def test_what_cannot_be_bundled_is_said(folder: Path, given, message: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "job.py").write_text("")
    with pytest.raises(Usage, match=message):
        bundle.build(folder / "job.py", *([folder / name for name in names] for names in given))


def test_no_job_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="no job file"):
        bundle.build(tmp_path / "nothing.py")


def test_a_bundle_unpacks_once_whole_and_again_for_nothing(folder: Path, tmp_path: Path) -> None:
    packed = bundle.build(folder / "job.py")
    there = bundle.unpack(packed.data, packed.digest, tmp_path / "root")
    assert there == tmp_path / "root" / packed.digest.hex()
    assert (there / "pack/inner/deep.py").read_text() == "import late\n"
    stamp = there.stat().st_mtime_ns
    assert bundle.unpack(packed.data, packed.digest, tmp_path / "root") == there
    assert there.stat().st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "root").iterdir()] == [there.name]


def test_altered_bytes_are_refused(folder: Path, tmp_path: Path) -> None:
    packed = bundle.build(folder / "job.py")
    for at in (0, len(packed.data) // 2, len(packed.data) - 1):
        damaged = bytearray(packed.data)
        damaged[at] ^= 1
        with pytest.raises(BundleError) as caught:
            bundle.unpack(bytes(damaged), packed.digest, tmp_path / "root")
        assert caught.value.cause is Cause.CODE_UNAVAILABLE
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "a\\..\\evil.py"])
def test_a_name_outside_of_the_bundle_is_refused(name: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("good.py", "")
        archive.writestr(name, "x")
    data = out.getvalue()
    with pytest.raises(BundleError, match="outside itself"):
        bundle.unpack(data, hashlib.sha256(data).digest(), tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
    assert not list(tmp_path.rglob("evil.py"))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    data = b"no archive"
    with pytest.raises(BundleError, match="can't be read"):
        bundle.unpack(data, hashlib.sha256(data).digest(), tmp_path / "root")


def test_threads_that_submit_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Found by a storm, seed 447883945: SystemError, "AST constructor recursion depth mismatch", in a client's thread.

    The parser loses count when another thread parses while it runs Python code, as collecting garbage may: here a
    callback is called at nearly each of its steps."""
    job = tmp_path / "job.py"
    job.write_text(
        "".join(f"def f{n}(x):\n    return [((a, b), {{c: x}}) for a, b, c in x]\n" for n in range(60))
    )
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()

    def slow(_phase: str, _info: dict[str, int]) -> None:
        sum(range(50))

    gc.set_threshold(50)
    gc.callbacks.append(slow)
    sys.setswitchinterval(1e-6)
    try:
        with futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: list(bundle.siblings(job)), range(18)))
    finally:
        sys.setswitchinterval(interval)
        gc.callbacks.remove(slow)
        gc.set_threshold(*threshold)
