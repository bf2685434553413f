"""TCP proxies that hurt: one process that carries the connections of many links, each direction treated on its own.

A gate listens and carries to one target. Whose connection it is, is said (a gate for one link), or seen (every node
connects from its own address: `shim`), or found out: every process of a cluster carries its node's name in the
environment, and the kernel tells whose socket it is, which takes long on a busy machine. So all nodes may be given the
same addresses. Whoever is not a node is the client.

Inside one TCP stream nothing can be lost or reordered; what can: bytes delayed, held, trickled, altered, the connection
reset, cut after so many bytes, or left half open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from jepsen_like import descriptors
from jepsen_like.leftovers import ENVIRONMENT
from jepsen_like.owners import Owners

CLIENT = "client"
Link = tuple[str, str]

OPEN_FILES = 16_384  # two for each connection of a cluster, and for those that a fault opens
_PIECE = 64 * 1024
_TRICKLE_S = 0.05  # a slow link moves a little this often


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """What happens to the bytes of one direction of a link. The default is nothing."""

    hold: bool = False  # nothing passes, nothing breaks: the bytes wait until it heals
    refuse: bool = False  # new connections are reset at once, open ones too
    delay_s: float = 0.0
    jitter_s: float = 0.0  # up to this much more, at random for each piece
    bytes_per_s: int = 0  # 0: no limit
    cut_after: int = 0  # reset the connection after so many bytes; 0: never
    flip_every: int = 0  # alter one bit in every so many bytes; 0: never
    half_open: bool = False  # the far end is reset, the near end is told nothing


CALM = Treatment()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`listen` carries to `target`, which is a port of node `to`; from `source`, or "" to see or to find out.

    `seen`: node `to` itself connects from the target's address, as `Shim` makes it."""

    listen: tuple[str, int]
    target: tuple[str, int]
    to: str
    source: str = ""
    seen: bool = False


class Proxies:
    """The gates, and what is done to whom. Lives in one event loop."""

    def __init__(self, prefix: str, seed: int = 0) -> None:
        self.struck: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._treatments: dict[Link, Treatment] = {}
        self._changed = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._open: dict[asyncio.Task[None], Link] = {}
        self._homes: dict[str, str] = {}  # address -> node that connects from there
        self._owners = Owners(prefix)

    async def open(self, gate: Gate) -> tuple[str, int]:
        """Listens; returns the real address. Raises OSError."""

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._accept(gate, reader, writer)

        server = await asyncio.start_server(carry, *gate.listen, limit=_PIECE)
        self._servers.append(server)
        self._owners.expected.add(gate.to)
        if gate.seen:
            self._homes[gate.target[0]] = gate.to
        host, port = server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    def treat(self, links: Iterable[Link], treatment: Treatment) -> None:
        """From now on; also the bytes of connections that are open already."""
        links = set(links)
        self._treatments |= dict.fromkeys(links, treatment)
        if treatment.refuse:
            for task, (source, target) in list(self._open.items()):
                if (source, target) in links or (target, source) in links:
                    self.struck["connections reset"] += 1
                    task.cancel()
        self._wake()

    def heal(self) -> None:
        """All links are calm."""
        self._treatments.clear()
        self._wake()

    async def close(self) -> None:
        """Nothing listens, nothing is open."""
        for server in self._servers:
            server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = writer.get_extra_info("peername")[:2], writer.get_extra_info("sockname")[:2]
        source = gate.source or self._seen(ends[0][0])
        if not source:
            source = await asyncio.to_thread(self._owners.whose, *ends) or CLIENT
        link = (source, gate.to)
        task = asyncio.current_task()
        assert task is not None  # we run in one
        self._open[task] = link
        far: asyncio.StreamWriter | None = None
        try:
            if self._treatments.get(link, CALM).refuse:
                self.struck["connections refused"] += 1
                return
            far_reader, far = await asyncio.open_connection(*gate.target, limit=_PIECE)
            self.struck["connections"] += 1
            there = asyncio.create_task(self._pump(link, reader, far))
            back = asyncio.create_task(self._pump((gate.to, source), far_reader, writer))
            try:
                # half closed streams are no use to gRPC: the end of one direction is the end of both
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                if self._treatments.get(link, CALM).half_open:
                    await there  # the other end is gone; ours is told when this heals
                if self._treatments.get((gate.to, source), CALM).half_open:
                    await back
            finally:
                for pump in (there, back):
                    pump.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            del self._open[task]
            for end in (writer, far):
                if end is not None:
                    _abort(end)

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one direction until it ends."""
        carried = 0
        with contextlib.suppress(OSError):
            async for piece in self._pieces(link, reader):
                how = self._treatments.get(link, CALM)
                data = self._spoil(piece, how.flip_every, carried) if how.flip_every else piece
                carried += len(data)
                if how.cut_after and carried > how.cut_after:
                    writer.write(data[: max(0, how.cut_after - (carried - len(data)))])
                    self.struck["connections cut"] += 1
                    return
                if how.half_open:
                    self.struck["connections half open"] += 1
                    _abort(writer)
                    await self._until_calm(link)
                    return
                writer.write(data)
                await writer.drain()

    async def _pieces(self, link: Link, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What arrives, when it may go on."""
        while True:
            piece = await reader.read(_PIECE)
            if not piece:
                return
            how = self._treatments.get(link, CALM)
            if how.hold:
                self.struck["bytes held"] += len(piece)
                await self._until_calm(link)
            if how.delay_s or how.jitter_s:
                self.struck["bytes delayed"] += len(piece)
                await asyncio.sleep(how.delay_s + self._rng.random() * how.jitter_s)
            while how.bytes_per_s and piece:
                few = max(1, int(how.bytes_per_s * _TRICKLE_S))
                self.struck["bytes trickled"] += len(piece[:few])
                yield piece[:few]
                piece = piece[few:]
                await asyncio.sleep(_TRICKLE_S)
                how = self._treatments.get(link, CALM)
            if piece:
                yield piece

    async def _until_calm(self, link: Link) -> None:
        while (how := self._treatments.get(link, CALM)).hold or how.half_open:
            await self._changed.wait()

    def _spoil(self, piece: bytes, every: int, carried: int) -> bytes:
        data = bytearray(piece)
        for at in range(every - 1 - carried % every, len(data), every):
            data[at] ^= 1 << self._rng.randrange(8)
            self.struck["bits flipped"] += 1
        return bytes(data)

    def _seen(self, host: str) -> str:
        """Who connects from this address; "" when nodes connect from anywhere."""
        return self._homes.get(host, CLIENT) if self._homes else ""


