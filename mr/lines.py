r"""The record-boundary rule of every format made of lines: a split owns the lines that *begin* in it (S3-13).

A line ends with LF; a CR right before that LF belongs to the line's end, any other CR is data. The last line
may lack its LF. A byte range that begins inside a line leaves that line to the range before it, and reads its
own last line to the end, even beyond the range: so each line has one owner, for any cuts whatever.

Lines come in blocks of whole lines, about 64 KiB each, to be decoded and split at once. A line longer than
the limit comes alone and cut off, marked as too long: memory stays bounded whatever the file holds (FD16).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK_BYTES = 64 << 10
LINE_BYTES_MAX = 256 << 20
_SHOWN_BYTES = 200  # of a line that is too long


class Block(NamedTuple):
    """Whole lines as stored, with their ends; `offset` is where the first begins in the (decompressed) file."""

    offset: int
    data: bytes
    too_long: bool = False  # one line of more than the limit; `data` is its beginning


def read_blocks(
    stream: BinaryIO, start: int = 0, end: int | None = None, *, line_bytes_max: int = LINE_BYTES_MAX
) -> Iterator[Block]:
    """The lines that begin in [start, end), to the end of the file for None. Raises what reading raises."""
    source = _Source(stream, start)
    if start:
        source.skip_line()
    while end is None or source.at < end:
        block = source.take(end, line_bytes_max)
        if block is None:
            return
        yield block


class _Source:
    """What was read and not yet taken: `_rest`, which begins a line at `at` of the file."""

    def __init__(self, stream: BinaryIO, start: int) -> None:
        self.at = max(start - 1, 0)  # one early: the byte before tells whether a line begins at `start`
        self._stream = stream
        self._rest = b""
        if self.at:
            stream.seek(self.at)

    def skip_line(self) -> None:
        """Go behind the next LF, or to the end of the file."""
        while True:
            found = self._rest.find(b"\n") + 1
            if found:
                self.at += found
                self._rest = self._rest[found:]
                return
            self.at += len(self._rest)
            self._rest = self._stream.read(BLOCK_BYTES)
            if not self._rest:
                return

    def take(self, end: int | None, line_bytes_max: int) -> Block | None:
        """Some whole lines, none of which begins at `end` or behind; None at the end of the file."""
        begin, parts, size = self.at, list[bytes](), 0
        while True:
            cut = self._cut(self._rest, None if end is None else end - begin - size)
            if cut:
                data = b"".join((*parts, self._rest[:cut]))
                self._rest = self._rest[cut:]
                self.at = begin + len(data)
                return Block(begin, data)
            parts.append(self._rest)
            size += len(self._rest)
            self._rest = b""
            self.at = begin + size
            if size > line_bytes_max:
                self.skip_line()
                return Block(begin, b"".join(parts)[:_SHOWN_BYTES], too_long=True)
            self._rest = self._stream.read(BLOCK_BYTES)
            if not self._rest:
                return Block(begin, b"".join(parts)) if size else None

    @staticmethod
    def _cut(data: bytes, end: int | None) -> int:
        """Behind the LF of the last line in `data` that begins before `end`; 0 if that LF is not there."""
        if end is not None and len(data) >= end:
            found = data.find(b"\n", max(end - 1, 0)) + 1
            if found:
                return found
        return data.rfind(b"\n") + 1


def decode_lines(data: bytes) -> list[str]:
    """The lines of a block without their ends, as text. Bytes that are no UTF-8 survive as lone surrogates."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if not lines[-1]:
        lines.pop()
    if b"\r\n" in data:
        terminated = len(lines) if data.endswith(b"\n") else len(lines) - 1
        lines[:terminated] = [line[:-1] if line.endswith("\r") else line for line in lines[:terminated]]
    return lines


def offsets(block: Block) -> list[int]:
    """Where each line of a block begins in the file."""
    found, at = [], block.offset
    for line in block.data.split(b"\n"):
        found.append(at)
        at += len(line) + 1
    if block.data.endswith(b"\n"):
        found.pop()
    return found
