"""Split plans for readers: which input each map of a first step has. The plan is a blob, not part of the table."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from google.protobuf.message import DecodeError

from master.task_table import TaskTable
from mr.errors import Error
from mr.rpc import cluster_pb2 as pb
from mr.rpc import job_pb2

_KEPT = 8  # parsed plans; a large one has 200,000 splits


class Plans:
    """Reads plans by digest through `load` and keeps the last few."""

    def __init__(self, table: TaskTable, load: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._table = table
        self._load = load
        self._plans: OrderedDict[bytes, job_pb2.SplitPlan] = OrderedDict()

    async def fill(self, job: str, tasks: Iterable[pb.TaskInfo]) -> None:
        """Adds the input of the first step's maps; nothing if no master has the plan any more."""
        known = self._table.jobs.get(job)
        maps = [info for info in tasks if info.task.kind == job_pb2.MAP and info.task.step == 0]
        if known is None or not maps:
            return
        plan = await self._plan(known.spec.splits_digest)
        for info in maps:
            if info.task.index < len(plan.splits):
                info.split.CopyFrom(plan.splits[info.task.index])

    async def _plan(self, digest: bytes) -> job_pb2.SplitPlan:
        if digest not in self._plans:
            try:
                self._plans[digest] = job_pb2.SplitPlan.FromString(await self._load(digest))
            except (Error, DecodeError):
                return job_pb2.SplitPlan()
            if len(self._plans) > _KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(digest)
        return self._plans[digest]
