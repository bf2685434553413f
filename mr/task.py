"""The task process: the only place where user code runs (beside `mr run --inline`).

    python -P -m mr.task --serve --in-fd N --out-fd M      attempts of one job, one after the other
    python -P -m mr.task --describe --in-fd N --out-fd M   loads a job file and says what is in it

`-P` and the imports below put `mr` and all it needs in place before the job's folder goes to sys.path[0]: a
job may have a worker.py, master.py or proto.py of its own. Frames travel on their own pipes, so that user code
may print, read stdin or close either. Nothing here talks to the network.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mr import attempt, frames, loader
from mr.compile import compile_job
from mr.errors import Error
from mr.failures import AttemptFailed, failure_of, load_failure
from mr.registry import JobFileError
from mr.rpc import job_pb2 as pb
from mr.rpc import session_pb2, task_pb2


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -P -m mr.task", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--serve", action="store_true")
    mode.add_argument("--describe", action="store_true")
    parser.add_argument("--in-fd", type=int, required=True)
    parser.add_argument("--out-fd", type=int, required=True)
    chosen = parser.parse_args(arguments)
    for fd in (chosen.in_fd, chosen.out_fd):
        os.set_inheritable(fd, False)  # a program that user code starts must not keep the pipes open
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        faulthandler.enable()
    return (serve if chosen.serve else describe)(chosen.in_fd, chosen.out_fd)


def serve(in_fd: int, out_fd: int) -> int:
    """Runs attempts until the other side closes the pipe."""
    server = _Server(out_fd)
    server.send(task_pb2.FromTask(ready=task_pb2.TaskReady(python=this_python(), pid=os.getpid())))
    while (frame := frames.read_frame(in_fd)) is not None:
        try:
            server.send(server.answer(task_pb2.ToTask.FromString(frame).run))
        except BrokenPipeError:  # the worker is gone: nobody waits for this
            return 1
    return 0


class _Server:
    """The job this process belongs to, and how attempts of it are answered."""

    def __init__(self, out_fd: int) -> None:
        self._out_fd = out_fd
        self._code: loader.Code | None = None
        self._belongs_to: tuple[Any, ...] = ()

    def send(self, message: task_pb2.FromTask) -> None:
        """Writes one frame, after everything that user code has printed."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # user code may have closed it
                stream.flush()
        frames.write_frame(self._out_fd, message.SerializeToString())

    def answer(self, request: task_pb2.RunAttempt) -> task_pb2.FromTask:
        """Runs one attempt and says how it went."""
        reopen_streams()
        try:
            code = self._load(request) if request.code_dir else None
            return task_pb2.FromTask(done=attempt.run(request, code, self._report))
        except AttemptFailed as failed:
            return task_pb2.FromTask(failed=failed.failure)
        except JobFileError as error:
            return task_pb2.FromTask(failed=load_failure(error))
        except BrokenPipeError:
            raise
        except Exception as error:
            folder = Path(request.code_dir) if request.code_dir else None
            return task_pb2.FromTask(failed=failure_of(error, folder=folder))

    def _report(self, progress: session_pb2.Progress) -> None:
        self.send(task_pb2.FromTask(progress=progress))

    def _load(self, request: task_pb2.RunAttempt) -> loader.Code:
        spec = request.spec
        wanted = (spec.job_id, request.code_dir, spec.job_file, tuple(spec.args))
        if self._code is not None:
            if wanted != self._belongs_to:
                raise AttemptFailed(
                    pb.Failure(
                        cause=pb.INTERNAL, message=f"this process belongs to job {self._belongs_to[0]}"
                    )
                )
            return self._code
        if spec.python and spec.python != this_python():
            message = f"the job was made for Python {spec.python}; this worker has {this_python()}"
            raise AttemptFailed(pb.Failure(cause=pb.PYTHON_MISMATCH, message=message))
        os.environ.update(spec.env)
        folder = Path(request.code_dir)
        self._belongs_to = wanted
        self._code = load_bundle(folder, spec.job_file, spec.args)
        return self._code


def load_bundle(folder: Path, job_file: str, args: Sequence[str], name: str = "") -> loader.Code:
    """Loads the job file of an unpacked bundle, with the bundle as the working directory."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        code = loader.load(folder / job_file, args, name=name, folder=folder)
    finally:
        os.chdir(before)
    return loader.Code(code.job, code.registry, code.folder, data=folder)


def this_python() -> str:
    """ "3.11": what a bundle's byte code and pickles depend on."""
    return ".".join(platform.python_version_tuple()[:2])


def reopen_streams() -> None:
    """Gives user code a stdout and a stderr, also if an attempt before it has closed them."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
        if stream is None or stream.closed:
            again = open(fd, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115  stays open
            setattr(sys, name, again)


def describe(in_fd: int, out_fd: int) -> int:
    """Answers one request of `mr.describe`, in JSON."""
    frame = frames.read_frame(in_fd)
    if frame is None:
        return 1
    asked = json.loads(frame)
    try:
        said = _described(asked)
    except JobFileError as error:
        said = {"error": _plain(error.plain, error.where, error.traceback, error.next)}
    except Error as error:
        said = {"error": _plain(error.message, "", "", error.next)}
    except BaseException as error:
        text = "".join(traceback.format_exception_only(error)).strip()
        said = {"error": _plain(f"loading the job failed: {text}", "", traceback.format_exc(), "")}
    with contextlib.suppress(BrokenPipeError):  # who asked is gone
        frames.write_frame(out_fd, json.dumps(said).encode())
    return 0


def _described(asked: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(asked["flags"].get("env", {}))
    code = load_bundle(Path(asked["folder"]), asked["file"], asked["args"], asked["name"])
    spec = compile_job(
        code.job,
        job_file=asked["file"],
        args=asked["args"],
        defaults=asked["defaults"],
        flags=asked["flags"],
    )
    functions = [
        {"name": f.name, "kind": f.kind, "file": Path(f.file).name, "line": f.line, "doc": f.doc}
        for f in code.registry.functions.values()
        if f.file and not f.file.startswith(loader.PACKAGE)
    ]
    return {"spec": spec.SerializeToString(deterministic=True).hex(), "functions": functions}


def _plain(message: str, where: str, trace: str, next: str) -> dict[str, str]:
    return {"message": message, "where": where, "traceback": trace, "next": next}


if __name__ == "__main__":
    sys.exit(main())
