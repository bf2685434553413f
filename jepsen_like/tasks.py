"""The user code of the harness's jobs: what tasks run under attack. Plain functions, no import of ours.

`source(shape)` is a job file. Every attempt leaves a mark when it meets its first record: a file of its own in
CHAOS_MARKS, named by job, task, attempt and monotonic time. So the harness knows what ran without asking anybody who
may be wrong. CHAOS_MAP_S and CHAOS_KEY_S are seconds that a file, or a key, costs: work that a fault can hit.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_marked = ""


def mark() -> None:
    """Once an attempt: a file that says that it began."""
    global _marked  # noqa: PLW0603  a task process runs one attempt after another
    folder = os.environ.get("CHAOS_MARKS")
    if not folder:
        return
    name = f"{os.environ['MR_JOB_ID']}~{os.environ['MR_TASK_ID']}~{os.environ['MR_ATTEMPT']}"
    if name != _marked:
        _marked = name
        with open(os.path.join(folder, f"{name}~{time.monotonic_ns()}"), "x"):
            pass


def pause(name: str) -> None:
    """Costs what the environment says."""
    seconds = float(os.environ.get(name) or 0)
    if seconds:
        time.sleep(seconds)


def begin(line: str) -> None:
    """Marks the attempt; the first line of a file costs CHAOS_MAP_S."""
    mark()
    if line.startswith("#file"):
        pause("CHAOS_MAP_S")


def count_map(line: str) -> Iterator[tuple[str, Any]]:
    """Words, each once."""
    begin(line)
    for word in line.split():
        yield word.lower(), 1


def count_reduce(word: str, counts: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """How often."""
    mark()
    pause("CHAOS_KEY_S")
    yield word, sum(counts)


def count_combine(word: str, counts: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The same, in advance."""
    yield word, sum(counts)


def sort_map(line: str) -> Iterator[tuple[str, Any]]:
    """Records by key; equal keys keep the order of the input."""
    begin(line)
    key, _, rest = line.partition("\t")
    yield key, rest


def sort_reduce(key: str, values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Every record as it came."""
    mark()
    pause("CHAOS_KEY_S")
    for value in values:
        yield key, value


def index_map(line: str) -> Iterator[tuple[str, Any]]:
    """Which document has which word."""
    begin(line)
    document, _, text = line.partition(" ")
    for word in text.split():
        yield word, document


def index_reduce(word: str, documents: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The documents, each once, sorted."""
    mark()
    pause("CHAOS_KEY_S")
    yield word, " ".join(sorted(set(documents)))


def poison_map(line: str) -> Iterator[tuple[str, Any]]:
    """Raises at one record, whatever is done: the job must fail, and say why (T6)."""
    begin(line)
    if "POISON" in line:
        raise ValueError(f"cannot count {line!r}")
    yield line, 1


def flaky_map(line: str) -> Iterator[tuple[str, Any]]:
    """Raises in the first two attempts: the job must succeed all the same (FT18)."""
    begin(line)
    if "FLAKY" in line and int(os.environ.get("MR_ATTEMPT") or 9) <= 2:
        raise RuntimeError("not yet")
    for word in line.split():
        yield word, 1


def strike(_deed: str) -> None:
    """Nothing here; the job file of a hostile shape has `hostile.strike` instead."""


def hostile_map(line: str) -> Iterator[tuple[str, Any]]:
    """Does something to the process that runs it, in a task (FT16)."""
    begin(line)
    word, _, deed = line.partition(" ")
    if word == "HOSTILE" and "MR_TASK_ID" in os.environ:
        strike(deed)
    yield word, 1


# What `hostile.strike` can do.
DEEDS = (
    "exit",
    "exit-3",
    "abort",
    "segfault",
    "forever",
    "bomb",
    "fat",
    "orphans",
    "babble",
    "close-fds",
    "chdir",
    "kill-parent",
    "kill-group",
    "modules",
)

# shape -> (mapper, reducer, combiner or None)
SHAPES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any] | None]] = {
    "wordcount": (count_map, count_reduce, count_combine),
    "sort": (sort_map, sort_reduce, None),
    "index": (index_map, index_reduce, None),
    "tiny": (count_map, count_reduce, None),
    "long": (count_map, count_reduce, count_combine),
    "skew": (sort_map, sort_reduce, None),
    "flaky": (flaky_map, count_reduce, None),
    "poison": (poison_map, count_reduce, None),
    "spill": (sort_map, sort_reduce, None),
    **{f"hostile-{deed}": (hostile_map, count_reduce, None) for deed in DEEDS},
}


def source(shape: str) -> str:
    """The text of a job file: this file, and which of its functions are the job's."""
    with open(__file__, encoding="utf-8") as this:
        text = this.read()
    mapper, reducer, combiner = SHAPES[shape]
    if shape.startswith("hostile-"):
        with open(os.path.join(os.path.dirname(__file__), "hostile.py"), encoding="utf-8") as more:
            text += f"\n\n{more.read()}"
    text += f"\n\nmapper, reducer = {mapper.__name__}, {reducer.__name__}\n"
    return text + (f"combiner = {combiner.__name__}\n" if combiner else "")
