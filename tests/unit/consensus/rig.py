"""Three real replicas in one process over an in-process link: the real tick threads, journals on disk when
asked."""

from __future__ import annotations

import asyncio
import json
import os
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from consensus.config import Limits, ReplicaConfig, Timing
from consensus.core import NO_OP
from consensus.journal import Batch, Hard, Journal, JournalFailed, Loaded, align
from consensus.opening import Parts
from consensus.replica import ConsensusError
from consensus.rocks import RocksStore
from consensus.shelf import Shelf
from consensus.snapshots import SnapshotStore
from consensus.syncobj import SyncObjReplica


class Register:
    """A state machine: appends commands to a list, and says how long it is."""

    def __init__(self) -> None:
        self.commands: list[tuple[int, str]] = []
        self.restored = 0

    def apply(self, index: int, command: bytes) -> Any:
        if command == b"boom":
            raise ValueError("boom")
        self.commands.append((index, command.decode()))
        return len(self.commands)

    def snapshot(self) -> Callable[[], bytes]:
        copy = list(self.commands)
        return lambda: json.dumps(copy).encode()

    def restore(self, data: bytes) -> None:
        self.commands = [(i, c) for i, c in json.loads(data)]
        self.restored += 1


class Hub:
    """Delivers frames between links of one process; a link may be cut."""

    def __init__(self) -> None:
        self.links: dict[str, HubLink] = {}
        self.cut: set[frozenset[str]] = set()

    def join(self, a: str, b: str) -> bool:
        return frozenset((a, b)) not in self.cut

    def sever(self, a: str, *others: str) -> None:
        for b in others:
            self.cut.add(frozenset((a, b)))
            for here, there in ((a, b), (b, a)):
                if here in self.links:
                    self.links[here].push(("down", there, None))

    def mend(self, a: str, *others: str) -> None:
        for b in others:
            self.cut.discard(frozenset((a, b)))
            for here, there in ((a, b), (b, a)):
                if here in self.links and there in self.links:
                    self.links[here].push(("up", there, None))


class HubLink:
    def __init__(self, hub: Hub, me: str) -> None:
        self.hub, self.me = hub, me
        self.inbox: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def start(self) -> None:
        self.hub.links[self.me] = self
        for other, link in self.hub.links.items():
            if other != self.me and self.hub.join(self.me, other):
                self.push(("up", other, None))
                link.push(("up", self.me, None))

    def push(self, item: tuple[str, str, Any]) -> None:
        self.inbox.put(item)
        self.wake()

    def send(self, peer: str, frame: Any, *, bulk: bool = False) -> bool:
        link = self.hub.links.get(peer)
        if link is None or not self.hub.join(self.me, peer):
            return False
        link.push(("frame", self.me, frame.SerializeToString()))
        return True

    def poll(self, handler: Any) -> None:
        from consensus.rpc import raft_pb2 as pb

        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass
        while not self.inbox.empty():
            kind, peer, data = self.inbox.get()
            match kind:
                case "frame":
                    if self.hub.join(self.me, peer):
                        handler.on_frame(peer, pb.Frame.FromString(data))
                case "up":
                    handler.on_up(peer)
                case "down":
                    handler.on_down(peer)
                    handler.on_reset(peer)

    def fileno(self) -> int:
        return self._read

    def wake(self) -> None:
        try:
            os.write(self._write, b"x")
        except (BlockingIOError, OSError):
            pass

    def close(self) -> None:
        self.hub.links.pop(self.me, None)
        for other, link in self.hub.links.items():
            if other != self.me:
                link.push(("down", self.me, None))
        os.close(self._read)
        os.close(self._write)


