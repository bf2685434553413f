"""Loads a job file, in any of its three shapes, into one `Job`. Runs user code: only in a task process or inline.

    B   a `mr.Job(...)`, best named `job`            the documented form
    C   one class that derives from `mr.JobClass`    a thin adapter
    A   functions named `mapper`, `reducer`, `combiner`, settings as INPUT, OUTPUT, REDUCES, SKIP_BAD, ...

`mr` is imported before the job's folder goes to the front of sys.path, so a job may have modules of its own
that are called worker, master or proto. Whatever is wrong with the file is a JobFileError with file and line.
"""

from __future__ import annotations

import importlib.util
import linecache
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from mr import context, registry
from mr.errors import Error, TaskFailure
from mr.job import OPTION_NAMES, Job, step
from mr.jobclass import is_job_class
from mr.registry import JobFileError, Registry

PACKAGE = str(Path(__file__).parent) + os.sep


@dataclass(frozen=True, slots=True)
class Code:
    """A loaded job file: its job and every function by name.

    `folder` is where the user's code lies, `data` (an unpacked bundle) where attempts find their data files.
    """

    job: Job
    registry: Registry
    folder: Path
    data: Path | None = None


class MissingModule(JobFileError):
    """The file imports a module that is not here."""

    def __init__(self, module: str, message: str, **more: Any) -> None:
        super().__init__(message, **more)
        self.module = module


def load(file: Path, args: Sequence[str] = (), *, name: str = "", folder: Path | None = None) -> Code:
    """Loads `file`; `folder` (default: its own) is what goes to sys.path[0].

    `name` chooses among several Jobs of one file. Raises JobFileError.
    """
    if not file.is_file():
        raise JobFileError(f"no job file {file}", next="name a Python file with a mapper")
    folder = (folder or file.parent).resolve()
    _forget_modules(folder)
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    context.set_arguments(args)
    with registry.collecting(Registry()) as names:
        module = _import(file, folder)
        try:
            job = _job_of(module, file, name)
            job.functions()
        except Error:
            raise
        except BaseException as error:  # a class's own code
            raise failed_load(error, file, folder) from error
    return Code(job, names, folder)


def _forget_modules(folder: Path) -> None:
    """A second load in one process runs the job's own modules again: their functions must register again."""
    inside = str(folder) + os.sep
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None) or ""
        if origin.startswith(inside) and not origin.startswith((PACKAGE, sys.prefix)) and name != "__main__":
            del sys.modules[name]


def _import(file: Path, folder: Path) -> ModuleType:
    name = file.stem if file.stem not in sys.modules else f"_mr_job_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise JobFileError(f"{file.name} is no Python file", next="a job file ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    linecache.checkcache(str(file))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise failed_load(error, file, folder) from error
    return module


def failed_load(error: BaseException, file: Path, folder: Path) -> JobFileError:
    """What a user is told about an exception while the job file was being loaded."""
    if isinstance(error, JobFileError):
        if error.where:
            return error
        where = _user_line(error.__traceback__, folder, file)
        return JobFileError(error.message, where=where, next=error.next)
    if isinstance(error, SyntaxError):
        place = f"{Path(error.filename or file).name}:{error.lineno}"
        return JobFileError(f"syntax error: {error.msg}: {(error.text or '').strip()}", where=place)
    where = _user_line(error.__traceback__, folder, file)
    if isinstance(error, TaskFailure):  # an unknown name: no exception of the user's
        return JobFileError(error.message, where=where)
    text = user_traceback(error, folder)
    if isinstance(error, ImportError):
        hint = f"{error.name} is not in the job's bundle or this Python: add --py-files, or install it"
        return MissingModule(
            error.name or "", f"{type(error).__name__}: {error}", where=where, traceback=text, next=hint
        )
    if isinstance(error, SystemExit):
        return JobFileError(f"the job file ended the process: sys.exit({error.code!r})", where=where)
    return JobFileError(describe_exception(error), where=where, traceback=text)


