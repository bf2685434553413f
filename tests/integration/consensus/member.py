"""One real replica in a process of its own, driven by JSON lines on stdin: what the tests here attack.

The state machine keeps every command once, by the request id before its first colon, in the order of the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from consensus.config import Limits, ReplicaConfig, Tls
from consensus.replica import ConsensusError, RefusedToStart
from consensus.syncobj import SyncObjReplica


class Once:
    """Commands by request id: a repeated one changes nothing and gets the first answer (C10)."""

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}

    def apply(self, _: int, command: bytes) -> int:
        request = command.decode().partition(":")[0]
        return self.answers.setdefault(request, len(self.answers) + 1)

    def snapshot(self) -> Callable[[], bytes]:
        copy = dict(self.answers)
        return lambda: json.dumps(copy).encode()

    def restore(self, data: bytes) -> None:
        self.answers = json.loads(data)

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.answers).encode()).hexdigest()


class Member:
    """Answers one request a line; many may be under way."""

    def __init__(self, me: str, options: dict[str, Any]) -> None:
        tls = Path(options["tls"])
        self.machine = Once()
        self.replica = SyncObjReplica(
            ReplicaConfig(
                id=me,
                peers=options["peers"],
                listen=options.get("listen") or options["peers"][me],
                data_dir=Path(options["dir"]) / me,
                tls=Tls(ca=tls / "ca.pem", cert=tls / f"master-{me}.pem", key=tls / f"master-{me}.key"),
                limits=Limits(**options.get("limits", {})),
                reserve_bytes=options.get("reserve_bytes", 1 << 20),
                replace=options.get("replace", False),
            ),
            self.machine,
        )

    async def do(self, request: dict[str, Any]) -> Any:
        match request:
            case {"do": "propose", "command": command}:
                return await self.replica.propose(command.encode(), timeout_s=request.get("timeout_s", 5.0))
            case {"do": "load", "prefix": prefix, "count": count}:
                return await self._load(prefix, count)
            case {"do": "status"}:
                return asdict(self.replica.status())
            case {"do": "state"}:
                return {"count": len(self.machine.answers), "digest": self.machine.digest()}
            case {"do": "has", "requests": requests}:
                return [one for one in requests if one not in self.machine.answers]
            case {"do": "snapshot"}:
                return asdict(await self.replica.snapshot(timeout_s=30.0))
            case {"do": "transfer"}:
                return await self.replica.transfer(None, timeout_s=5.0)
        raise ValueError(f"unknown request {request}")

    async def _load(self, prefix: str, count: int) -> int:
        """Commits `count` commands, many at a time; the errors that leave no doubt are tried again."""
        numbers = iter(range(count))

        async def one() -> None:
            for number in numbers:
                while True:
                    try:
                        await self.replica.propose(f"{prefix}{number}".encode(), timeout_s=20.0)
                        break
                    except ConsensusError as error:
                        if error.maybe_applied or type(error).__name__ == "NotLeader":
                            raise
                        await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(500)))
        return count

    async def answer(self, request: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"n": request["n"]}
        try:
            reply["ok"] = await self.do(request)
        except ConsensusError as error:
            reply |= {"error": type(error).__name__, "maybe": error.maybe_applied}
        except ValueError as error:
            reply |= {"error": str(error), "maybe": False}
        print(json.dumps(reply), flush=True)


async def main() -> int:
    member = Member(sys.argv[1], json.loads(sys.argv[2]))
    stdin = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    starting = asyncio.create_task(member.replica.start())
    tasks: set[asyncio.Task[None]] = set()
    starting.add_done_callback(
        lambda done: os._exit(_refused(done.exception())) if done.exception() else None
    )
    while line := await stdin.readline():
        task = asyncio.create_task(member.answer(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await member.replica.stop()
    return 0


def _refused(error: BaseException | None) -> int:
    print(f"refused: {error}", file=sys.stderr, flush=True)
    return error.exit_code if isinstance(error, RefusedToStart) else 99


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
