"""The Cluster service: decode, propose or read, encode. No decision is taken here.

Writes are commands in the log and answered when applied; reads come from the table after a read point of this
term (`Replica.barrier`), so they are linearizable (C11), or at once where the caller allows staleness. A
master that does not lead refuses both with the leader's address. `access.Guard` has checked the caller and
turns errors into statuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc.aio import ServicerContext

from consensus.replica import NotLeader, Replica
from master import events as ev
from master import ids, views
from master.access import Identity, identify
from master.config import MasterConfig
from master.copies import Copies
from master.driver import Driver
from master.machine import AppliedEntry, Machine
from master.masters import Masters
from master.plans import Plans
from master.saving import Saving
from master.task_logs import TaskLogs
from master.watch import Watch
from mr.errors import NotAllowed, NotFound, Rejected, Unavailable, Usage
from mr.rpc import cluster_pb2 as pb
from mr.rpc import cluster_pb2_grpc as rpc
from mr.rpc import job_pb2
from mr.rpc import table_pb2 as table

Context = ServicerContext[Any, Any]
E = TypeVar("E", bound=ev.Event)

_ENTRY_BYTES = 512 << 10
_SPEC_BYTES = 256 << 10  # a job's spec travels in one log entry and in the first order to every worker


class ClusterService(rpc.ClusterServicer):
    """See the module's law."""

    def __init__(
        self,
        *,
        config: MasterConfig,
        replica: Replica,
        machine: Machine,
        driver: Driver,
        copies: Copies,
        watch: Watch,
        masters: Masters,
        logs: TaskLogs,
        saving: Saving,
        plans: Plans,
    ) -> None:
        self._config = config
        self._replica = replica
        self._machine = machine
        self._table = machine.table
        self._driver = driver
        self._copies = copies
        self._watch = watch
        self._masters = masters
        self._logs = logs
        self._saving = saving
        self._plans = plans

    async def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.SubmitReply:
        """Accepts a job once its blobs are on a majority; the same id with the same request is the same job
        (C10).
        """
        spec = request.spec
        if spec.ByteSize() > _SPEC_BYTES:
            raise Usage(
                f"a job's description may have {_SPEC_BYTES >> 10} KiB",
                next="pass big data as input, not as arguments or environment",
            )
        self.check_leading()
        try:
            await asyncio.gather(
                *(self._copies.ensure(digest) for digest in (spec.code_digest, spec.splits_digest) if digest)
            )
        except NotFound as error:
            raise Rejected(str(error), code="CODE_UNAVAILABLE", next=error.next) from error
        submit = table.SubmitJob(spec=spec, request_id=request.request_id, identity=str(identify(context)))
        applied, accepted = await self._commit(table.Command(submit=submit), ev.JobAccepted)
        return self._submitted(accepted.job, applied, existed=accepted.existed)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelReply:
        """Ends a job; once answered, nothing of it commits any more (T7)."""
        job = await self._own_job(request.job, identify(context))
        cancel = table.CancelJob(
            job=job, request_id=request.request_id, identity=str(identify(context)), reason=request.reason
        )
        applied, ended = await self._commit(
            table.Command(cancel=cancel), ev.JobFinished, ev.JobAlreadyFinished
        )
        assert isinstance(ended, ev.JobFinished | ev.JobAlreadyFinished)
        return pb.CancelReply(state=table.JobState.ValueType(ended.state), index=applied.index)

    async def Retry(self, request: pb.RetryRequest, context: Context) -> pb.SubmitReply:
        """Takes a failed or cancelled job up again."""
        job = await self._own_job(request.job, identify(context))
        retry = table.RetryJob(job=job, request_id=request.request_id, identity=str(identify(context)))
        applied, accepted = await self._commit(table.Command(retry=retry), ev.JobAccepted)
        return self._submitted(accepted.job, applied, existed=accepted.existed)

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.JobStatus:
        """One job, by id or unique prefix."""
        await self._read_point(stale_ok=request.stale_ok)
        return self._hide(self.status(self._find(request.job)), identify(context))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.JobList:
        """Jobs, newest first."""
        await self._read_point()
        return views.job_list(self._table, request)

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.TaskList:
        """A page of a job's tasks."""
        await self._read_point()
        request.job = self._find(request.job)
        tasks = views.task_list(self._table, self._leader, request)
        await self._plans.fill(request.job, tasks.tasks)
        return tasks

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.JobEvent]:
        """History after an index, then live; any replica serves it."""
        if self._table.find_job(request.job) is None:
            await self._read_point()  # a follower may be late: the leader knows
        job, caller = self._find(request.job), identify(context)
        async for event in self._watch.stream(job, request.after, follow=request.follow, tasks=request.tasks):
            if event.HasField("status"):
                self._hide(event.status, caller)
            yield event

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.Explanation:
        """Why the job is where it is: one cause."""
        await self._read_point()
        return views.explain(self._table, self._leader, self._find(request.job))

    async def ReadLogs(self, request: pb.LogsRequest, context: Context) -> AsyncIterator[pb.LogLine]:
        """What tasks wrote, read from their workers."""
        if self._table.find_job(request.job) is None:
            await self._read_point()
        request.job = self._find(request.job)
        async for line in self._logs.read(request):
            yield line

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.WorkerList:
        """The workers as the leader knows them."""
        await self._read_point()
        return views.worker_list(self._table, self._leader, request.include_lost)

    async def SetWorker(self, request: pb.SetWorkerRequest, context: Context) -> pb.WorkerInfo:
        """Drains, excludes or takes back a worker."""
        await self._read_point()
        change = table.SetWorkerState(
            worker=request.worker,
            request_id=request.request_id,
            identity=str(identify(context)),
            state=request.state,
            reason=request.reason,
            until_ms=self._driver.wall_ms() + request.for_ms if request.for_ms else 0,
            job=self._find(request.job) if request.job else "",
        )
        await self._commit(table.Command(set_worker=change), ev.WorkerStateChanged, ev.WorkerBarred)
        workers = views.worker_list(self._table, self._leader, include_lost=True).workers
        return next(
            (worker for worker in workers if worker.id == request.worker), pb.WorkerInfo(id=request.worker)
        )

    async def ListMasters(self, request: pb.ListMastersRequest, context: Context) -> pb.MasterList:
        """This master, or all of them as they answer."""
        if request.local_only:
            return pb.MasterList(masters=[self._masters.own()])
        return await self._masters.all()

    async def Transfer(self, request: pb.TransferRequest, context: Context) -> pb.MasterList:
        """Hands leadership to a member, or to the most advanced one."""
        self.check_leading()
        if request.to and all(peer.id != request.to for peer in self._config.peers):
            raise NotFound(f"no master {request.to}", next="`mr masters` lists them")
        if request.to != self._config.id:
            heir = await self._replica.transfer(request.to or None, timeout_s=self._config.commit_timeout_s)
            await self._masters.announced(heir)
        return await self._masters.all()

    async def KillAttempt(self, request: pb.KillAttemptRequest, context: Context) -> pb.KillAttemptReply:
        """Ends what runs of a task; it is tried again elsewhere, without counting as a failure."""
        caller = identify(context)
        job = await self._own_job(request.job, caller)
        attempts = [
            a for info in self._task_infos(job, request.task) for a in info.attempts if a.state == "running"
        ]
        revokes = [
            table.Command(
                revoke=table.RevokeAttempt(
                    attempt=a.attempt, cause=job_pb2.LEASE_REVOKED, message=f"killed by {caller}"
                )
            )
            for a in attempts
        ]
        if not revokes:
            return pb.KillAttemptReply(killed=0)
        applied = await self._propose(*revokes)
        killed = sum(not isinstance(events[0], ev.Refused) for events in applied.results)
        return pb.KillAttemptReply(killed=killed)

    async def SaveSnapshot(
        self, request: pb.SaveSnapshotRequest, context: Context
    ) -> AsyncIterator[pb.BlobChunk]:
        """The table and its blobs as an archive, at a read point."""
        await self._read_point()
        async for chunk in self._saving.save():
            yield chunk

    async def RestoreSnapshot(
        self, request: AsyncIterator[pb.BlobChunk], context: Context
    ) -> pb.RestoreReply:
        """An archive into a cluster that never had a job."""
        await self._read_point()
        return await self._saving.restore(request)

    def check_leading(self) -> None:
        """Raises NotLeader with whom to ask."""
        if not self._driver.leading:
            raise NotLeader(self._replica.leadership.leader)

    def status(self, job: str) -> pb.JobStatus:
        """A job as this replica knows it."""
        status = views.job_status(self._table, job, self._leader)
        if status is None:
            raise NotFound(f"no job {job}")
        return status

    @property
    def _leader(self) -> Any:
        return self._driver.leader if self._driver.leading else None

    async def _read_point(self, *, stale_ok: bool = False) -> None:
        if not stale_ok:
            await self._replica.barrier(timeout_s=self._config.read_timeout_s)

    async def _propose(self, *commands: table.Command) -> AppliedEntry:
        for _ in range(3):
            self.check_leading()
            entry = self._driver.entry(commands).SerializeToString()
            if len(entry) > _ENTRY_BYTES:
                raise Usage(f"a request may have {_ENTRY_BYTES >> 10} KiB")
            applied: AppliedEntry = await self._replica.propose(
                entry, timeout_s=self._config.commit_timeout_s
            )
            stale = applied.results and applied.results[0] and applied.results[0][0]
            if not (isinstance(stale, ev.Refused) and stale.code == "STALE_TERM"):
                return applied
        raise Unavailable("leadership changes too often to commit; try again")

    async def _commit(self, command: table.Command, *wanted: type[E]) -> tuple[AppliedEntry, E]:
        """Proposes; returns the event of a `wanted` type. Raises Rejected with the table's reason."""
        applied = await self._propose(command)
        for event in applied.results[0]:
            if isinstance(event, wanted):
                return applied, event
        first = applied.results[0][0] if applied.results[0] else None
        if isinstance(first, ev.Refused):
            raise (
                NotFound(first.reason)
                if first.code == "NOT_FOUND"
                else Rejected(first.reason, code=first.code)
            )
        raise Rejected(first.text if first else "the command changed nothing")

    def _submitted(self, job: str, applied: AppliedEntry, *, existed: bool) -> pb.SubmitReply:
        return pb.SubmitReply(
            job=job, term=applied.entry.term, index=applied.index, leader=self._config.id, existed=existed
        )

    def _find(self, text: str) -> str:
        job = self._table.find_job(text)
        if job is None:
            raise NotFound(f"no job {text}, or several begin so", next="`mr jobs` lists them")
        return job

    async def _own_job(self, text: str, caller: Identity) -> str:
        """The id of a job that `caller` may change: its own. Names that nobody verified protect nothing."""
        await self._read_point()
        job = self._find(text)
        owner = self._table.jobs[job].owner if job in self._table.jobs else caller.name
        if caller.verified and owner != caller.name and not owner.endswith("(unverified)"):
            raise NotAllowed(f"job {job} belongs to {owner}, not to {caller.name}")
        return job

    def _hide(self, status: pb.JobStatus, caller: Identity) -> pb.JobStatus:
        """Arguments and environment may hold secrets: they are the owner's (S5)."""
        if caller.verified and status.owner != caller.name:
            status.spec.ClearField("args")
            status.spec.ClearField("env")
        return status

    def _task_infos(self, job: str, text: str) -> list[pb.TaskInfo]:
        if ids.task_named(job, text) is None:
            raise NotFound(f"{text!r} is no task", next="a task is m-7 or r-3; of a later step 2.m-7")
        request = pb.ListTasksRequest(job=job, task=text, any_kind=True)
        return list(views.task_list(self._table, self._leader, request).tasks)
