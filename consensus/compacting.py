"""Snapshots of one member: when to take one, how much of the log may go then, and one that arrives in pieces."""

from __future__ import annotations

from typing import Any

from consensus.config import Limits


class Compacting:
    """`journal` and `snapshots` are the node's. Nothing here waits for a disk: what takes long is done elsewhere."""

    def __init__(self, limits: Limits, journal: Any, snapshots: Any) -> None:
        self._limits, self._journal, self._snapshots = limits, journal, snapshots
        self._taking = False  # a snapshot of ours is on its way to the disk
        self._arriving: Any = None  # a complete one of the leader's is

    def begun(self) -> None:
        """A snapshot of ours is being taken."""
        self._taking = True

    def due(self, handed: int) -> bool:
        """Enough was handed to the state machine since the last snapshot, by entries or by bytes."""
        if self._taking or self._arriving is not None:
            return False
        limits, journal = self._limits, self._journal
        fresh = self._fresh(handed)
        large = journal.bytes >= limits.compact_bytes and fresh >= len(journal) // 2
        return bool(fresh >= limits.compact_entries or large)

    def can_wait(self, handed: int) -> bool:
        """While a snapshot is sent to somebody, a newer one would make it start again: the log may grow meanwhile."""
        return self._fresh(handed) < 4 * self._limits.compact_entries

    def _fresh(self, handed: int) -> int:
        latest = self._snapshots.latest()
        return int(handed - max(latest.index if latest else 0, self._journal[0][1]))

    def taken(self, index: int) -> None:
        """A snapshot of ours that ends at `index` is durable: the log before it may go, but for a tail."""
        self._taking = False
        keep = min(self._limits.keep_entries, len(self._journal) // 4)
        first, last = self._journal[0][1], self._journal[-1][1]
        if first < index - keep <= last:
            self._journal.deleteEntriesTo(index - keep - first)

    def take_piece(self, message: Any) -> tuple[int, bool]:
        """Keeps a piece. Returns how much is held, and whether that made it complete just now. While one is on its
        way to the disk no other is begun."""
        snapshot = message["snapshot"]
        if self._arriving is not None:
            return (int(snapshot[2]) if snapshot == self._arriving else 0), False
        held = int(self._snapshots.put(snapshot, message["offset"], message["data"]))
        if held == snapshot[2]:
            self._arriving = snapshot
        return held, held == snapshot[2]

    def arrived(self) -> None:
        """It is on disk, or was damaged and has to come again."""
        self._arriving = None
