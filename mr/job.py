"""What a user writes becomes a Job: steps, formats and options, with functions by their registered names.

A `Job` is plain data without protobuf, so that `import mr` in a job file is quick; `mr.compile` makes the
JobSpec that travels. All three shapes of job file (mr/loader.py) end here. Settings made in code travel with
the job and are what every worker uses (S1-11). Defaults never depend on the size of a cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr import registry, units
from mr.registry import JobFileError

DEFAULT_REDUCES = 8
DEFAULT_SPLIT_BYTES = 64 << 20
DEFAULT_MAX_ATTEMPTS = 4
DEFAULT_PRIORITY = 50
MAX_REDUCES = 1 << 20  # a slip of the finger, not a job

Call = Callable[..., Any]


@dataclass(frozen=True)
class Format:
    """A format by name, its options, and where the data lies; made by `mr.text(...)` and its like."""

    name: str
    paths: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


class _Text:
    """`mr.text(...)` is the format of lines, `mr.text.tokenize(...)` cuts one into words (S3-23)."""

    def __call__(self, *paths: str, **options: Any) -> Format:
        """Lines: as input the key is the byte offset, the value the line. As output for people, not escaped."""
        return _format("text", paths, options)

    @staticmethod
    def tokenize(line: str, separators: str | None = None) -> list[str]:
        """The non-empty words of `line` (letters, digits, _), or what stands between `separators`."""
        from mr.io import tokenize

        return tokenize(line, separators)


text = _Text()


def jsonl(*paths: str, **options: Any) -> Format:
    """One JSON value a line."""
    return _format("jsonl", paths, options)


def csv(*paths: str, **options: Any) -> Format:
    """Rows of comma-separated fields, as lists of str, or as dicts with `header=True`."""
    return _format("csv", paths, options)


def kv(*paths: str, **options: Any) -> Format:
    """Lines of key TAB value."""
    return _format("kv", paths, options)


def tsv(*paths: str, **options: Any) -> Format:
    """Output lines of key TAB value."""
    return _format("tsv", paths, options)


def format_named(name: str, *paths: str, **options: Any) -> Format:
    """Any format of the registry, also one that an entry point `mr.formats` added (P-05)."""
    return _format(name, paths, options)


def _format(name: str, paths: tuple[str, ...], options: dict[str, Any]) -> Format:
    plain = {
        key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in options.items()
    }
    return Format(name, tuple(str(path) for path in paths), plain)


@dataclass(frozen=True)
class Partitioner:
    """How keys find their reduce: "hash", or a registered function of (key, reduces)."""

    name: str


def hash() -> Partitioner:
    """The default: a stable hash of the encoded key, the same on every machine and in every language."""
    return Partitioner("hash")


@dataclass(frozen=True)
class Step:
    """One map and at most one reduce, by registered names; "" stands for none (mapper: identity)."""

    mapper: str
    reducer: str
    combiner: str
    reduces: int | None  # None: not said, DEFAULT_REDUCES unless configured
    partitioner: str
    sort_values: bool
    allow_pickle: bool


def step(
    mapper: Call | str | None = None,
    reducer: Call | str | None = None,
    *,
    combiner: Call | str | bool | None = None,
    reduces: int | None = None,
    partitioner: Partitioner | Call | str | None = None,
    sort_values: bool = False,
    allow_pickle: bool = False,
) -> Step:
    """One step of a job.

    Functions are given themselves or by their registered names. `mapper=None` is the identity,
    `reducer=None` makes a map-only step, whose maps write the output. `combiner=True` uses the reducer,
    `False` none, also if it was registered with `combine=True`. `sort_values` orders the values of a key
    by their encoding; `allow_pickle` lets values of other types than the codec's travel as pickles.
    Raises JobFileError.
    """
    names = registry.current()
    if mapper is None and reducer is None:
        raise JobFileError("a step needs a mapper or a reducer")
    if mapper is identity_function():
        mapper = None
    reducer_name = _named("reducer", reducer)
    if reducer is None and (combiner or reduces):
        raise JobFileError("a step without a reducer takes no combiner and no `reduces`")
    if combiner is True or (combiner is None and reducer_name in names.self_combining):
        combiner_name = reducer_name
    else:
        combiner_name = _named("combiner", combiner or None)
    if isinstance(partitioner, Partitioner):
        partition = partitioner.name
    else:
        partition = _named("partitioner", partitioner) or "hash"
    return Step(
        mapper=_named("mapper", mapper),
        reducer=reducer_name,
        combiner=combiner_name,
        reduces=check_reduces(reduces) if reducer_name and reduces is not None else None,
        partitioner=partition,
        sort_values=sort_values,
        allow_pickle=allow_pickle,
    )


def identity_function() -> Call:
    """`mr.identity`: as a reducer it passes every pair on; as a mapper it is the same as None."""
    return registry.identity


def _named(kind: registry.Kind, call: Any) -> str:
    if call is None:
        return ""
    if isinstance(call, str):
        return call  # looked up when the whole file is known
    return registry.current().name_of(kind, call)


def check_reduces(count: Any) -> int:
    """A number of reduce partitions. Raises JobFileError."""
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_REDUCES:
        raise JobFileError(f"reduces is a number from 1 to {MAX_REDUCES}, not {count!r}")
    return count


@dataclass(frozen=True)
class Options:
    """Settings of a whole job. Sizes are bytes or "64MiB", times seconds or "30s"."""

    max_attempts: int = DEFAULT_MAX_ATTEMPTS  # user failures of one task that fail the job
    skip_bad: int = 0  # records a job may skip
    queue: str = ""
    priority: int = DEFAULT_PRIORITY  # 0..100
    deadline: float | str = 0  # of the whole job; 0 = none
    task_deadline: float | str = 0  # 0 = adaptive
    speculate: bool = True
    split_size: int | str = DEFAULT_SPLIT_BYTES
    memory: int | str = 0  # of one task process; 0 = the worker's default
    sort_buffer: int | str = 0  # serialized bytes before a spill; 0 = default
    policy: str = ""  # "" = the cluster's

    def __post_init__(self) -> None:
        for name, low, high in (("max_attempts", 1, 1000), ("skip_bad", 0, 2**31), ("priority", 0, 100)):
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise JobFileError(f"{name} is a number from {low} to {high}, not {value!r}")
        for name, parse in _PARSED.items():
            try:
                parse(getattr(self, name))
            except ValueError as error:
                raise JobFileError(f"{name}: {error}") from None
        if self.split_bytes < 1:
            raise JobFileError(f"split_size: {self.split_size!r} is no size for a split")

    @property
    def split_bytes(self) -> int:
        """`split_size` in bytes."""
        return units.parse_bytes(self.split_size)


_PARSED: dict[str, Callable[[Any], float]] = {
    "deadline": units.parse_seconds,
    "task_deadline": units.parse_seconds,
    "split_size": units.parse_bytes,
    "memory": units.parse_bytes,
    "sort_buffer": units.parse_bytes,
}
OPTION_NAMES = frozenset(Options.__dataclass_fields__)


class Job:
    """A job: a name, steps, formats, options, hooks.

    `setup` runs in every attempt before its first record, `teardown` after its last; what teardown yields is
    emitted like the mapper's or reducer's pairs. `finalize(results)` runs once after the output is published;
    what it returns is shown with the finished job (S2-08). `env` is set in the task processes.
    Every further keyword is one of `Options`. Raises JobFileError.
    """

    def __init__(
        self,
        name: str,
        steps: Sequence[Step] | Step,
        *,
        input: Format | str | Iterable[str] | None = None,
        output: Format | str | None = None,
        setup: Call | None = None,
        teardown: Call | None = None,
        finalize: Call | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if unknown := sorted(set(options) - OPTION_NAMES):
            raise JobFileError(
                f'a job has no setting "{unknown[0]}"; it has {", ".join(sorted(OPTION_NAMES))}'
            )
        self.name = str(name)
        self.steps = (steps,) if isinstance(steps, Step) else tuple(steps)
        if not self.steps or not all(isinstance(one, Step) for one in self.steps):
            raise JobFileError(
                f'job "{name}" needs at least one mr.step(...), and nothing else, as its steps'
            )
        self.input = as_format(input, text)
        self.output = as_format(output, tsv)
        self.setup = _named("setup", setup)
        self.teardown = _named("teardown", teardown)
        self.finalize = _named("finalize", finalize)
        self.env = {str(key): str(value) for key, value in (env or {}).items()}
        self.settings = options  # only what was given: configuration fills the rest, flags win
        Options(**options)
        self.registry = registry.current()
        self.file = _caller()  # of the job file: workers load it again

    def functions(self) -> list[registry.Function]:
        """Every function the job names. Raises TaskFailure(FUNCTION_NOT_FOUND)."""
        wanted: list[tuple[registry.Kind, str]] = []
        for one in self.steps:
            wanted += [("mapper", one.mapper), ("reducer", one.reducer), ("combiner", one.combiner)]
            wanted += [("partitioner", one.partitioner if one.partitioner != "hash" else "")]
        wanted += [("setup", self.setup), ("teardown", self.teardown), ("finalize", self.finalize)]
        return [self.registry.find(kind, name) for kind, name in wanted if name]

    def __repr__(self) -> str:
        return f"<mr.Job {self.name!r}: {len(self.steps)} step{'s'[: len(self.steps) != 1]}>"


def as_format(given: Any, default: Callable[..., Format]) -> Format:
    """A Format from what a user may write: a Format, a path, a list of paths, or nothing."""
    if given is None:
        return default()
    if isinstance(given, Format):
        return given
    if isinstance(given, str | Path):
        return default(given)
    if callable(given):
        raise JobFileError("a format is called: write mr.text(), not mr.text")
    return default(*given)


def _caller() -> str:
    """The file of the first frame outside this package."""
    here = str(Path(__file__).parent)
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        frame = frame.f_back
    return frame.f_code.co_filename
