"""Length-prefixed frames (u32, big-endian) on the two pipes between a worker and its task process."""

import os
import struct

_LENGTH = struct.Struct(">I")


def read_frame(fd: int) -> bytes | None:
    """The next frame; None when the other side closed the pipe between two frames.

    Raises EOFError if it closed within one.
    """
    head = _read_exactly(fd, _LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    body = _read_exactly(fd, length)
    if len(body) < length:
        raise EOFError("the pipe closed within a frame")
    return body


def write_frame(fd: int, body: bytes) -> None:
    """Writes one frame whole. Raises BrokenPipeError when the reader is gone."""
    view = memoryview(_LENGTH.pack(len(body)) + body)
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(fd: int, size: int) -> bytes:
    chunks = []
    while size:
        chunk = os.read(fd, min(size, 1 << 20))
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    if size and chunks:
        raise EOFError("the pipe closed within a frame")
    return b"".join(chunks)
