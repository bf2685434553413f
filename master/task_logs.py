"""What tasks wrote to stdout and stderr, read from the workers that ran them. Any master can ask.

Bounded: a job has thousands of attempts, so without a task only those that say something about its state are
read: failed and running ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from master import views
from master.driver import Driver
from master.task_table import TaskTable
from mr.errors import NotFound, from_rpc
from mr.rpc import cluster_pb2 as pb
from mr.rpc import data_pb2, data_pb2_grpc

_ATTEMPTS = 20
_READ_S = 30.0


class TaskLogs:
    """Reads logs over the workers' Data service. `connect` opens a channel to a worker's address."""

    def __init__(self, table: TaskTable, driver: Driver, connect: Callable[[str], grpc.aio.Channel]) -> None:
        self._table = table
        self._driver = driver
        self._connect = connect

    async def read(self, request: pb.LogsRequest) -> AsyncIterator[pb.LogLine]:
        """Log after log of the attempts asked for; with `follow` those of one task as they grow."""
        attempts = self._attempts(request)
        if not attempts:
            raise NotFound(
                "no such attempt"
                if request.task
                else "no task runs or failed, whose log would be shown unasked",
                next="`mr tasks ID` lists them; name one: `mr logs ID --task m-7`",
            )
        if request.follow:
            attempts = attempts[-1:]
        for attempt in attempts[:_ATTEMPTS]:
            async for line in self._one(attempt, request):
                yield line
        if len(attempts) > _ATTEMPTS:
            yield pb.LogLine(note=f"{len(attempts) - _ATTEMPTS} more attempts: name one with --task")

    def _attempts(self, request: pb.LogsRequest) -> list[pb.AttemptInfo]:
        leader = self._driver.leader if self._driver.leading else None
        wanted = pb.ListTasksRequest(job=request.job, task=request.task, any_kind=True, limit=1000)
        tasks = views.task_list(self._table, leader, wanted).tasks
        found = [attempt for task in tasks for attempt in task.attempts]
        if request.attempt:
            return [attempt for attempt in found if attempt.attempt.number == request.attempt]
        if request.task:
            return found
        return [a for a in found if a.state == "failed"] + [a for a in found if a.state == "running"]

    async def _one(self, attempt: pb.AttemptInfo, request: pb.LogsRequest) -> AsyncIterator[pb.LogLine]:
        worker = self._table.workers.get(attempt.worker)
        if worker is None:
            yield pb.LogLine(
                attempt=attempt.attempt, worker=attempt.worker, note="that worker is not known any more"
            )
            return
        channel = self._connect(worker.address)
        ask = data_pb2.ReadLogRequest(
            attempt=attempt.attempt, follow=request.follow, tail_bytes=request.tail_bytes
        )
        try:
            async for chunk in data_pb2_grpc.DataStub(channel).ReadLog(
                ask, timeout=None if request.follow else _READ_S
            ):
                yield pb.LogLine(attempt=attempt.attempt, worker=attempt.worker, data=chunk.data)
        except grpc.aio.AioRpcError as error:
            yield pb.LogLine(
                attempt=attempt.attempt, worker=attempt.worker, note=f"not readable: {from_rpc(error)}"
            )
        finally:
            await asyncio.shield(channel.close())
