"""What happened, one line an event: operations of clients, faults and their proofs, notes.

A history is the evidence that a verdict rests on, so it is written before anything else is done with an event, by
whichever thread saw it, in one order. The file is JSON lines; each has

    t        nanoseconds of this machine's monotonic clock since the run began
    process  who: "client-3", "nemesis", "watcher", "run"
    kind     invoke | ok | fail | info for an operation; hurt | heal | proof for a fault; note
    op       what: "submit", "cancel", "status", "wait", "read"; a fault's name; a note's subject
    value    its arguments or its answer, any JSON
    node     the server concerned, "" when none
    id       number that ties an operation's end to its invocation, a fault's heal and proof to its hurt

Calls on jobs have {"job": id} for their value; submit is answered {"existed": bool}, status, wait and cancel
{"state": S}: absent, QUEUED, RUNNING, PUBLISHING, SUCCEEDED, FAILED or CANCELLED; a status may add "tasks": [[step,
kind, total, idle, running, done], ...]. Calls on registers are write, read and cas, on {"key", "value"}, or
[key, value], or the value alone where there is one register, which holds null at first; a cas has [old, new] for its
value and is answered by true or false. Blank lines are passed over. A history with calls of any other kind is not
judged.

An operation ends `ok` when its answer came, `fail` when it certainly did not happen, and `info` when nobody can know
(a timeout, a lost connection): never `fail` in doubt.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

KINDS = ("invoke", "ok", "fail", "info", "hurt", "heal", "proof", "note")
ENDS = frozenset({"ok", "fail", "info"})
NEMESIS = "nemesis"
OTHER_NAMES = {"type": "kind", "f": "op", "time": "t"}
FIELDS: dict[str, tuple[type, ...]] = {"t": (int, float), "process": (str, int), "kind": (str,), "op": (str,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line. See the module for its fields."""

    t: int
    process: str
    kind: str
    op: str
    value: Any = None
    node: str = ""
    id: int = 0
    line: int = field(
        default=0, compare=False
    )  # where it was read, from 1 on: for messages, it is not written


class History:
    """Records events to a file as they happen. Every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self._file: IO[str] = path.open("w")
        self._lock = threading.Lock()
        self._began = time.monotonic_ns()
        self._next = 0

    def record(
        self, process: str, kind: str, op: str, value: Any = None, *, node: str = "", id: int | None = None
    ) -> int:
        """Writes one event and returns its id: a new one, or the one given. After `close` nothing is recorded: an
        interrupted run leaves threads that go on for a moment."""
        assert kind in KINDS, kind
        with self._lock:
            if id is None:
                self._next += 1
                id = self._next
            if self._file.closed:
                return id
            now = time.monotonic_ns() - self._began
            event = Event(t=now, process=process, kind=kind, op=op, value=value, node=node, id=id)
            self.events.append(event)
            fields = {name: value for name, value in asdict(event).items() if name != "line"}
            self._file.write(json.dumps(fields, separators=(",", ":"), default=str) + "\n")
            self._file.flush()
            return id

    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.monotonic_ns() - self._began

    def close(self) -> None:
        """The file is complete. Idempotent."""
        with self._lock:
            self._file.close()


def read(path: Path) -> list[Event]:
    """A recorded history. Raises ValueError naming the line that is none."""
    lines = path.read_text(encoding="utf-8-sig").split(
        "\n"
    )  # and at nothing else: a JSON text may hold other ends of lines
    return list(parse(lines[:-1] if lines[-1] == "" else lines))


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Lines to events. Unknown fields are ignored, so that newer histories can be read. Histories of others are read
    too: `type`, `f` and `time` are kind, op and t; without `id` an end belongs to the open call of its process; what a
    nemesis says is a note. Raises ValueError with the number of the line that is no event, or ends a call that nobody
    made."""
    open_calls: dict[str, int] = {}  # of histories without ids
    ended: dict[int, bool] = {}  # call -> whether it has an end
    ops: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as broken:
            raise ValueError(f"line {number} is no JSON, or cut short: {broken}") from None
        event = _event(fields, number, open_calls)
        if event.kind == "invoke":
            if event.id in ended:
                raise ValueError(f"line {number}: call {event.id} is made a second time")
            ended[event.id] = False
            ops[event.id] = event.op
        elif event.kind in ENDS:
            if ended.get(event.id, True):
                what = "ends a second time" if event.id in ended else "ends, but was never made"
                raise ValueError(f"line {number}: call {event.id} of {event.process} {what}")
            if event.op != ops[event.id]:
                raise ValueError(
                    f"line {number}: call {event.id} is a {ops[event.id]!r} and ends as {event.op!r}"
                )
            ended[event.id] = True
        yield event


def _printable(name: str) -> str:
    """A name that may be shown on a terminal, whoever wrote it."""
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _event(fields: Any, number: int, open_calls: dict[str, int]) -> Event:
    if not isinstance(fields, dict):
        raise ValueError(f"line {number} is no event but {type(fields).__name__}")
    for old, new in OTHER_NAMES.items():
        if old in fields and new in fields and fields[old] != fields[new]:
            raise ValueError(f"line {number}: {old} is {fields[old]!r} and {new} is {fields[new]!r}")
    own = {**{new: fields[old] for old, new in OTHER_NAMES.items() if old in fields}, **fields}
    for name, types in FIELDS.items():
        if name not in own:
            raise ValueError(f"line {number} has no {name!r}")
        if not isinstance(own[name], types) or isinstance(own[name], bool):
            raise ValueError(f"line {number}: {name} is {own[name]!r}")
    kind, process = str(own["kind"]), _printable(str(own["process"]))
    if kind not in KINDS:
        raise ValueError(f"line {number}: kind {kind!r} is none of {', '.join(KINDS)}")
    id = own.get("id")
    if id is None and process.lstrip(":") == NEMESIS and kind in {"invoke", *ENDS}:
        kind, id = "note", 0
    if id is None:
        id = number if kind == "invoke" else open_calls.pop(process, -number) if kind in ENDS else 0
        if kind == "invoke":
            if process in open_calls:
                raise ValueError(f"line {number}: {process} calls again before its last call has ended")
            open_calls[process] = number
    if not isinstance(id, int) or isinstance(id, bool):
        raise ValueError(f"line {number}: id is {id!r}")
    node = own.get("node") or ""
    return Event(
        t=own["t"],
        process=process,
        kind=kind,
        op=_printable(str(own["op"])),
        value=own.get("value"),
        node=_printable(str(node)),
        id=id,
        line=number,
    )