def _abort(writer: asyncio.StreamWriter) -> None:
    """Resets, so that the other end does not take it for an orderly end."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class ProxyProcess:
    """The same in a process of its own, so that a busy harness does not slow the links. Methods from any thread."""

    def __init__(self, prefix: str, seed: int = 0) -> None:
        argv = [sys.executable, "-P", "-m", "jepsen_like.proxy", prefix, str(seed)]
        env = {**os.environ, ENVIRONMENT: prefix}
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=env,
        )
        self._lock = threading.Lock()

    def open(self, gate: Gate) -> tuple[str, int]:
        """As Proxies.open."""
        host, port = self._call("open", asdict(gate))
        return host, port

    def treat(self, links: Iterable[Link], treatment: Treatment) -> None:
        """As Proxies.treat."""
        self._call("treat", {"links": list(links), "treatment": asdict(treatment)})

    def heal(self) -> None:
        """As Proxies.heal."""
        self._call("heal", {})

    def struck(self) -> dict[str, int]:
        """What was done so far, by name."""
        found: dict[str, int] = self._call("struck", {})
        return found

    def close(self) -> None:
        """Ends the process. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _call(self, what: str, given: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "a pipe was asked for"
        assert stdout is not None, "a pipe was asked for"
        with self._lock:
            stdin.write(json.dumps({"do": what, **given}) + "\n")
            stdin.flush()
            line = stdout.readline()
        if not line:
            raise OSError("the proxy process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(answer["error"])
        return answer["ok"]


async def _serve(prefix: str, seed: int) -> None:
    descriptors.allow(OPEN_FILES)
    proxies = Proxies(prefix, seed)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        given = json.loads(line)
        answer: dict[str, Any] = {"ok": None}
        try:
            match given.pop("do"):
                case "open":
                    listen, target = tuple(given["listen"]), tuple(given["target"])
                    gate = Gate(**{**given, "listen": listen, "target": target})
                    answer["ok"] = await proxies.open(gate)
                case "treat":
                    links = {(source, target) for source, target in given["links"]}
                    proxies.treat(links, Treatment(**given["treatment"]))
                case "heal":
                    proxies.heal()
                case "struck":
                    answer["ok"] = dict(proxies.struck)
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    await proxies.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