class HeapStore:
    """A disk that is always on time and forgets nothing while the test lasts."""

    def __init__(self) -> None:
        self.durable = 0
        self.failed: JournalFailed | None = None
        self.on_durable: Callable[[], None] = lambda: None
        self.sync_s = 0.0
        self.hard, self.entries = Hard(), []

    def load(self) -> Loaded:
        self.durable = 0
        return Loaded(Hard(self.hard.term, self.hard.vote, self.hard.commit), list(self.entries))

    def write(self, batch: Batch, ticket: int) -> None:
        if batch.keep_from is not None:
            self.entries = [e for e in self.entries if e[1] >= batch.keep_from]
        if batch.keep_to is not None:
            self.entries = [e for e in self.entries if e[1] <= batch.keep_to]
        self.entries += batch.entries
        if batch.hard is not None:
            self.hard = batch.hard
        self.durable = ticket
        self.on_durable()

    def wait(self, ticket: int) -> None:
        assert self.durable >= ticket

    def close(self) -> None:
        pass


# More patient than the product: three members share one interpreter here, perhaps on a busy machine.
TIMING = Timing(heartbeat_s=0.05, election_min_s=0.6, election_max_s=1.0, lease_s=0.6)


class Cluster:
    """Members a, b, c... over one hub. `rocks`: the real journal on disk."""

    def __init__(self, root: Path, n: int = 3, *, rocks: bool = False, limits: Limits | None = None) -> None:
        self.root, self.rocks, self.hub = root, rocks, Hub()
        self.ids = [chr(ord("a") + i) for i in range(n)]
        self.limits = limits or Limits()
        self.machines: dict[str, Register] = {}
        self.replicas: dict[str, SyncObjReplica] = {}
        self.stores: dict[str, HeapStore] = {}
        self.fatal: list[BaseException] = []
        self.refuse: tuple[int, str] | None = None

    def _parts(self, config: ReplicaConfig, say: Any, stopping: Any) -> Parts:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        if self.rocks:
            fresh = not (config.data_dir / "watermark").exists()
            store: Any = RocksStore(config.data_dir, create=fresh)
        else:
            store = self.stores.setdefault(config.id, HeapStore())
        journal = Journal(store)
        shelf = Shelf(SnapshotStore(config.data_dir / "snapshots"))
        latest = shelf.latest()
        index, term = (latest.index, latest.term) if latest else (1, 0)
        if not align(journal, index, term):
            journal.add(NO_OP, index, term)
        journal.sync()
        link = HubLink(self.hub, config.id)

        def close() -> None:
            link.close()
            journal._destroy()
            shelf.close()

        return Parts(
            journal=journal, snapshots=shelf, link=link, cluster_id="test", start=link.start, close=close
        )

    async def start(self, *ids: str) -> None:
        for i in ids or self.ids:
            config = ReplicaConfig(
                id=i,
                peers={p: f"{p}:0" for p in self.ids},
                listen="127.0.0.1:0",
                data_dir=self.root / i,
                timing=TIMING,
                limits=self.limits,
                refuse_entry=self.refuse,
                reserve_bytes=0,
            )
            self.machines[i] = Register()
            self.replicas[i] = SyncObjReplica(
                config, self.machines[i], parts=self._parts, end=self.fatal.append
            )
            await self.replicas[i].start()

    async def stop(self, *ids: str) -> None:
        for i in ids or list(self.replicas):
            replica = self.replicas.pop(i, None)
            if replica:
                await replica.stop()

    async def leader(self, among: list[str] | None = None) -> SyncObjReplica:
        async with asyncio.timeout(20):
            while True:
                for i in among or list(self.replicas):
                    if i in self.replicas and self.replicas[i].leadership.mine:
                        return self.replicas[i]
                await asyncio.sleep(0.01)

    async def insist(self, command: bytes) -> Any:
        """Proposes on whoever leads until it is accepted."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await (await self.leader()).propose(command, timeout_s=2)
                except ConsensusError:
                    await asyncio.sleep(0.02)

    async def settled(self, index: int) -> None:
        """Every running replica has applied `index`."""
        async with asyncio.timeout(20):
            while any(r.status().applied < index for r in self.replicas.values()):
                assert not self.fatal, self.fatal
                await asyncio.sleep(0.01)
