"""What a client may rely on when it talks to masters: real servers, consensus in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mr import errors
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2, session_pb2, table_pb2

Town = Any
CODE = b"code bundle" * 1000
PLAN = job_pb2.SplitPlan(splits=[job_pb2.Split(bytes=3)]).SerializeToString()


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def spec(job: str = "wc-1", output: str = "/out") -> job_pb2.JobSpec:
    return job_pb2.JobSpec(
        job_id=job,
        name="wc",
        steps=[job_pb2.Step(mapper="m", reducer="r", reduces=2, partitioner="hash")],
        maps=1,
        code_digest=digest(CODE),
        splits_digest=digest(PLAN),
        output=job_pb2.Output(path=output),
        staging=f"/.out.mr-{job}",
        job_file="wc.py",
    )


async def chunks(data: bytes) -> AsyncIterator[pb.BlobChunk]:
    for start in range(0, len(data), 4000):
        yield pb.BlobChunk(digest=digest(data), data=data[start : start + 4000], total=len(data))


async def refusal(call: Any) -> errors.Error:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return errors.from_rpc(failed.value)


async def send_blobs(town: Town, leader: str) -> None:
    for data in (CODE, PLAN):
        await town.blobs(leader).Put(chunks(data))


async def submit(town: Town, leader: str, job: str = "wc-1", request: str = "r1") -> pb.SubmitReply:
    await send_blobs(town, leader)
    return await town.cluster(leader).Submit(
        pb.SubmitRequest(spec=spec(job, f"/out/{job}"), request_id=request)
    )


async def test_a_follower_names_the_leader_and_where_it_is(town: Town) -> None:
    town.elect("b")
    error = await refusal(town.cluster("a").Submit(pb.SubmitRequest(spec=spec())))
    assert isinstance(error, errors.NotLeader)
    assert (error.leader, error.address) == ("b", town.masters["b"].config.advertise)


async def test_a_job_is_accepted_once_however_often_it_is_sent_also_after_a_failover(town: Town) -> None:
    """C10, FT9."""
    town.elect("a")
    first = await submit(town, "a")
    assert (first.job, first.existed, first.leader) == ("wc-1", False, "a")
    assert (await submit(town, "a")).existed
    town.elect("b")
    again = await submit(town, "b")
    assert (again.job, again.existed) == ("wc-1", True)
    jobs = await town.cluster("b").ListJobs(pb.ListJobsRequest())
    assert [job.id for job in jobs.jobs] == ["wc-1"]


async def test_another_request_under_the_same_id_is_refused(town: Town) -> None:
    town.elect("a")
    await submit(town, "a")
    error = await refusal(
        town.cluster("a").Submit(pb.SubmitRequest(spec=spec(output="/other"), request_id="r2"))
    )
    assert isinstance(error, errors.Rejected)
    assert error.exit_code == 5


async def test_no_job_without_its_blobs_on_a_majority(town: Town) -> None:
    town.elect("a")
    error = await refusal(town.cluster("a").Submit(pb.SubmitRequest(spec=spec(), request_id="r")))
    assert isinstance(error, errors.Rejected)
    assert error.code == "CODE_UNAVAILABLE"
    await send_blobs(town, "a")
    holders = [name for name, master in town.masters.items() if master.store.has(digest(CODE))]
    assert len(holders) >= 2
    assert "a" in holders


async def test_blobs_go_to_the_leader_and_come_from_anyone(town: Town) -> None:
    town.elect("a")
    assert isinstance(await refusal(town.blobs("b").Put(chunks(CODE))), errors.NotLeader)
    await send_blobs(town, "a")
    for name in town.masters:
        stream = town.blobs(name).Get(pb.GetBlobRequest(digest=digest(CODE), offset=5))
        assert b"".join([chunk.data async for chunk in stream]) == CODE[5:], name
    assert isinstance(
        await refusal(_all(town.blobs("a").Get(pb.GetBlobRequest(digest=b"x" * 32)))), errors.NotFound
    )


async def test_a_blob_that_is_not_what_it_says_is_refused(town: Town) -> None:
    town.elect("a")

    async def lying() -> AsyncIterator[pb.BlobChunk]:
        yield pb.BlobChunk(digest=digest(CODE), data=b"something else")

    assert isinstance(await refusal(town.blobs("a").Put(lying())), errors.Usage)
    assert not town.masters["a"].store.has(digest(CODE))


async def test_without_a_majority_nothing_is_stored_as_safe(town: Town) -> None:
    town.elect("a")
    for name in ("b", "c"):
        await town.masters[name].stop()
    assert isinstance(await refusal(town.blobs("a").Put(chunks(CODE))), errors.Unavailable)


async def test_a_cancel_is_final_and_may_be_repeated(town: Town) -> None:
    """T7, T8, FT14."""
    town.elect("a")
    await submit(town, "a")
    for _ in range(2):
        reply = await town.cluster("a").Cancel(pb.CancelRequest(job="wc", request_id="c", reason="no"))
        assert reply.state == table_pb2.CANCELLED
    assert (await town.cluster("a").GetJob(pb.GetJobRequest(job="wc-1"))).state == table_pb2.CANCELLED


async def test_unknown_and_ambiguous_names_are_not_found(town: Town) -> None:
    town.elect("a")
    await submit(town, "a", "wc-1", "r1")
    await submit(town, "a", "wc-2", "r2")
    for name in ("nope", "wc-"):
        error = await refusal(town.cluster("a").GetJob(pb.GetJobRequest(job=name)))
        assert isinstance(error, errors.NotFound)
        assert error.exit_code == 6


async def test_a_stale_read_is_served_by_a_follower_with_the_index_it_stands_at(town: Town) -> None:
    """C11."""
    town.elect("a")
    await submit(town, "a")
    status = await town.cluster("b").GetJob(pb.GetJobRequest(job="wc-1", stale_ok=True))
    assert status.applied_index == town.masters["b"].table.index
    assert isinstance(await refusal(town.cluster("b").GetJob(pb.GetJobRequest(job="wc-1"))), errors.NotLeader)


async def test_a_leader_cut_off_answers_no_consistent_read(town: Town) -> None:
    town.elect("a")
    await submit(town, "a")
    town.memory.isolate("a")
    town.elect("b")
    error = await refusal(town.cluster("a").GetJob(pb.GetJobRequest(job="wc-1")))
    assert isinstance(error, errors.Unavailable)
    assert not error.maybe_applied
    town.memory.heal("a")


async def test_a_leader_cut_off_leaves_a_write_in_doubt(town: Town) -> None:
    """C9: indefinite stays indefinite; the retry finds out."""
    town.elect("a")
    await submit(town, "a")
    town.memory.isolate("a")
    cancel = pb.CancelRequest(job="wc-1", request_id="c")
    assert (await refusal(town.cluster("a").Cancel(cancel))).exit_code == 3
    town.elect("b")
    town.memory.heal("a")
    assert (await town.cluster("b").Cancel(cancel)).state == table_pb2.CANCELLED


async def test_watching_goes_on_across_leader_changes_by_index(town: Town) -> None:
    town.elect("a")
    await submit(town, "a")
    stream = town.cluster("b").Watch(pb.WatchRequest(job="wc", follow=True))
    seen: list[pb.JobEvent] = []

    async def watch() -> None:
        async for event in stream:
            seen.append(event)

    watching = asyncio.create_task(watch())
    while not seen:
        await asyncio.sleep(0.01)
    town.elect("c")
    await asyncio.sleep(0.3)
    await town.cluster("c").Cancel(pb.CancelRequest(job="wc", request_id="c"))
    await asyncio.wait_for(watching, 5)
    logged = [event.index for event in seen if event.index]
    assert logged == sorted(logged)
    assert "LeaderChanged" in {event.type for event in seen}
    assert seen[-1].status.state == table_pb2.CANCELLED
    rest = [event async for event in town.cluster("c").Watch(pb.WatchRequest(job="wc", after=logged[0]))]
    assert [event.index for event in rest if event.index] == [i for i in logged if i > logged[0]]


async def test_everybody_knows_how_many_may_still_be_lost(town: Town) -> None:
    town.elect("a")
    await asyncio.sleep(0.1)
    reply = await town.cluster("b").ListMasters(pb.ListMastersRequest())
    assert [(row.id, row.role) for row in reply.masters] == [
        ("a", "leader"),
        ("b", "follower"),
        ("c", "follower"),
    ]
    assert reply.note == "3 of 3 up: works, can lose 1 more"
    await town.masters["c"].stop()
    reply = await town.cluster("b").ListMasters(pb.ListMastersRequest())
    assert [row.role for row in reply.masters] == ["leader", "follower", "down"]
    assert reply.note == "2 of 3 up: works, can lose 0 more"


async def test_leadership_is_handed_over_on_request(town: Town) -> None:
    town.elect("a")
    await asyncio.sleep(0.1)
    reply = await town.cluster("a").Transfer(pb.TransferRequest(to="c"))
    assert [row.id for row in reply.masters if row.role == "leader"] == ["c"]
    assert isinstance(await refusal(town.cluster("c").Transfer(pb.TransferRequest(to="x"))), errors.NotFound)


async def test_a_leader_that_stops_hands_over_first(town: Town) -> None:
    town.elect("a")
    await submit(town, "a")
    await town.masters["a"].stop()
    leader = town.memory.leader
    assert leader != "a"
    assert (await town.cluster(leader).GetJob(pb.GetJobRequest(job="wc-1"))).id == "wc-1"


async def test_a_follower_redirects_a_worker(town: Town) -> None:
    town.elect("a")
    await asyncio.sleep(0.05)

    async def say() -> AsyncIterator[session_pb2.WorkerMessage]:
        attach = session_pb2.Attach(worker="w1", incarnation="1", address="127.0.0.1:1", slots=1)
        yield session_pb2.WorkerMessage(events=[session_pb2.WorkerEvent(attach=attach)])

    orders = [order async for message in town.sessions("b").Session(say()) for order in message.orders]
    assert [order.redirect.leader for order in orders] == [town.masters["a"].config.advertise]


async def test_a_session_begins_with_attach(town: Town) -> None:
    town.elect("a")

    async def say() -> AsyncIterator[session_pb2.WorkerMessage]:
        beat = session_pb2.WorkerEvent(heartbeat=session_pb2.Heartbeat())
        yield session_pb2.WorkerMessage(events=[beat])

    assert isinstance(await refusal(_all(town.sessions("a").Session(say()))), errors.Usage)


async def test_a_worker_hears_the_new_leader_when_the_old_one_steps_down(town: Town) -> None:
    town.elect("a")
    await asyncio.sleep(0.05)
    over = asyncio.Event()

    async def say() -> AsyncIterator[session_pb2.WorkerMessage]:
        attach = session_pb2.Attach(
            worker="w1", incarnation="1", address="127.0.0.1:1", slots=1, version="0.1.0", python="3.11"
        )
        yield session_pb2.WorkerMessage(events=[session_pb2.WorkerEvent(attach=attach)])
        beat = session_pb2.Heartbeat(sequence=7)
        yield session_pb2.WorkerMessage(events=[session_pb2.WorkerEvent(heartbeat=beat)])
        await over.wait()

    heard: list[session_pb2.MasterMessage] = []
    async for message in town.sessions("a").Session(say()):
        heard.append(message)
        if message.heartbeat_echo == 7:
            town.elect("b")
    over.set()
    kinds = [order.WhichOneof("kind") for message in heard for order in message.orders]
    assert kinds[0] == "welcome"
    assert kinds[-1] == "redirect"
    workers = await town.cluster("b").ListWorkers(pb.ListWorkersRequest())
    assert [worker.id for worker in workers.workers] == ["w1"]


async def test_a_saved_cluster_comes_back_in_a_fresh_one(town: Town, tmp_path: Any) -> None:
    """S4-22."""
    town.elect("a")
    await submit(town, "a")
    saved = [chunk async for chunk in town.cluster("a").SaveSnapshot(pb.SaveSnapshotRequest())]
    assert isinstance(await refusal(town.cluster("a").RestoreSnapshot(_again(saved))), errors.Rejected)

    fresh = type(town)(tmp_path / "fresh")
    try:
        await fresh.start()
        fresh.elect("b")
        reply = await fresh.cluster("b").RestoreSnapshot(_again(saved))
        assert (reply.jobs, reply.blobs) == (1, 2)
        assert (await fresh.cluster("b").GetJob(pb.GetJobRequest(job="wc-1"))).name == "wc"
        digests = {master.table.digest() for master in fresh.masters.values()}
        assert len(digests) == 1
        for master in fresh.masters.values():
            master.table.check()
        assert (
            await fresh.cluster("b").Cancel(pb.CancelRequest(job="wc-1", request_id="c"))
        ).state == table_pb2.CANCELLED
    finally:
        await fresh.stop()


async def test_a_damaged_snapshot_is_refused(town: Town) -> None:
    town.elect("a")
    junk = [pb.BlobChunk(data=b"no zip"), pb.BlobChunk(digest=digest(b"no zip"))]
    assert isinstance(await refusal(town.cluster("a").RestoreSnapshot(_again(junk))), errors.Usage)
    cut = [pb.BlobChunk(data=b"no"), pb.BlobChunk(digest=digest(b"no zip"))]
    assert isinstance(await refusal(town.cluster("a").RestoreSnapshot(_again(cut))), errors.Usage)


async def test_health_and_reflection_are_served(town: Town) -> None:
    """S1-23: ready means a leader is known."""
    channel = town.channel("b")
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == serving.SERVING
    assert (
        await health.Check(health_pb2.HealthCheckRequest(service="mr.Cluster"))
    ).status == serving.NOT_SERVING
    town.elect("a")
    while (await health.Check(health_pb2.HealthCheckRequest(service="mr.Cluster"))).status != serving.SERVING:
        await asyncio.sleep(0.02)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
    names = {s.name async for answer in answers for s in answer.list_services_response.service}
    assert {"mr.Cluster", "mr.Blobs", "mr.Sessions", "grpc.health.v1.Health"} <= names


async def test_a_message_too_large_is_refused_before_it_is_kept(town: Town) -> None:
    """S6."""
    town.elect("a")
    huge = spec()
    huge.args.append("x" * (300 << 10))
    assert isinstance(await refusal(town.cluster("a").Submit(pb.SubmitRequest(spec=huge))), errors.Usage)
    huge.args.append("x" * (9 << 20))
    assert (await refusal(town.cluster("a").Submit(pb.SubmitRequest(spec=huge)))).exit_code == 5


async def _all(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def _again(items: list[pb.BlobChunk]) -> AsyncIterator[pb.BlobChunk]:
    for item in items:
        yield item
