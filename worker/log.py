"""What user code prints, kept per attempt within a bound: the beginning in full, then only the last of it.

The law: code that prints 10 GB costs a worker neither disk nor memory nor time, and what remains says how
much is missing.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

HEAD_BYTES = 8 << 20
TAIL_BYTES = 64 << 10


class AttemptLog:
    """The log of one attempt. A full disk loses text, never the attempt."""

    def __init__(self, path: Path, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        self._left, self._tail_bytes = head_bytes, tail_bytes
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0
        self._file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = path.open("ab", buffering=0)
        except OSError:
            pass  # nowhere to write: the attempt runs without a log

    def write(self, data: bytes) -> None:
        """Takes what was printed."""
        if self._left > 0:
            self._put(data[: self._left])
            data, self._left = data[self._left :], self._left - len(data)
        if not data:
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= self._tail_bytes:
            gone = self._tail.popleft()
            self._tail_size -= len(gone)
            self._dropped += len(gone)

    def close(self) -> None:
        """Writes the last of what was printed."""
        tail = b"".join(self._tail)
        self._tail.clear()
        dropped = self._dropped + max(0, len(tail) - self._tail_bytes)
        if dropped:
            self._put(f"\n... {dropped} bytes left out ...\n".encode())
        self._put(tail[-self._tail_bytes :])
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> AttemptLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, data: bytes) -> None:
        if self._file is None or not data:
            return
        try:
            self._file.write(data)
        except OSError:
            self._left = 0
