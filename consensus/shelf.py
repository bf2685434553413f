"""The snapshots of one replica as its node and its worker thread use them, over `SnapshotStore`.

The tick thread asks for the newest and cuts pieces; the worker thread writes, installs and reads. The one
before the newest stays open, so that a member that is being sent it need not start again.
"""

from __future__ import annotations

import threading

from consensus.journal import disk_failed
from consensus.snapshots import BadSnapshot, Offer, Snapshot, SnapshotFile, SnapshotStore

FORMAT = b"\x01"  # of what the state machine's bytes are wrapped in; another means a newer release wrote it


class Shelf:
    """At most two open snapshot files and one that is arriving."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._newest = store.latest()
        self._previous: SnapshotFile | None = None
        self._lock = threading.Lock()  # a file is not closed while a piece is read from it

    def latest(self) -> SnapshotFile | None:
        """The newest snapshot."""
        return self._newest

    def piece(self, index: int, offset: int, length: int) -> bytes | None:
        """Bytes of the file that ends at `index`; None when it is gone."""
        with self._lock:
            for file in (self._newest, self._previous):
                if file is not None and file.index == index:
                    return file.read(offset, length)
        return None

    def put(self, snapshot: tuple[int, int, int, bytes], offset: int, data: bytes) -> int:
        """Takes a piece; returns how many bytes are held without a hole. Raises JournalFailed."""
        try:
            return self._store.receive(Offer(*snapshot)).write(offset, data)
        except OSError as error:
            raise disk_failed(error, "cannot keep a snapshot: ") from error

    def install(self, snapshot: tuple[int, int, int, bytes]) -> bool:
        """Verifies what has arrived and makes it durable. False when it was damaged. Raises JournalFailed."""
        try:
            self._place(self._store.receive(Offer(*snapshot)).install())
        except BadSnapshot:
            return False
        except OSError as error:
            raise disk_failed(error, "cannot keep a snapshot: ") from error
        return True

    def write(self, index: int, term: int, data: bytes) -> None:
        """Makes the state machine's bytes after `index` durable."""
        self._place(self._store.write(Snapshot(index, term, FORMAT, data)))

    def read(self) -> Snapshot | None:
        """The newest, verified. Raises BadSnapshot."""
        if self._newest is None:
            return None
        snapshot = self._newest.load()
        if snapshot.meta != FORMAT:
            raise BadSnapshot(f"it has format {snapshot.meta!r}; this release reads {FORMAT!r}")
        return snapshot

    def close(self) -> None:
        """Lets the files go."""
        with self._lock:
            for file in (self._newest, self._previous):
                if file is not None:
                    file.close()

    def _place(self, file: SnapshotFile) -> None:
        with self._lock:
            if self._newest is not None and file.index <= self._newest.index:
                file.close()
                return
            if self._previous is not None:
                self._previous.close()
            self._previous, self._newest = self._newest, file
