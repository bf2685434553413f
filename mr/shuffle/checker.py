"""Verifies regions on their way: what a worker fetches from another one is checked before it is believed (D7, FD3)."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from mr.shuffle.blocks import HEADER_BYTES, Damaged, Header, chained, parse_header, seal


class Checker:
    """Verifies a region that arrives in pieces cut anywhere, without holding it.

    `verified` is the offset up to which whole blocks are good: after a break, drop what came behind it and
    resume there with a copy made by `resume`. The `path` is only for messages.
    """

    def __init__(self, owner: bytes, partition: int, length: int, *, path: object = "fetched") -> None:
        self.verified = 0
        self._path = path
        self._partition = partition
        self._length = length
        self._chain = seal(owner, partition)  # up to `verified`
        self._head = b""
        self._header: Header | None = None
        self._running = 0  # checksum so far of the block in hand
        self._missing = 0  # bytes of its payload still to come
        self._ended = False

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises Damaged at the first that cannot be right."""
        view = memoryview(data)
        while view:
            if self._ended:
                raise self._damaged("data behind the end of the region")
            if self._header is None:
                take = HEADER_BYTES - len(self._head)
                self._head += bytes(view[:take])
                view = view[take:]
                if len(self._head) == HEADER_BYTES:
                    self._begin_block()
                continue
            piece = view[: self._missing]
            self._running = crc32(piece, self._running)
            self._missing -= len(piece)
            view = view[len(piece) :]
            if not self._missing:
                self._end_block()

    def finish(self) -> None:
        """All has been fed. Raises Damaged unless that was the whole region."""
        if not self._ended or self.verified != self._length:
            raise self._damaged("the region ends early")

    def resume(self) -> None:
        """Forget what was fed behind `verified`: the next bytes begin there."""
        self._head, self._header, self._missing = b"", None, 0

    def _begin_block(self) -> None:
        try:
            self._header = parse_header(self._head, 0, self._length - self.verified)
        except ValueError as error:
            raise self._damaged(str(error)) from None
        self._running = chained(self._chain, self._head)
        self._missing = self._header.stored
        if not self._missing:
            self._end_block()

    def _end_block(self) -> None:
        assert self._header is not None
        if self._running != self._header.crc:
            raise self._damaged("checksum mismatch")
        self._chain = self._running
        self.verified += HEADER_BYTES + self._header.stored
        self._ended = self._header.ends
        self.resume()

    def _damaged(self, reason: str) -> Damaged:
        return Damaged(self._path, self._partition, self.verified, reason)


def verify(
    blocks: Iterable[bytes], owner: bytes, partition: int, length: int, *, path: object = "fetched"
) -> None:
    """A whole region at once. Raises Damaged."""
    checker = Checker(owner, partition, length, path=path)
    for data in blocks:
        checker.feed(data)
    checker.finish()
