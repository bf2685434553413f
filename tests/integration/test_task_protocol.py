"""The task process from outside: what it answers when the code, the Python or the order is not what it should be.

S1-03, S1-04; MODULE_NOT_FOUND and PYTHON_MISMATCH of design.md section 10; describe's exit-2 messages.
"""

import textwrap
from pathlib import Path

import pytest

import mr
from mr import bundle
from mr.describe import describe
from mr.failures import AttemptFailed
from mr.mapping import map_on
from mr.registry import JobFileError
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2
from mr.taskproc import TaskProcess

JOB = """
    import helper
    def mapper(line):
        yield helper.change(line), 1
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "job.py").write_text(textwrap.dedent(JOB))
    (folder / "helper.py").write_text("def change(line): return line.upper()\n")
    return folder


@pytest.fixture
def process():
    process = TaskProcess()
    yield process
    process.close()


def request(tmp_path: Path, code_dir: Path, **changes) -> task_pb2.RunAttempt:
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "staging" / "attempts").mkdir(parents=True, exist_ok=True)
    size = (tmp_path / "in.txt").stat()
    spec = pb.JobSpec(
        job_id="job-1",
        steps=[pb.Step(mapper="job.mapper", partitioner="hash")],
        input=pb.Input(format="text"),
        output=pb.Output(format="tsv", path=str(tmp_path / "out")),
        job_file="job.py",
        staging=str(tmp_path / "staging"),
    )
    for name, value in changes.items():
        if name == "mapper":
            spec.steps[0].mapper = value
        else:
            setattr(spec, name, value)
    piece = pb.Piece(path=str(tmp_path / "in.txt"), end=2, size=2, mtime_ns=size.st_mtime_ns)
    return task_pb2.RunAttempt(
        attempt=pb.AttemptId(task=pb.TaskId(job="job-1", kind=pb.MAP), number=1),
        spec=spec,
        code_dir=str(code_dir),
        attempt_dir=str(tmp_path / "attempt"),
        job_dir=str(tmp_path / "map"),
        split=pb.Split(pieces=[piece], bytes=2),
    )


def ignore(_: session_pb2.Progress) -> None: ...


def test_an_attempt_of_a_map_only_job(process: TaskProcess, tmp_path: Path, code: Path) -> None:
    result = process.run(request(tmp_path, code), ignore)
    assert result.file.name == "0.m-00000.a1"
    assert result.file.part == "part-m-00000"
    assert (tmp_path / "staging/attempts/0.m-00000.a1").read_bytes() == b"A\t1\n"
    assert result.counters["mr:map_records_in"] == 1


@pytest.mark.parametrize(
    ("promise", "changes", "damage", "cause", "message"),
    [
        (
            "a name that the file does not have",
            {"mapper": "job.gone"},
            None,
            pb.FUNCTION_NOT_FOUND,
            '"job.gone" is not registered; known mappers: job.mapper',
        ),
        (
            "a module that this worker lacks",
            {},
            "helper.py",
            pb.MODULE_NOT_FOUND,
            "ModuleNotFoundError: No module named 'helper'",
        ),
        (
            "another Python",
            {"python": "2.7"},
            None,
            pb.PYTHON_MISMATCH,
            "the job was made for Python 2.7; this",
        ),
        ("a bundle without its job", {}, "job.py", pb.JOB_FILE_ERROR, "no job file"),
    ],
)
def test_code_that_does_not_fit_is_a_failure_with_its_own_cause(
    process: TaskProcess, tmp_path: Path, code: Path, promise: str, changes, damage, cause, message: str
) -> None:
    if damage:
        (code / damage).unlink()
    with pytest.raises(AttemptFailed) as caught:
        process.run(request(tmp_path, code, **changes), ignore)
    assert caught.value.failure.cause == cause, promise
    assert message in caught.value.failure.message


def test_a_process_belongs_to_one_job(process: TaskProcess, tmp_path: Path, code: Path) -> None:
    process.run(request(tmp_path, code), ignore)
    with pytest.raises(AttemptFailed, match="belongs to job job-1"):
        process.run(request(tmp_path, code, job_id="job-2"), ignore)


def test_an_input_that_is_gone_or_changed_has_its_own_cause(
    process: TaskProcess, tmp_path: Path, code: Path
) -> None:
    """FD15, D8."""
    asked = request(tmp_path, code)
    (tmp_path / "in.txt").write_text("abc\n")
    with pytest.raises(AttemptFailed) as changed:
        process.run(asked, ignore)
    assert changed.value.failure.cause == pb.INPUT_CHANGED
    (tmp_path / "in.txt").unlink()
    with pytest.raises(AttemptFailed) as missing:
        process.run(asked, ignore)
    assert missing.value.failure.cause == pb.INPUT_MISSING
    assert not list((tmp_path / "staging" / "attempts").iterdir())


@pytest.mark.parametrize(
    ("promise", "text", "message"),
    [
        (
            "an exit during import",
            "import os\nos._exit(3)\n",
            r"ended the process that loaded it: exit status 3",
        ),
        ("a death during import", "import os\nos.abort()\n", "signal SIGABRT"),
        ("an import that does not end", "import time\ntime.sleep(100)\n", r"not loaded within 2 s"),
        (
            "a module that is not in the bundle",
            "import importlib\nimportlib.import_module('hel' + 'per')\n",
            "helper",
        ),
        (
            "a wrong line",
            "def mapper(line):\n    yield line, 1\n  x\n",
            r"^job\.py:3: syntax error: .*unindent",
        ),
        ("an exception", "1 / 0\n", r"^job\.py:1: ZeroDivisionError: division by zero$"),
    ],
)
def test_a_job_file_that_cannot_be_loaded_is_said_in_one_line(
    code: Path, promise: str, text: str, message: str
) -> None:
    (code / "job.py").write_text(text)
    with pytest.raises(JobFileError, match=message) as caught:
        describe(code / "job.py", timeout=2 if "sleep" in text else 60)
    assert caught.value.exit_code == 2, promise
    assert str(code) not in caught.value.traceback


def test_a_description_has_the_spec_the_functions_and_the_bundle(code: Path, capfd) -> None:
    with (code / "job.py").open("a") as file:
        file.write("print('loading')\nprint(open('data.txt').read())\n")
    (code / "data.txt").write_text("some data")
    said = describe(code / "job.py", files=[code / "data.txt"], flags={"skip_bad": 3}, args=["x"])
    assert [(f.name, f.kind, f.file, f.line) for f in said.functions] == [
        ("job.mapper", "mapper", "job.py", 3)
    ]
    assert (said.spec.options.skip_bad, list(said.spec.args)) == (3, ["x"])
    assert said.bundle == bundle.build(code / "job.py", files=[code / "data.txt"])
    out, err = capfd.readouterr()
    assert out == ""
    assert "loading" in err
    assert "some data" in err


def test_a_job_file_that_starts_jobs_when_loaded_is_told_so_and_not_loaded_for_ever(tmp_path: Path) -> None:
    """Without a guard every child would load the file again and start one more."""
    script = tmp_path / "script.py"
    script.write_text(
        "import mr\ndef mapper(line): yield line, 1\nfrom mr.describe import describe\ndescribe(__file__)\n"
    )
    with pytest.raises(mr.Usage, match="starts a job while it is being loaded") as told:
        describe(script)
    assert "__main__" in told.value.next


def test_a_built_in_function_cannot_be_mapped() -> None:
    with pytest.raises(mr.Usage, match="top level of a file"):
        map_on(None, str.upper, ["a"], Path())  # type: ignore[arg-type]  # refused before any client is asked
