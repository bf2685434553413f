"""The user code of jobs that use more of what a job may do: two steps, no reduce, side files and counters of their own,
and a look around. A job file is the text of this file and a line that says which.
"""

import glob
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

SLOW_S = 1200.0  # longer than a whole run: who is not killed is still there in the end (D9)
_marked = ""


def mark(found: list[str] | None = None) -> None:
    """Once an attempt: a file that says that it began, and what it `found` if it looked for something."""
    global _marked  # noqa: PLW0603  a task process runs one attempt after another
    folder = os.environ.get("CHAOS_MARKS")
    name = f"{os.environ.get('MR_JOB_ID')}~{os.environ.get('MR_TASK_ID')}~{os.environ.get('MR_ATTEMPT')}"
    if not folder or name == _marked:
        return
    _marked = name
    with open(os.path.join(folder, f"{name}~{time.monotonic_ns()}"), "x"):
        pass
    if found is not None:
        with open(os.path.join(os.environ["CHAOS_PEEKS"], name), "w") as out:
            out.write("".join(f"{line}\n" for line in found))


def words(line: str) -> Iterator[tuple[str, Any]]:
    """Words, each once."""
    mark()
    for word in line.split():
        yield word.lower(), 1


def total(word: str, counts: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """How often."""
    mark()
    yield word, sum(counts)


def whole(line: str) -> Iterator[tuple[str, Any]]:
    """Each line as it is."""
    mark()
    yield line, 1


def turn(word: Any, count: Any) -> Iterator[tuple[str, Any]]:
    """The second step: by how often."""
    mark()
    yield f"{count:05d}", word


def gather(count: str, found: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """All words of one frequency."""
    mark()
    yield count, " ".join(sorted(found))


def number(line: str) -> Iterator[tuple[str, Any]]:
    """A map without a reduce: each line and its length, in the order of the input."""
    mark()
    yield line, len(line)


def counted(line: str, ctx: Any) -> Iterator[tuple[str, Any]]:
    """Counts by itself, and writes each line into a side file too."""
    mark()
    ctx.count("lines")
    ctx.count("letters", len(line))
    ctx.side_file("lines").write(f"{line}\n".encode())
    yield line.split(maxsplit=1)[0], 1


def look(line: str) -> Iterator[tuple[str, Any]]:
    """Reads what a task should not be able to read (S4)."""
    mark(around() if "MR_TASK_ID" in os.environ else None)
    yield line, 1


def placed(line: str) -> Iterator[tuple[str, Any]]:
    """Each word, and the line in which it stands."""
    mark()
    for word in line.split():
        yield word.lower(), line


def in_order(word: str, found: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Its lines, in the order in which they come: that of the inputs."""
    mark()
    yield word, " / ".join(found)


def slowly(line: str) -> Iterator[tuple[str, Any]]:
    """Takes so long that the job's deadline comes first."""
    mark()
    time.sleep(SLOW_S)
    yield line, 1


def around() -> list[str]:
    """Keys in the folder that somebody told us of, or that any process here was started with."""
    found = []
    for path in sorted(
        glob.glob(os.path.join(os.environ.get("CHAOS_KEYS", "/nowhere"), "**"), recursive=True)
    ):
        if path.endswith(".key"):
            found += [f"the key {os.path.basename(path)}"] if read(path) else []
    own = read("/proc/self/environ")
    for name in (b"MR_TLS__", b"MR_WORKER__", b"MR_MASTER__", b"MR_TOKEN"):
        found += [f"{name.decode()}… in its environment"] if name in own else []
    for path in glob.glob("/proc/[0-9]*/environ"):
        if b"MR_TLS__" in read(path):
            found.append(f"the environment of process {path.split('/')[2]}")
    return found


def read(path: str) -> bytes:
    """What it holds, or nothing."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
