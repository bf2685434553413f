"""Asks every master by itself, a few times a second, who it thinks it is: the evidence for C1, C2, C14 and the picture.

Asks the masters one by one and never believes one about another. Records a note `master` whenever a master's role or
term changes, when it stops answering, and about every second while it answers.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepsen_like.history import History
from mr.settings import Tls

EVERY_S = 0.1
PATIENCE_S = 0.4
AGAIN_S = 1.0


class Watcher(threading.Thread):
    """Runs until `stop` is called."""

    def __init__(self, addresses: Mapping[str, str], tls: Tls, history: History) -> None:
        super().__init__(name="watcher", daemon=True)
        self._addresses, self._tls, self._history = dict(addresses), tls, history
        self._ended = threading.Event()

    def stop(self) -> None:
        """Returns when the last answer is recorded."""
        self._ended.set()
        self.join(5)

    def run(self) -> None:
        """One thread a master: a paused one must not delay the others."""
        threads = [
            threading.Thread(target=self._follow, args=pair, daemon=True) for pair in self._addresses.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _follow(self, id: str, address: str) -> None:
        from mr.channel import open_channel
        from mr.rpc.cluster_pb2_grpc import ClusterStub

        last: dict[str, Any] = {}
        said = 0.0
        with open_channel(address, self._tls) as channel:
            stub = ClusterStub(channel)
            while not self._ended.is_set():
                seen = _ask(stub)
                now = time.monotonic()
                changed = any(seen.get(name) != last.get(name) for name in ("role", "term"))
                if changed or (seen["role"] != "silent" and now - said > AGAIN_S):
                    self._history.record("watcher", "note", "master", seen, node=id)
                    last, said = seen, now
                self._ended.wait(EVERY_S)


def _ask(stub: Any) -> dict[str, Any]:
    import grpc

    from mr.rpc.cluster_pb2 import ListMastersRequest

    try:
        reply = stub.ListMasters(ListMastersRequest(local_only=True), timeout=PATIENCE_S)
    except grpc.RpcError:
        return {"role": "silent"}
    if not reply.masters:
        return {"role": "silent"}
    own = reply.masters[0]
    return {
        "role": own.role,
        "term": own.term,
        "commit": own.commit,
        "applied": own.applied,
        "up_ms": own.up_ms,
        "log": own.log_entries,
        "snapshot": own.snapshot_index,
    }


class Reader(threading.Thread):
    """Looks at every output as a user's next program would: once the marker is there, all that it lists must be (D4).

    Records a note `published` for each output it saw complete, and `torn` for each marker that promised too much. An
    output that takes the place of another one is looked at anew.
    """

    def __init__(self, out: Path, history: History) -> None:
        super().__init__(name="reader", daemon=True)
        self._out, self._history = out, history
        self._ended = threading.Event()

    def stop(self) -> None:
        """Returns when the last look is recorded."""
        self._ended.set()
        self.join(5)

    def run(self) -> None:
        """Until `stop`."""
        seen: set[tuple[str, int]] = set()
        while not self._ended.wait(0.01):
            with os.scandir(self._out) as there:
                new = [entry for entry in there if (entry.name, entry.inode()) not in seen]
            for entry in new:
                if (found := look(self._out / entry.name)) is not None:
                    seen.add((entry.name, entry.inode()))
                    kind = "torn" if found else "published"
                    self._history.record("reader", "note", kind, {"job": entry.name, "missing": found})


def look(folder: Path) -> list[str] | None:
    """What the marker of an output lists and is not there, or not whole; None without a marker, and when another output
    has taken its place meanwhile."""
    try:
        before = folder.stat().st_ino
        listed = json.loads((folder / "_SUCCESS").read_bytes())["files"]
        missing = [row["name"] for row in listed if _size(folder / row["name"]) != row["bytes"]]
        return missing if folder.stat().st_ino == before else None
    except (OSError, ValueError):
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
