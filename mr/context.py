"""What user code may ask and tell while an attempt runs: `mr.ctx()`, or a parameter named `ctx`.

Counters count only if the attempt wins (P-10), side files appear only if it wins (P-06), and the temporary
folder goes away with the attempt. Outside of a task `mr.ctx()` gives a detached context, so that a mapper
can be called in a test with no cluster (S2-10).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Protocol, overload

from mr.registry import JobFileError

MAX_COUNTERS = 1000
_FORBIDDEN = ("/", "\0")


class Emitter(Protocol):
    """Takes pairs for one side output; what the writers of mr/output.py are."""

    def extend(self, pairs: Iterable[tuple[Any, Any]], /) -> None:
        """Appends pairs."""


class Context:
    """The running attempt, as user code sees it.

    Attributes: `job_id`, `task_id` ("m-7"), `kind` ("map" or "reduce"), `index` of the task, `attempt` from 1,
    `step`, `reduces` (R of the step, 0 if it is map-only), `args` (what stood after `--`), `input_file` (of the
    record in hand, maps only), `log` (a `logging.Logger` whose lines go to the task's log).
    """

    def __init__(
        self,
        *,
        job_id: str = "",
        task_id: str = "",
        kind: str = "",
        index: int = 0,
        attempt: int = 1,
        step: int = 0,
        reduces: int = 0,
        args: tuple[str, ...] = (),
        scratch: Path | None = None,
        open_side: Callable[[str], IO[bytes]] | None = None,
        open_emit: Callable[[str], Emitter] | None = None,
    ) -> None:
        self.job_id = job_id
        self.task_id = task_id
        self.kind = kind
        self.index = index
        self.attempt = attempt
        self.step = step
        self.reduces = reduces
        self.args = args
        self.input_file = ""
        self.counters: dict[str, int] = {}
        self.status_text = ""
        self.log = logging.getLogger(f"mr.task.{task_id}" if task_id else "mr.task")
        self.on_status: Callable[[], None] | None = None
        self._scratch = scratch
        self._open_side = open_side
        self._open_emit = open_emit
        self._emitters: dict[str, Callable[[Any, Any], None]] = {}
        self._side: dict[str, IO[bytes]] = {}

    def count(self, name: str, n: int = 1, *, group: str = "user") -> None:
        """Adds `n` to a counter. Only the winning attempt's counters count (P-10)."""
        key = f"{group}:{name}"
        try:
            self.counters[key] += n
        except KeyError:
            if len(self.counters) >= MAX_COUNTERS:
                raise ValueError(
                    f"more than {MAX_COUNTERS} counters: is there data in their names?"
                ) from None
            if group == "mr":
                raise ValueError('the counter group "mr" is the system\'s') from None
            self.counters[key] = n

    def status(self, text: str) -> None:
        """Says what the task is doing; shown with its progress."""
        self.status_text = str(text)[:200]
        if self.on_status is not None:
            self.on_status()

    @property
    def temp_dir(self) -> Path:
        """A folder of this attempt alone, removed with it."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="mr-ctx-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        folder = self._scratch / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def side_file(self, name: str) -> IO[bytes]:
        """A binary file that appears as OUT/side/<task>/<name> if, and only if, this attempt wins (P-06).

        The same name gives the same open file. It is closed for you.
        """
        _check_name(name)
        if name not in self._side:
            self._side[name] = (
                self._open_side(name) if self._open_side is not None else (self.temp_dir / name).open("wb")
            )
        return self._side[name]

    def emit_to(self, name: str) -> Callable[[Any, Any], None]:
        """A function that writes (key, value) to the side output <name>-r-00003, in the job's output format."""
        if name not in self._emitters:
            _check_name(name)
            if name in ("part", "side") or name.startswith("_"):
                raise ValueError(f"{name!r} is no name for a side output: it is used for something else")
            self._emitters[name] = self._emitter(name)
        return self._emitters[name]

    def _emitter(self, name: str) -> Callable[[Any, Any], None]:
        if self._open_emit is None:
            return lambda _key, _value: None
        extend = self._open_emit(name).extend
        return lambda key, value: extend(((key, value),))


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or any(part in name for part in _FORBIDDEN) or len(name) > 100:
        raise ValueError(f"{name!r} is no name for a side file: one name, no folders, 100 characters at most")


class _Process:
    """What holds for this process, all its threads included."""

    running: Context | None = None
    detached: Context | None = None
    arguments: tuple[str, ...] = ()


_process = _Process()


def ctx() -> Context:
    """The context of the running attempt; outside of one, a detached context that keeps what it is told."""
    if _process.running is not None:
        return _process.running
    if _process.detached is None:
        _process.detached = Context(args=_process.arguments)
    return _process.detached


def enter(context: Context | None) -> None:
    """Makes `context` the running one; None when the attempt is over."""
    _process.running = context


def set_arguments(arguments: Iterable[str]) -> None:
    """What `mr.args()` gives from now on."""
    _process.arguments = tuple(arguments)
    _process.detached = None


@overload
def args(parser: None = None) -> tuple[str, ...]: ...
@overload
def args(parser: argparse.ArgumentParser) -> argparse.Namespace: ...
def args(parser: argparse.ArgumentParser | None = None) -> tuple[str, ...] | argparse.Namespace:
    """The job's own arguments, those after `--`: as they are, or parsed by `parser`.

    Raises JobFileError (exit 2) for arguments that the parser refuses.
    """
    if parser is None:
        return _process.arguments
    try:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return parser.parse_args(list(_process.arguments))
    except SystemExit as ended:
        if not ended.code:  # --help
            raise
    raise JobFileError(
        f"{said.getvalue().strip().rpartition('error: ')[2]} (the job's own arguments stand after --)"
    )


def attempt_environment(context: Context, partition: int | None, work_dir: Path) -> None:
    """Puts what streaming programs expect into the environment (interface.md section 5)."""
    os.environ["MR_JOB_ID"] = context.job_id
    os.environ["MR_TASK_ID"] = context.task_id
    os.environ["MR_ATTEMPT"] = str(context.attempt)
    os.environ["MR_PARTITION"] = "" if partition is None else str(partition)
    os.environ["MR_WORK_DIR"] = str(work_dir)
