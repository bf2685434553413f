"""`python -m tests.bench.scheduler`: the table and the leader at the paper's largest job, on one core (S1-13, P-12).

M = 200,000 maps, R = 5,000 reduces, 2,000 simulated workers. No network and no consensus: entries are serialised,
parsed and applied, so what is measured is what a leading master must do for each transition (an assignment or a
completion). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import deque

from master import leader_events as le
from master.ids import REDUCE
from master.leader import Leader, LeaderConfig
from master.task_table import TaskTable
from mr.rpc import job_pb2, session_pb2, table_pb2


class Mill:
    """Feeds a leader as a driver would, with workers that finish at once."""

    def __init__(self, workers: int, slots: int) -> None:
        self.table = TaskTable()
        self.leader = Leader(self.table, LeaderConfig(id="a"))
        self.now_s, self.index = 0.0, 0
        self.assigned: deque[tuple[int, job_pb2.AttemptId]] = deque()
        self.proposals: deque[le.Propose] = deque()
        self.plan = job_pb2.SplitPlan()
        self.transitions = self.entries = 0
        self.feed(le.Elected(1, 0.0, 0))
        self.commit()
        for number in range(workers):
            attach = session_pb2.Attach(
                worker=f"w{number:04d}", incarnation="1", slots=slots, host=f"h{number % 500}"
            )
            self.feed(le.Attached(number, attach))
            beat = session_pb2.WorkerEvent(heartbeat=session_pb2.Heartbeat())
            self.feed(le.WorkerSaid(number, beat))
        while self.proposals:
            self.commit()

    def feed(self, event: le.Input) -> None:
        for action in self.leader.handle(event):
            if isinstance(action, le.Propose):
                self.proposals.append(action)
            elif isinstance(action, le.Send):
                for order in action.orders:
                    if order.HasField("assign"):
                        self.assigned.append((action.session, order.assign.attempt))
            elif isinstance(action, le.LoadPlan):
                self.feed(le.PlanLoaded(action.job, self.plan))

    def commit(self) -> None:
        proposal = self.proposals.popleft()
        data = table_pb2.Entry(
            term=1, now_ms=int(self.now_s * 1000), commands=proposal.commands
        ).SerializeToString()
        entry = table_pb2.Entry.FromString(data)
        self.index += 1
        results = self.table.apply(self.index, entry)
        self.entries += 1
        self.transitions += sum(c.HasField("assign") or c.HasField("complete") for c in entry.commands)
        self.feed(le.Applied(self.index, entry, results))
        self.feed(le.Proposed(proposal.number, le.Outcome.APPLIED))

    def submit(self, maps: int, reduces: int) -> None:
        spec = job_pb2.JobSpec(job_id="big", maps=maps)
        spec.steps.add(mapper="m", reducer="r", reduces=reduces)
        spec.output.path = "/out"
        for number in range(maps):
            self.plan.splits.add(bytes=64 << 20, hosts=[f"h{number % 500}"])
        command = table_pb2.Command(submit=table_pb2.SubmitJob(spec=spec, request_id="r"))
        self.proposals.append(le.Propose(0, [command]))
        self.commit()

    def turn(self, batch: int) -> None:
        """Up to `batch` running attempts complete, then what was proposed is committed."""
        self.now_s += 0.01
        maps_done = self.table.jobs["big"].steps[0].maps.done
        for _ in range(min(batch, len(self.assigned))):
            session, attempt = self.assigned.popleft()
            if attempt.task.kind == REDUCE and not maps_done:
                self.assigned.append((session, attempt))  # it still waits for map outputs
                continue
            done = session_pb2.WorkerEvent()
            done.completed.attempt.CopyFrom(attempt)
            result = done.completed.result
            result.counters["mr:records_in"] = 1000
            result.counters["mr:records_out"] = 900
            result.counters["mr:bytes_in"] = 64 << 20
            if attempt.task.kind == REDUCE:
                result.consumed_digest = self.table.jobs["big"].steps[0].winners_digest()
            result.file.name = f"{attempt.task.kind}-{attempt.task.index}"
            self.feed(le.WorkerSaid(session, done))
        while self.proposals:
            self.commit()
        self.feed(le.Tick(self.now_s, int(self.now_s * 1000)))


def main() -> int:
    """Runs the job to its end and prints what it cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--maps", type=int, default=200_000)
    parser.add_argument("--reduces", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=2_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--batch", type=int, default=200, help="completions between two commits")
    options = parser.parse_args()
    mill = Mill(options.workers, options.slots)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    mill.submit(options.maps, options.reduces)
    began, cpu = time.perf_counter(), time.process_time()
    job = mill.table.jobs["big"]
    half = None
    while not job.terminal:
        mill.turn(options.batch)
        if half is None and job.steps[0].maps.in_state[2] * 2 > options.maps:
            half = snapshot_cost(mill.table)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    assert half is not None
    out = {
        "maps": options.maps,
        "reduces": options.reduces,
        "workers": options.workers,
        "transitions": mill.transitions,
        "entries": mill.entries,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_s, 2),
        "transitions_per_cpu_s": round(mill.transitions / cpu_s),
        "state": table_pb2.JobState.Name(job.state),
        "rss_before_mib": round(before_mib),
        "rss_after_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **half,
    }
    print(json.dumps(out))
    return 0


def snapshot_cost(table: TaskTable) -> dict[str, float]:
    """How long a copy holds up `apply`, how long writing and loading take elsewhere, and the size."""
    began = time.perf_counter()
    serialise = table.snapshot()
    copied = time.perf_counter()
    data = serialise()
    written = time.perf_counter()
    TaskTable().restore(data)
    loaded = time.perf_counter()
    return {
        "snapshot_copy_ms": round((copied - began) * 1000, 1),
        "snapshot_write_ms": round((written - copied) * 1000, 1),
        "snapshot_load_ms": round((loaded - written) * 1000, 1),
        "snapshot_mib": round(len(data) / 2**20, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
