"""One of three processes that `tests.bench.consensus` measures: our replica, or stock pysyncobj beside it.

Reads commands from stdin and answers on stdout, one JSON object a line. The load is made inside the leader's
process, so three members and the load share the machine, for both kinds alike.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


class Tasks:
    """200,000 tasks as a state machine: a command that begins with `t` adds many, any other counts."""

    def __init__(self) -> None:
        from master.task_table import TaskTable

        self.table = TaskTable()
        self.count = 0

    def apply(self, index: int, command: bytes) -> int:
        from mr.rpc import table_pb2

        if command[:1] == b"t":
            self.table.apply(index, table_pb2.Entry.FromString(command[1:]))
        self.count += 1
        return self.count

    def snapshot(self) -> Callable[[], bytes]:
        return self.table.snapshot()

    def restore(self, data: bytes) -> None:
        self.table.restore(data)


class Ours:
    """A member of our cluster."""

    def __init__(self, me: str, options: dict[str, Any]) -> None:
        from consensus.config import ReplicaConfig, Tls
        from consensus.syncobj import SyncObjReplica

        tls = Path(options["tls"])
        names = {"ca": "ca.pem", "cert": f"master-{me}.pem", "key": f"master-{me}.key"}
        config = ReplicaConfig(
            id=me,
            peers=options["peers"],
            listen=options["peers"][me],
            data_dir=Path(options["dir"]) / me,
            tls=Tls(**{name: tls / file for name, file in names.items()}),
        )
        self.replica = SyncObjReplica(config, Tasks())
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.run(self.replica.start())
        self.pause = 0.0
        self.watching: Any = None

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def status(self) -> dict[str, Any]:
        status = self.replica.status()
        return {
            "leader": status.role == "leader",
            "term": status.term,
            "known": status.leader,
            "last": status.last,
            "applied": status.applied,
        }

    def load(self, size: int, inflight: int, seconds: float) -> dict[str, Any]:
        return self.run(self._load(b"x" + os.urandom(size - 1), inflight, seconds))

    async def _load(self, command: bytes, inflight: int, seconds: float) -> dict[str, Any]:
        taken: list[float] = []
        failed = 0
        end = time.perf_counter() + seconds

        async def one() -> None:
            nonlocal failed
            while (start := time.perf_counter()) < end:
                try:
                    await self.replica.propose(command, timeout_s=10)
                    taken.append(time.perf_counter() - start)
                except Exception:
                    failed += 1
                    await asyncio.sleep(0.01)

        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(inflight)))
        return {"elapsed": time.perf_counter() - start, "taken": sorted(taken), "failed": failed}

    def commit(self) -> float:
        """Tries until a proposal of its own is committed; returns when."""
        return self.run(self._commit())

    async def _commit(self) -> float:
        while True:
            if self.replica.leadership.mine:
                try:
                    await self.replica.propose(b"x", timeout_s=5)
                    return time.time()
                except Exception:
                    pass
            await asyncio.sleep(0.002)

    def fill(self, tasks: int) -> int:
        """Puts one running job of `tasks` maps into the table."""
        return self.run(self._fill(tasks))

    async def _fill(self, tasks: int) -> int:
        from tests.bench.tasks import job_of

        for entry in job_of(tasks):
            await self.replica.propose(b"t" + entry, timeout_s=30)
        return tasks

    def snapshot(self) -> dict[str, Any]:
        """Takes a snapshot under light load and says how long the loop and the tick thread stood still."""
        return self.run(self._snapshot())

    async def _snapshot(self) -> dict[str, Any]:
        pauses = [0.0]
        running = True

        async def beat() -> None:
            last = time.perf_counter()
            while running:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                pauses.append(now - last)
                last = now

        before = self.replica.status().term
        task = asyncio.create_task(beat())
        load = asyncio.create_task(self._load(b"x" * 100, 8, 3.0))
        await asyncio.sleep(1.0)
        quiet = max(pauses)
        del pauses[1:]
        start = time.perf_counter()
        info = await self.replica.snapshot(timeout_s=30.0)
        taken = time.perf_counter() - start
        longest = max(pauses)
        await load
        running = False
        await task
        return {
            "size": info.size,
            "seconds": taken,
            "pause": longest,
            "quiet": quiet,
            "elections": self.replica.status().term - before,
        }


class Stock:
    """A member of a cluster of pysyncobj as it comes: its journal file, its TCP transport, its defaults."""

    def __init__(self, me: str, options: dict[str, Any]) -> None:
        from pysyncobj import SyncObj, SyncObjConf, replicated

        class Counter(SyncObj):  # type: ignore[misc]  # pysyncobj ships no types
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self.count = 0

            @replicated  # type: ignore[untyped-decorator]  # same
            def put(self, command: bytes) -> int:
                self.count += 1
                return self.count

        peers = options["peers"]
        Path(options["dir"]).mkdir(exist_ok=True)
        conf = SyncObjConf(
            journalFile=f"{options['dir']}/journal-{me}",
            logCompactionMinEntries=10**9,
            logCompactionMinTime=10**6,
        )
        self.node = Counter(peers[me], [peer for id_, peer in peers.items() if id_ != me], conf)

    def status(self) -> dict[str, Any]:
        leader = self.node._getLeader()
        return {
            "leader": self.node._isLeader(),
            "term": self.node.raftCurrentTerm,
            "known": leader and leader.id,
            "last": self.node.raftLastApplied,
            "applied": self.node.raftLastApplied,
        }

    def load(self, size: int, inflight: int, seconds: float) -> dict[str, Any]:
        command, room = os.urandom(size), threading.Semaphore(inflight)
        taken: list[float] = []
        failed = [0]

        def finished(start: float) -> Callable[[Any, int], None]:
            def callback(_: Any, error: int) -> None:
                if error:
                    failed[0] += 1
                else:
                    taken.append(time.perf_counter() - start)
                room.release()

            return callback

        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            if room.acquire(timeout=1):
                self.node.put(command, callback=finished(time.perf_counter()))
        for _ in range(inflight):
            room.acquire(timeout=5)
        return {"elapsed": time.perf_counter() - start, "taken": sorted(taken), "failed": failed[0]}

    def commit(self) -> float:
        while True:
            done = threading.Event()
            results: list[int] = []

            def callback(
                _: Any, error: int, results: list[int] = results, done: threading.Event = done
            ) -> None:
                results.append(error)
                done.set()

            if self.node._isLeader():
                self.node.put(b"x", callback=callback)
                if done.wait(5) and results == [0]:
                    return time.time()
            time.sleep(0.002)


def memory() -> dict[str, float]:
    """Resident bytes of this process."""
    gc.collect()
    return {"rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")}


def main() -> None:
    me, kind, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    node = (Ours if kind == "ours" else Stock)(me, options)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer = memory() if name == "memory" else getattr(node, name)(**arguments)
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
