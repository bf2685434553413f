"""What was durable a second ago, remembered beside the log.

RocksDB forgives a log whose tail is missing, because it cannot know that the tail had been synced. The
watermark, a small file of its own synced at most once a second, knows: a log that ends before it was cut by
something other than a crash. What vanishes beyond the watermark is outside the model: one second of a disk
that lies about fsync.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

from consensus.journal import Entry, Hard, damaged

_RECORD = struct.Struct("<QQQQ")  # sequence, current term, last index, its term; then their checksum
_SLOT = 512  # a slot never spans two sectors, and the two are written in turn
_EVERY_S = 1.0


class Watermark:
    """The last index, its term and the current term that were once durable; two slots, written in turn."""

    def __init__(self, path: Path, *, create: bool) -> None:
        # A new one gets its name with its content: an empty file that a crash left would be taken for damage.
        aside = path.with_suffix(".new")
        try:
            flags = os.O_RDWR | os.O_DSYNC | (os.O_CREAT if create else 0)
            self._file = os.open(aside if create else path, flags, 0o600)
        except FileNotFoundError:
            raise damaged("log", f"{path} is missing") from None
        self._sequence, self._term, self._last, self._last_term = self._read(path, create)
        self._written_at = time.monotonic()
        self._dirty = False
        if create:
            self.write()
            aside.rename(path)

    def check(self, hard: Hard, entries: list[Entry]) -> None:
        """Raises RefusedToStart when less is there than was durable."""
        last = entries[-1][1] if entries else 0
        if hard.term < self._term:
            raise damaged("vote", f"term {self._term} was on disk, and now it is {hard.term}")
        if last < self._last:
            raise damaged("log", f"it reached entry {self._last}, and now it ends at {last}")
        if self._last and self._last_term and entries and entries[0][1] <= self._last:
            term = entries[self._last - entries[0][1]][2]
            if term != self._last_term:
                raise damaged(
                    "log", f"entry {self._last} was of term {self._last_term}, and now it is of {term}"
                )

    def due_s(self) -> float | None:
        """Seconds until the file should be written; None while it is up to date."""
        return max(0.0, self._written_at + _EVERY_S - time.monotonic()) if self._dirty else None

    def advance(self, term: int, last: int, last_term: int) -> None:
        """What is durable now; on disk within a second."""
        if (term, last, last_term) != (self._term, self._last, self._last_term):
            self._term, self._last, self._last_term = term, last, last_term
            self._dirty = True
        if self._dirty and time.monotonic() >= self._written_at + _EVERY_S:
            self.write()

    def lower(self, last: int) -> None:
        """The log is about to be cut: durable before this returns."""
        if last < self._last:
            self._last, self._last_term = last, 0
            self.write()

    def write(self) -> None:
        """Writes the older of the two slots."""
        self._sequence += 1
        content = _RECORD.pack(self._sequence, self._term, self._last, self._last_term)
        os.pwrite(self._file, content + struct.pack("<I", zlib.crc32(content)), self._sequence % 2 * _SLOT)
        self._written_at = time.monotonic()
        self._dirty = False

    def close(self) -> None:
        """Lets the file go. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self, path: Path, create: bool) -> tuple[int, int, int, int]:
        found = []
        for slot in (0, 1):
            content = os.pread(self._file, _RECORD.size + 4, slot * _SLOT)
            if len(content) == _RECORD.size + 4 and zlib.crc32(content[:-4]) == int.from_bytes(
                content[-4:], "little"
            ):
                found.append(_RECORD.unpack_from(content))
        if found:
            return max(found)
        if not create:
            raise damaged("log", f"{path} cannot be read")
        return 0, 0, 0, 0
