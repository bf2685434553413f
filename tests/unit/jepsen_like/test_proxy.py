"""The proxies: each treatment does what it says to one direction and counts it; healing ends it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jepsen_like.owners import holds, socket_inode
from jepsen_like.proxy import CLIENT, Gate, Proxies, Treatment
from jepsen_like.shim import Shim, build

THERE, BACK = (CLIENT, "n"), ("n", CLIENT)


class Echo:
    """A server that answers with what it gets, and a client of it through a gate."""

    def __init__(self, proxies: Proxies, address: tuple[str, int]) -> None:
        self.proxies, self.address = proxies, address

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def say(self, data: bytes, timeout: float = 5.0) -> bytes:
        """What comes back of `data` until the connection ends or all is there."""
        reader, writer = await self.connect()
        writer.write(data)
        heard = b""
        try:
            while len(heard) < len(data):
                piece = await asyncio.wait_for(reader.read(1 << 16), timeout)
                if not piece:
                    break
                heard += piece
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        return heard


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxies = Proxies("no harness", seed=1)
    gate = Gate(listen=("127.0.0.1", 0), target=server.sockets[0].getsockname(), to="n")
    yield Echo(proxies, await proxies.open(gate))
    await proxies.close()
    server.close()


async def test_without_a_treatment_bytes_pass_as_they_are(echo):
    data = os.urandom(300_000)
    assert await echo.say(data) == data


@pytest.mark.parametrize("link", [THERE, BACK])
async def test_held_bytes_come_after_the_heal(echo, link):
    """A cut link loses nothing inside a connection that survives it, and tells nobody."""
    echo.proxies.treat([link], Treatment(hold=True))
    asking = asyncio.create_task(echo.say(b"hello"))
    await asyncio.sleep(0.3)
    assert not asking.done()
    assert echo.proxies.struck["bytes held"] == 5
    echo.proxies.heal()
    assert await asking == b"hello"


@pytest.mark.parametrize("link", [THERE, BACK])
async def test_flipped_bits_are_one_in_so_many_bytes(echo, link):
    """FD3."""
    echo.proxies.treat([link], Treatment(flip_every=1000))
    data = bytes(10_500)
    heard = await echo.say(data)
    changed = [at for at, byte in enumerate(heard) if byte]
    assert changed == list(range(999, 10_500, 1000))
    assert all(heard[at].bit_count() == 1 for at in changed)
    assert echo.proxies.struck["bits flipped"] == 10


async def test_a_connection_is_cut_after_so_many_bytes(echo):
    """FD4: what was before the cut may arrive, nothing after it does."""
    echo.proxies.treat([THERE], Treatment(cut_after=1000))
    heard = await echo.say(b"x" * 5000)
    assert len(heard) <= 1000
    assert echo.proxies.struck["connections cut"] == 1


async def test_refused_connections_are_reset_and_open_ones_too(echo):
    reader, writer = await echo.connect()
    writer.write(b"a")
    assert await reader.read(1) == b"a"
    echo.proxies.treat([THERE], Treatment(refuse=True))
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 5)
    writer.transport.abort()
    assert await echo.say(b"b") == b""
    struck = echo.proxies.struck
    assert (struck["connections reset"], struck["connections refused"]) == (1, 1)


async def test_a_half_open_connection_says_nothing_to_the_near_end(echo):
    """FC30."""
    echo.proxies.treat([THERE], Treatment(half_open=True))
    reader, writer = await echo.connect()
    writer.write(b"a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    assert echo.proxies.struck["connections half open"] == 1
    writer.transport.abort()


async def test_delay_and_trickle_are_counted_and_lose_nothing(echo):
    echo.proxies.treat([THERE], Treatment(delay_s=0.05, jitter_s=0.05, bytes_per_s=20_000))
    data = os.urandom(3000)
    assert await echo.say(data) == data
    assert echo.proxies.struck["bytes delayed"] >= 3000
    assert echo.proxies.struck["bytes trickled"] == 3000


def test_the_kernel_tells_whose_socket_it_is():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as near:
            inode = socket_inode(near.getsockname(), near.getpeername())
            assert inode == os.fstat(near.fileno()).st_ino
            assert holds(os.getpid(), inode)
        assert socket_inode(("127.0.0.1", 1), ("127.0.0.1", 2)) == 0


_DIAL = """
import socket, sys
import grpc
host, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if how == "grpc":
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=3)
        except grpc.FutureTimeoutError:
            pass  # nobody there speaks it; that it came is enough
else:
    socket.create_connection((host, port), timeout=5).close()
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="THE SHIM WAS NOT TRIED: no gcc here")
@pytest.mark.parametrize("how", ["socket", "grpc"])
def test_a_node_with_the_shim_connects_from_its_own_address(tmp_path: Path, how: str) -> None:
    """So that the proxies see who it is, and need not ask the kernel whose each connection is."""
    page = Shim(build(tmp_path), tmp_path / "page", tmp_path, "127.201.7.9")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        command = [sys.executable, "-c", _DIAL, "127.0.0.1", str(listener.getsockname()[1]), how]
        with subprocess.Popen(command, env={**os.environ, **page.env}) as dialling:
            came, address = listener.accept()
            came.close()
            listener.close()
            dialling.wait(20)
    page.close()
    assert address[0] == "127.201.7.9"


async def test_who_is_seen_by_its_address_is_treated_as_that_node(echo):
    proxies = echo.proxies
    home = await asyncio.start_server(lambda _r, w: w.close(), "127.201.7.10", 0)
    gate = Gate(listen=("127.0.0.1", 0), target=home.sockets[0].getsockname(), to="m", seen=True)
    await proxies.open(gate)
    proxies.treat([("m", "n")], Treatment(refuse=True))
    _, writer = await asyncio.open_connection(*echo.address, local_addr=("127.201.7.10", 0))
    writer.write(b"hello")
    await asyncio.sleep(0.2)
    writer.transport.abort()
    assert proxies.struck["connections refused"] == 1
    assert await echo.say(b"hello") == b"hello", "the client is somebody else"
    home.close()


def test_the_proxies_of_an_ordinary_user_may_have_more_connections_than_he_starts_with():
    """`mr chaos run` without root: at 1,024 open files the proxies could take no connection any more."""
    program = (
        "import resource; from jepsen_like import descriptors, proxy\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))\n"
        "descriptors.allow(proxy.OPEN_FILES)\n"
        "soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]\n"
        "wanted = proxy.OPEN_FILES if hard == resource.RLIM_INFINITY else min(proxy.OPEN_FILES, hard)\n"
        "print(soft == wanted)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "True"
