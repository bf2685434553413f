"""A reduce gets map outputs from another worker whole and verified, or hears why not (D7, S0-10, FD2-FD5, FD11).

The real service and the real fetcher, over loopback; faults are put between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mr import tls
from mr.rpc import data_pb2, data_pb2_grpc
from mr.rpc import job_pb2 as job
from mr.shuffle import segment
from mr.shuffle.buffer import MapBuffer
from worker import fetch as fetching
from worker.channels import Channels
from worker.events import Attempt, Fetch, FetchEnded, OutputDamaged
from worker.fetch import Basket, Fetcher
from worker.metrics import DAMAGE
from worker.service import DataService
from worker.store import Layout, Store

REDUCES = 3
REDUCE = Attempt("wc", 0, job.REDUCE, 1, 1)
Chunks = AsyncIterator[data_pb2.FetchChunk]


def map_attempt(m: int, number: int = 1) -> Attempt:
    return Attempt("wc", 0, job.MAP, m, number)


def write_output(layout: Layout, attempt: Attempt, records: int = 2000) -> Path:
    path = layout.segment(attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = layout.attempt(attempt)
    scratch.mkdir(parents=True)
    owner = segment.owner(attempt.job, attempt.step, attempt.index, attempt.number)
    buffer = MapBuffer(scratch, REDUCES, owner=owner)
    buffer.extend((f"{attempt.index}-{n:06}" * 4, n) for n in range(records))
    buffer.finish(path)
    return path


class Service(DataService):
    """The real service with a place to put a fault."""

    calls = 0
    sent = 0
    fault: Callable[[Chunks, Any], Chunks] | None = None

    async def FetchSegments(self, request: data_pb2.FetchRequest, context: Any) -> Chunks:
        self.calls += 1
        chunks = super().FetchSegments(request, context)
        async for chunk in self.fault(chunks, context) if self.fault else chunks:
            self.sent += sum(len(part.data) for part in (chunk, *chunk.batch))
            yield chunk


class Peers:
    """A worker "far" that serves, and a fetcher of the worker "near"."""

    def __init__(self, home: Path) -> None:
        self.far, self.near = Store(home / "far"), Store(home / "near")
        self.damaged: list[OutputDamaged] = []
        self.service = Service(self.far.layout, "far", "1", self._probe, self.damaged.append)
        self.channels = Channels(None)
        self.fetcher = Fetcher("near", self.near.layout, self.channels)
        self.server = grpc.aio.server()
        data_pb2_grpc.add_DataServicer_to_server(self.service, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.inbox = home / "inbox"
        self.inbox.mkdir()

    async def _probe(self, worker: str) -> bool:
        return worker == "third"

    def wanted(self, *maps: int) -> Fetch:
        return Fetch(REDUCE, "far", self.address, [(m, 1) for m in maps])

    async def fetch(self, *maps: int) -> FetchEnded:
        return await self.fetcher.fetch(self.wanted(*maps), self.inbox)

    def verify(self, ended: FetchEnded) -> list[int]:
        """Checks every region that came, byte by byte; the maps they are of."""
        for run in ended.fetched:
            source = self.far.layout.segment(map_attempt(run.map, run.attempt))
            index = segment.open_index(source)
            data = Path(run.path).read_bytes()[run.offset : run.offset + run.length]
            begin = index.offsets[REDUCE.index]
            assert data == source.read_bytes()[begin : begin + index.lengths[REDUCE.index]]
        return [run.map for run in ended.fetched]


@pytest.fixture
async def peers(tmp_path: Path) -> AsyncIterator[Peers]:
    peers = Peers(tmp_path)
    await peers.server.start()
    yield peers
    await peers.channels.close()
    await peers.server.stop(None)


def failures(ended: FetchEnded) -> list[tuple[int, str]]:
    return [(failure.map, job.Cause.Name(failure.cause)) for failure in ended.failed]


async def test_many_regions_come_in_one_call_and_few_messages(peers: Peers) -> None:
    for m in range(50):
        write_output(peers.far.layout, map_attempt(m), records=30)
    messages = 0

    async def count(chunks: Chunks, _: Any) -> Chunks:
        nonlocal messages
        async for chunk in chunks:
            messages += 1
            yield chunk

    peers.service.fault = count
    ended = await peers.fetch(*range(50))
    assert peers.verify(ended) == list(range(50))
    assert (peers.service.calls, ended.failed) == (1, [])
    assert messages < 10


async def test_a_big_region_comes_whole(peers: Peers) -> None:
    write_output(peers.far.layout, map_attempt(0), records=100_000)
    assert peers.verify(await peers.fetch(0)) == [0]


def delete(path: Path) -> None:
    path.unlink()


def delete_index(path: Path) -> None:
    path.with_suffix(".idx").unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    index, data = segment.open_index(path), bytearray(path.read_bytes())
    data[index.offsets[1] + index.lengths[1] // 2] ^= 1
    path.write_bytes(data)


def flip_in_index(path: Path) -> None:
    data = bytearray(path.with_suffix(".idx").read_bytes())
    data[20] ^= 1
    path.with_suffix(".idx").write_bytes(data)


def replace_by_another_attempt(path: Path) -> None:
    other = write_output(Layout(path.parents[3]), map_attempt(1, 9))
    other.replace(path)
    other.with_suffix(".idx").replace(path.with_suffix(".idx"))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (delete, "OUTPUT_LOST"),
        (delete_index, "OUTPUT_LOST"),
        (truncate, "CORRUPT_DATA"),
        (flip, "CORRUPT_DATA"),
        (flip_in_index, "CORRUPT_DATA"),
        (replace_by_another_attempt, "CORRUPT_DATA"),
    ],
)
async def test_a_spoiled_output_is_never_handed_on(
    peers: Peers, spoil: Callable[[Path], None], cause: str
) -> None:
    """FD2, D7: the others of the same call come all the same."""
    for m in range(3):
        write_output(peers.far.layout, map_attempt(m))
    spoil(peers.far.layout.segment(map_attempt(1)))
    ended = await peers.fetch(0, 1, 2)
    assert peers.verify(ended) == [0, 2]
    assert failures(ended) == [(1, cause)]
    known_here = [damage.attempt for damage in peers.damaged]
    assert set(known_here) <= {map_attempt(1)}
    assert known_here or spoil in {flip, replace_by_another_attempt}, "its holder finds out, too"


async def test_a_byte_flipped_in_flight_is_fetched_again(peers: Peers) -> None:
    """FD3: once is bad luck; the region comes from where it was still good."""
    write_output(peers.far.layout, map_attempt(0), records=60_000)
    flipped = False

    async def flip_once(chunks: Chunks, _: Any) -> Chunks:
        nonlocal flipped
        async for chunk in chunks:
            if not flipped:
                flipped = True
                chunk.data = chunk.data[:-5] + bytes([chunk.data[-5] ^ 8]) + chunk.data[-4:]
            yield chunk

    peers.service.fault = flip_once
    before = DAMAGE._value.get()
    assert peers.verify(await peers.fetch(0)) == [0]
    assert peers.service.calls == 2
    assert DAMAGE._value.get() == before + 1, "it was detected, not overlooked"


async def test_a_stream_cut_again_and_again_goes_on_where_it_broke(peers: Peers) -> None:
    """FD4: progress is made between cuts, so that a region larger than every connection lives comes through."""
    path = write_output(peers.far.layout, map_attempt(0), records=400_000)
    size = segment.open_index(path).lengths[REDUCE.index]

    async def cut(chunks: Chunks, context: Any) -> Chunks:
        async for chunk in chunks:
            yield chunk
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    peers.service.fault = cut
    assert peers.verify(await peers.fetch(0)) == [0]
    assert peers.service.calls > 3
    assert peers.service.sent < 2.5 * size, "it began again from the start"


async def test_a_peer_that_cuts_before_any_data_is_given_up(peers: Peers) -> None:
    """FD4: tries are bounded; the leader then hears of every region."""
    write_output(peers.far.layout, map_attempt(0))

    async def refuse(_: Chunks, context: Any) -> Chunks:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        yield data_pb2.FetchChunk()

    peers.service.fault = refuse
    ended = await peers.fetch(0, 1)
    assert failures(ended) == [(0, "FETCH_FAILED"), (1, "FETCH_FAILED")]
    assert peers.service.calls == fetching.FRUITLESS_TRIES + 1


async def test_a_peer_that_never_answers_is_given_up(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """FD5: no reduce waits for ever."""
    monkeypatch.setattr(fetching, "SILENCE_S", 0.2)

    async def hang(chunks: Chunks, _: Any) -> Chunks:
        await asyncio.sleep(60)
        async for chunk in chunks:
            yield chunk

    peers.service.fault = hang
    ended = await peers.fetch(0)
    assert failures(ended) == [(0, "FETCH_FAILED")]
    assert "no data" in ended.failed[0].message


async def test_a_dead_peer_is_said_to_be_unreachable(peers: Peers) -> None:
    await peers.server.stop(None)
    assert failures(await peers.fetch(0)) == [(0, "FETCH_FAILED")]


async def test_own_outputs_are_read_where_they_stand(peers: Peers) -> None:
    path = write_output(peers.near.layout, map_attempt(0))
    ended = await peers.fetcher.fetch(Fetch(REDUCE, "near", "nowhere:1", [(0, 1), (1, 1)]), peers.inbox)
    [run] = ended.fetched
    index = segment.open_index(path)
    assert (run.path, run.offset, run.length) == (str(path), index.offsets[1], index.lengths[1])
    assert failures(ended) == [(1, "OUTPUT_LOST")]
    assert list(peers.inbox.iterdir()) == []


async def test_a_full_disk_is_an_error_and_not_a_short_region(peers: Peers) -> None:
    """FD8: the caller turns it into DISK_FULL of the attempt."""
    write_output(peers.far.layout, map_attempt(0), records=60_000)
    (peers.inbox / "fetched.1").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        await peers.fetch(0)


def test_an_answer_to_another_question_is_not_taken(tmp_path: Path) -> None:
    basket = Basket(Fetch(REDUCE, "far", "", [(0, 1)]), tmp_path / "f")
    with pytest.raises(segment.Damaged):
        basket.take([data_pb2.FetchChunk(map=5, attempt=1, data=b"x")])


async def test_names_from_the_network_do_not_become_paths(peers: Peers) -> None:
    channel = peers.channels.open("worker", peers.address)
    wanted = [data_pb2.SegmentWanted(map=0, attempt=1)]
    call = data_pb2_grpc.DataStub(channel).FetchSegments(
        data_pb2.FetchRequest(job="../../etc", wanted=wanted)
    )
    [chunk] = [chunk async for chunk in call]
    assert "not an attempt" in chunk.failure.message
    await channel.close()


async def test_a_log_is_read_from_its_end_and_followed(peers: Peers) -> None:
    path = peers.far.layout.log(map_attempt(0))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one two three")
    channel = peers.channels.open("master", peers.address)
    stub = data_pb2_grpc.DataStub(channel)
    whole = [
        c async for c in stub.ReadLog(data_pb2.ReadLogRequest(attempt=map_attempt(0).wire(), tail_bytes=5))
    ]
    assert [(c.data, c.offset, c.end) for c in whole] == [(b"three", 8, False), (b"", 13, True)]
    following = stub.ReadLog(data_pb2.ReadLogRequest(attempt=map_attempt(0).wire(), follow=True, offset=8))
    assert (await following.read()).data == b"three"
    with path.open("ab") as log:
        log.write(b" four")
    assert (await following.read()).data == b" four"
    following.cancel()
    await channel.close()


async def test_a_probe_is_answered_for_oneself_and_for_another(peers: Peers) -> None:
    channel = peers.channels.open("worker", peers.address)
    probe = data_pb2_grpc.DataStub(channel).Probe
    assert (await probe(data_pb2.ProbeRequest())).worker == "far"
    assert (await probe(data_pb2.ProbeRequest(target="third"))).reachable
    assert not (await probe(data_pb2.ProbeRequest(target="nobody"))).reachable
    await channel.close()


@pytest.mark.parametrize(
    ("role", "may_fetch", "may_read_logs"),
    [("worker", True, False), ("master", False, True), ("client", False, False)],
)
async def test_a_role_can_do_exactly_its_verbs(
    tmp_path: Path, role: str, may_fetch: bool, may_read_logs: bool
) -> None:
    """S1, S2: map outputs are for workers, logs for masters, both by certificate."""
    tls.init(tmp_path / "tls", masters=["master"])
    peers = Peers(tmp_path)
    server = grpc.aio.server()
    data_pb2_grpc.add_DataServicer_to_server(peers.service, server)
    files = tls.find(tmp_path / "tls", "worker")
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(files))
    await server.start()
    channel = Channels(tls.find(tmp_path / "tls", role)).open("worker", f"127.0.0.1:{port}")
    stub = data_pb2_grpc.DataStub(channel)

    async def allowed(call: Awaitable[object]) -> bool:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code() != grpc.StatusCode.PERMISSION_DENIED
        return True

    fetched = stub.FetchSegments(data_pb2.FetchRequest(job="wc")).read()
    logs = stub.ReadLog(data_pb2.ReadLogRequest(attempt=map_attempt(0).wire())).read()
    assert (await allowed(fetched), await allowed(logs)) == (may_fetch, may_read_logs)
    await channel.close()
    await server.stop(None)
