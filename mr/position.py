"""Which record is in hand, kept where it survives the death of the process (P-07).

A file of 64 bytes in the attempt's folder, mapped into memory: the task stores one number before each record,
which costs some 30 ns, and whoever buries the process reads it. All numbers are little-endian u64:
record (from 1 within the split or partition; 0 = none in hand), phase.
"""

from __future__ import annotations

import mmap
import struct
import sys
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

SIZE = 64
_FIELDS = struct.Struct("<2Q")


class Phase(IntEnum):
    """What the attempt was doing."""

    START = 0
    MAP = 1
    REDUCE = 2
    FINISH = 3  # teardown, sorting, writing


class Position(NamedTuple):
    """What `read` found."""

    record: int
    phase: Phase


class Marker:
    """The writing side. `slots[0] = n` marks record n."""

    def __init__(self, attempt_dir: Path) -> None:
        with (attempt_dir / "position").open("w+b") as file:
            file.truncate(SIZE)
            self._map = mmap.mmap(file.fileno(), SIZE)
        assert sys.byteorder == "little"
        self.slots = memoryview(self._map).cast("Q")

    def phase(self, phase: Phase) -> None:
        """No record is in hand; a new phase begins."""
        self.slots[0] = 0
        self.slots[1] = phase

    def close(self) -> None:
        """Unmaps the file."""
        self.slots.release()
        self._map.close()


def read(attempt_dir: Path) -> Position | None:
    """Where the attempt is, or was when it died; None if it never began."""
    try:
        raw = (attempt_dir / "position").read_bytes()
    except OSError:
        return None
    if len(raw) < _FIELDS.size:
        return None
    record, phase = _FIELDS.unpack_from(raw)
    return Position(record, Phase(phase) if phase in Phase._value2member_map_ else Phase.START)
