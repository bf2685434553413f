"""What is in a job file, without running any of it in this process.

The bundle is built first and the child loads the *bundle*, in a folder of its own: what it can't import there
a worker can't either, and the user hears of it before anything is submitted. Exit 2, nothing was submitted.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mr import bundle as bundles
from mr import frames
from mr.bundle import Bundle
from mr.registry import JobFileError
from mr.rpc import job_pb2 as pb

TIMEOUT_S = 60.0
_LOADING = "MR_LOADING"  # environment of the child: the job file that it loads


@dataclass(frozen=True, slots=True)
class FunctionInfo:
    """A registered function: `file` is relative to the bundle, `doc` the first line of its docstring."""

    name: str
    kind: str
    file: str
    line: int
    doc: str


@dataclass(frozen=True, slots=True)
class Description:
    """`spec` lacks what only a client knows: id, splits, staging, blobs' digests. Paths in it are as written."""

    spec: pb.JobSpec
    bundle: Bundle
    functions: tuple[FunctionInfo, ...]


def describe(
    job_file: Path | str,
    *,
    args: Sequence[str] = (),
    py_files: Sequence[Path | str] = (),
    files: Sequence[Path | str] = (),
    defaults: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    name: str = "",
    timeout: float = TIMEOUT_S,
) -> Description:
    """Bundles and describes a job file.

    `defaults` and `flags` are settings below and above the job's own (`mr.compile.FLAGS`); `name` chooses among
    several jobs in the file; `timeout` in seconds bounds the loading. Raises mr.Usage, JobFileError.
    """
    bundle = bundles.build(Path(job_file), [Path(p) for p in py_files], [Path(p) for p in files])
    with tempfile.TemporaryDirectory(prefix="mr-describe-") as scratch:
        folder = bundles.unpack(bundle.data, bundle.digest, Path(scratch))
        asked = {
            "folder": str(folder),
            "file": bundle.job_file,
            "args": list(args),
            "name": name,
            "defaults": dict(defaults or {}),
            "flags": dict(flags or {}),
        }
        said = _ask_child(asked, Path(job_file).name, timeout)
    if error := said.get("error"):
        raise JobFileError(
            error["message"],
            where=error["where"],
            traceback=error["traceback"],
            next=error["next"],
        )
    spec = pb.JobSpec.FromString(bytes.fromhex(said["spec"]))
    return Description(spec, bundle, tuple(FunctionInfo(**one) for one in said["functions"]))


def _ask_child(asked: dict[str, Any], name: str, timeout: float) -> dict[str, Any]:
    if loading := os.environ.get(_LOADING):  # each child would load the file again, and so on for ever
        raise JobFileError(
            f"{loading} starts a job while it is being loaded",
            next='put that under `if __name__ == "__main__":`',
        )
    to_child, from_us = os.pipe()
    from_child, to_us = os.pipe()
    command = [sys.executable, "-P", "-m", "mr.task", "--describe"]
    command += ["--in-fd", str(to_child), "--out-fd", str(to_us)]
    with contextlib.ExitStack() as stack:
        child = subprocess.Popen(
            command,
            pass_fds=(to_child, to_us),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a job file prints must not mix with our own output
            start_new_session=True,
            env={**os.environ, _LOADING: name},
        )
        stack.callback(child.wait)
        stack.callback(_kill_group, child)
        os.close(to_child)
        os.close(to_us)
        stack.callback(os.close, from_child)
        try:
            frames.write_frame(from_us, json.dumps(asked).encode())
        finally:
            os.close(from_us)
        frame = _read_until(from_child, time.monotonic() + timeout)
        if frame is None:
            raise JobFileError(
                f"{name} was not loaded within {timeout:.0f} s", next="what does it do at import?"
            )
        if len(frame) < 4:
            raise JobFileError(f"{name} ended the process that loaded it: {_ending(child.wait())}")
    said: dict[str, Any] = json.loads(frame[4:])
    return said


def _read_until(fd: int, deadline: float) -> bytes | None:
    """Everything up to the end of the pipe; None when the time is up."""
    data = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            chunk = os.read(fd, 1 << 16)
            if not chunk:
                return bytes(data)
            data += chunk
            if len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
                return bytes(data)  # a program that the job file started may keep the pipe open
    return None


def _ending(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
