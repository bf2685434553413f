"""The page through which the harness and one node's processes speak while it runs.

The harness arms a named point (`arm`) or sets a rule for messages (`rule`); the processes of the node look at the page
at each passage (`armed`, `due`), and prove what they did: a point by a file of its own, synced before the process dies,
a message by a counter. The page outlives every process of the node, and a node started again goes on with it.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

KILL, STOP = 1, 2  # what becomes of the process that comes to the point
_SIZE = 4096
_POINT, _DEED, _PASSAGES = 0, 1, 4  # u8, u8, u32: how many passages are let by first
_RULES, _RULE = 64, struct.Struct("<IIQ")  # one for n messages, lateness in ms, how many were met


class Rule(NamedTuple):
    """One of `every` messages is met; `late_s` after its time, where lateness means anything. 0: none is."""

    every: int
    late_s: float = 0.0


class Control:
    """One node's page at `path`, made when it is not there."""

    def __init__(self, path: Path) -> None:
        self.hit_file = path.with_suffix(".hit")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._page = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    # What the harness does ----------------------------------------------------------------------------------

    def arm(self, point: int, deed: int, passages: int = 0) -> None:
        """The process that comes to `point`, after so many others have passed, ends there."""
        self.disarm()
        self.hit_file.unlink(missing_ok=True)
        struct.pack_into("<BxxxI", self._page, _DEED, deed, 0)
        struct.pack_into("<I", self._page, _PASSAGES, passages)
        self._page[_POINT] = point

    def disarm(self) -> None:
        """Everybody passes. Idempotent."""
        self._page[_POINT] = 0

    def hit(self) -> dict[str, Any] | None:
        """Which process came to the point, as it wrote itself; None while there is none."""
        try:
            found: dict[str, Any] = json.loads(self.hit_file.read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):  # not there, or not yet whole
            return None
        return found

    def rule(self, number: int, rule: Rule) -> None:
        """From now on messages of that kind are met so."""
        every, late_ms = rule.every, int(rule.late_s * 1000)
        struct.pack_into("<II", self._page, _RULES + number * _RULE.size, every, late_ms)

    def met(self, number: int) -> int:
        """How many messages the rule has met in all."""
        return int(_RULE.unpack_from(self._page, _RULES + number * _RULE.size)[2])

    def close(self) -> None:
        """Unmaps the page."""
        self._page.close()

    # What the node's processes do ---------------------------------------------------------------------------

    def armed(self, point: int) -> bool:
        """Whether who comes to `point` now is the one. Looked at often: one byte, mostly."""
        if self._page[_POINT] != point:
            return False
        (left,) = struct.unpack_from("<I", self._page, _PASSAGES)
        if left:
            struct.pack_into("<I", self._page, _PASSAGES, left - 1)
            return False
        return True

    def prove(self, point: int, name: str) -> int:
        """Writes that this process has come to the point; what it is to do then, or 0 when another was first."""
        deed = self._page[_DEED]
        line = json.dumps({"point": name, "pid": os.getpid(), "t": time.monotonic_ns()})
        try:
            descriptor = os.open(self.hit_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return 0
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
        os.close(descriptor)
        if self._page[_POINT] == point:
            self.disarm()
        return deed

    def rule_of(self, number: int) -> Rule:
        """What the harness wants now."""
        every, late_ms, _ = _RULE.unpack_from(self._page, _RULES + number * _RULE.size)
        return Rule(every, late_ms / 1000)

    def meet(self, number: int) -> None:
        """One more message was met."""
        struct.pack_into("<Q", self._page, _RULES + number * _RULE.size + 8, self.met(number) + 1)
