"""What a page shows: from the leader if it answers at once, else from the table of this replica, and says
which.

The leader alone knows progress and who is silent; the table is the same everywhere. So every page works on
every master, also without a leader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from master import views
from mr.errors import NotFound
from mr.rpc import cluster_pb2 as pb
from mr.rpc import cluster_pb2_grpc as rpc

if TYPE_CHECKING:
    from master.server import Master

T = TypeVar("T")
_PATIENCE_S = 0.7


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What was read. `live` when the leader said it; else it is this replica's table, which may be a little
    behind.
    """

    value: T
    live: bool


class Reader:
    """Reads for the pages of one master. Secrets of a job (arguments, environment) never leave it (S5)."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._table = master.table

    async def jobs(self, limit: int = 100) -> Seen[pb.JobList]:
        """The newest jobs."""
        request = pb.ListJobsRequest(limit=limit)
        return await self._read(
            lambda leader: leader.ListJobs(request, timeout=_PATIENCE_S),
            lambda: views.job_list(self._table, request),
        )

    async def job(self, text: str) -> Seen[pb.JobStatus]:
        """One job, by id or unique prefix. Raises NotFound."""
        job = self.find(text)
        request = pb.GetJobRequest(job=job, stale_ok=True)

        def here() -> pb.JobStatus:
            status = views.job_status(self._table, job, self._master.driver.leader)
            if status is None:
                raise NotFound(f"no job {text}")
            return status

        seen = await self._read(lambda leader: leader.GetJob(request, timeout=_PATIENCE_S), here)
        seen.value.spec.ClearField("args")
        seen.value.spec.ClearField("env")
        return seen

    async def tasks(self, request: pb.ListTasksRequest) -> Seen[pb.TaskList]:
        """A page of tasks. Raises NotFound."""
        request.job = self.find(request.job)
        seen = await self._read(
            lambda leader: leader.ListTasks(request, timeout=_PATIENCE_S),
            lambda: views.task_list(self._table, self._master.driver.leader, request),
        )
        await self._master.plans.fill(request.job, seen.value.tasks)
        return seen

    async def explain(self, text: str) -> Seen[pb.Explanation]:
        """Why a job is where it is. Raises NotFound."""
        job = self.find(text)
        return await self._read(
            lambda leader: leader.Explain(pb.ExplainRequest(job=job), timeout=_PATIENCE_S),
            lambda: views.explain(self._table, self._master.driver.leader, job),
        )

    async def workers(self) -> Seen[pb.WorkerList]:
        """Every worker, lost ones too."""
        request = pb.ListWorkersRequest(include_lost=True)
        return await self._read(
            lambda leader: leader.ListWorkers(request, timeout=_PATIENCE_S),
            lambda: views.worker_list(self._table, self._master.driver.leader, True),
        )

    def find(self, text: str) -> str:
        """The id that `text` means here. Raises NotFound."""
        job = self._table.find_job(text)
        if job is None:
            raise NotFound(f"no job {text}, or several begin so")
        return job

    async def _read(
        self, there: Callable[[rpc.ClusterAsyncStub], Awaitable[T]], here: Callable[[], T]
    ) -> Seen[T]:
        """`here` if this master leads, else `there` on the leader, else `here` after all."""
        if self._master.driver.leading:
            return Seen(here(), live=True)
        leader = self._master.replica.leadership.leader
        peer = next((peer for peer in self._master.peers.others if peer.id == leader), None)
        if peer is not None:
            try:
                return Seen(await there(self._master.peers.cluster(peer)), live=True)
            except grpc.aio.AioRpcError:
                pass  # it has just gone, or is busy: the own table does
        return Seen(here(), live=False)