def _job_of(module: ModuleType, file: Path, name: str) -> Job:
    values = vars(module)
    jobs = {id(value): value for value in values.values() if isinstance(value, Job)}
    if name:
        chosen = [job for job in jobs.values() if job.name == name]
        if len(chosen) == 1:
            return chosen[0]
    if isinstance(values.get("job"), Job):
        return values["job"]  # type: ignore[no-any-return]  # just checked
    if len(jobs) == 1:
        return next(iter(jobs.values()))
    if jobs:
        known = ", ".join(sorted(job.name for job in jobs.values()))
        raise JobFileError(f"{file.name} has {len(jobs)} jobs ({known}); name the one to run `job`")
    own = [v for v in values.values() if is_job_class(v) and v.__module__ == module.__name__]
    own = list(dict.fromkeys(own))
    leaves = [one for one in own if not any(other is not one and issubclass(other, one) for other in own)]
    if len(leaves) > 1:
        known = ", ".join(sorted(one.__name__ for one in leaves))
        raise JobFileError(f"{file.name} has {len(leaves)} job classes ({known}); leave one")
    if leaves:
        return leaves[0].job(file.stem)  # type: ignore[no-any-return]  # is_job_class
    return _bare(values, file)


def _bare(values: dict[str, Any], file: Path) -> Job:
    """Shape A: functions found by name, registered as <file>.mapper."""
    found = {kind: values.get(kind) for kind in ("mapper", "reducer", "combiner", "partitioner")}
    for kind, call in found.items():
        if call is not None and not callable(call):
            raise JobFileError(f"`{kind}` in {file.name} is {call!r}, not a function")
    if found["mapper"] is None and found["reducer"] is None:
        raise JobFileError(
            f"{file.name} has no job: no mr.Job, no class of mr.JobClass, no function named mapper",
            next="write `def mapper(line): ...`, or see `mr examples`",
        )
    settings = {key.lower(): values[key] for key in values if key.isupper() and key.lower() in OPTION_NAMES}
    hooks = {
        hook: values.get(hook) for hook in ("setup", "teardown", "finalize") if callable(values.get(hook))
    }
    one = step(
        found["mapper"],
        found["reducer"],
        combiner=found["combiner"],
        reduces=values.get("REDUCES"),
        partitioner=found["partitioner"],
        sort_values=bool(values.get("SORT_VALUES", False)),
        allow_pickle=bool(values.get("ALLOW_PICKLE", False)),
    )
    return Job(file.stem, [one], input=values.get("INPUT"), output=values.get("OUTPUT"), **hooks, **settings)


def _user_line(trace: TracebackType | None, folder: Path, file: Path) -> str:
    """ "wordcount.py:14" of the innermost frame within the job's folder."""
    inside = [
        (Path(frame.f_code.co_filename).name, line)
        for frame, line in traceback.walk_tb(trace)
        if frame.f_code.co_filename.startswith(str(folder) + os.sep)
    ]
    return "{}:{}".format(*inside[-1]) if inside else file.name


def user_frames(trace: TracebackType | None) -> Iterator[tuple[Any, int]]:
    """The frames (frame, line) of a traceback that are not ours and not the import machinery's."""
    for frame, line in traceback.walk_tb(trace):
        name = frame.f_code.co_filename
        if not name.startswith((PACKAGE, "<frozen ")):
            yield frame, line


def user_traceback(error: BaseException, folder: Path | None, limit: int = 8 << 10) -> str:
    """The traceback a user wants to see: their frames, the chain of causes, at most `limit` characters.

    Files below `folder`, the job's own, are named relative to it, as the user knows them.
    """
    summary = traceback.TracebackException.from_exception(error, limit=-50)
    seen: traceback.TracebackException | None = summary
    while seen is not None:
        kept = [one for one in seen.stack if not one.filename.startswith((PACKAGE, "<frozen "))]
        seen.stack = traceback.StackSummary.from_list(kept)
        seen = seen.__cause__ or seen.__context__
    text = "".join(summary.format()).replace(f"{folder}{os.sep}", "")
    return text if len(text) <= limit else "...\n" + text[-limit:]


def describe_exception(error: BaseException, limit: int = 500) -> str:
    """One line: "ValueError: invalid literal for int(): '12x'"."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    text = lines[-1] if isinstance(error, SyntaxError) else lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
