"""What people read of the table: states, stories, progress, and one cause for everything that waits (T14)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from master import leader_events as le
from master import views
from master.explain import CAUSES, explain
from master.leader import Leader, LeaderConfig
from master.task_table import TaskTable
from mr.rpc import cluster_pb2, job_pb2, session_pb2, table_pb2
from tests.scenarios import commands


class Cluster:
    """A table and its leader; commands in the words of the stories."""

    def __init__(self) -> None:
        self.table = TaskTable()
        self.leader = Leader(self.table, LeaderConfig(id="a"))
        self.index = 0
        self.now_s = 0.0
        self.with_plans = True
        self.assigned: list[session_pb2.Assign] = []
        self.feed(le.Elected(1, 0.0, 0))

    def feed(self, event: le.Input) -> None:
        for action in self.leader.handle(event):
            if isinstance(action, le.Propose):
                self.apply(list(action.commands))
                self.feed(le.Proposed(action.number, le.Outcome.APPLIED))
            elif isinstance(action, le.Send):
                self.assigned += [order.assign for order in action.orders if order.HasField("assign")]
            elif isinstance(action, le.LoadPlan) and self.with_plans:
                splits = [job_pb2.Split(bytes=5)] * self.table.jobs[action.job].spec.maps
                self.feed(le.PlanLoaded(action.job, job_pb2.SplitPlan(splits=splits)))

    def apply(self, said: list[table_pb2.Command]) -> None:
        self.index += 1
        entry = table_pb2.Entry(term=1, now_ms=int(self.now_s * 1000) + self.index, commands=said)
        self.feed(le.Applied(self.index, entry, self.table.apply(self.index, entry)))

    def do(self, *texts: str) -> Cluster:
        for text in texts:
            self.apply([commands.command(self.table, text)])
        return self

    def attach(self, worker: str, slots: int = 1) -> Cluster:
        number = 1 + len(self.leader.sessions.by_number)
        attach = session_pb2.Attach(worker=worker, incarnation="1", slots=slots, host=worker)
        self.feed(le.Attached(number, attach))
        self.beat(worker)
        return self

    def beat(self, worker: str, *progress: session_pb2.Progress) -> None:
        number = self.leader.sessions.by_worker[worker].number
        beat = session_pb2.WorkerEvent(heartbeat=session_pb2.Heartbeat(progress=progress, disk_free_bytes=7))
        self.feed(le.WorkerSaid(number, beat))

    def tick(self, seconds: float) -> Cluster:
        for _ in range(int(seconds)):
            self.now_s += 1
            for worker in list(self.leader.sessions.by_worker):
                self.beat(worker)
            self.feed(le.Tick(self.now_s, int(self.now_s * 1000)))
        return self

    def cause(self, job: str = "wc") -> str:
        return explain(self.table, self.leader, job).cause


def no_plan(cluster: Cluster) -> None:
    cluster.with_plans = False
    cluster.attach("w1").do("submit wc")


def unreachable(cluster: Cluster) -> None:
    cluster.attach("w1", 2).attach("w2", 2).do(
        "submit wc maps=2 reduces=2", "complete m-0#1 w1", "complete m-1#1 w2"
    )
    suspicion = session_pb2.WorkerEvent(suspicion=session_pb2.Suspicion(worker="w1", reachable=False))
    cluster.feed(le.WorkerSaid(cluster.leader.sessions.by_worker["w2"].number, suspicion))


def stalled(cluster: Cluster) -> None:
    cluster.attach("w1").do("submit wc maps=2").tick(1).do("complete m-0#1 w1").tick(60)


def straggling(cluster: Cluster) -> None:
    cluster.attach("w1", 4).do("submit wc maps=4 reduces=0").tick(1)
    cluster.do("complete m-0#1 w1", "complete m-1#1 w1", "complete m-2#1 w1").tick(20)


CASES: list[tuple[str, Callable[[Cluster], object]]] = [
    ("NOT_FOUND", lambda c: None),
    ("NO_WORKERS", lambda c: c.do("submit wc")),
    ("WORKERS_AWAY", lambda c: c.do("submit wc", "attach w1")),
    (
        "WORKERS_BARRED",
        lambda c: c.do("submit wc", "attach w1", "attach w2", "exclude w1 for=wc").do("drain w2"),
    ),
    ("WAITING_FOR_PLAN", no_plan),
    ("WAITING_FOR_SLOTS", lambda c: c.attach("w1").do("submit other", "submit wc")),
    ("RUNNING", lambda c: c.attach("w1").do("submit wc")),
    ("TASKS_RETRIED", lambda c: c.attach("w1").do("submit wc", "fail m-0#1 w1 cause=USER_EXCEPTION")),
    (
        "MAPS_RERUN",
        lambda c: c.attach("w1", 2).do("submit wc maps=1", "complete m-0#1 w1", "lose-output m-0#1 w1"),
    ),
    ("OUTPUTS_UNREACHABLE", unreachable),
    ("STALLED", stalled),
    ("STRAGGLER", straggling),
    ("PUBLISHING", lambda c: c.attach("w1").do("submit wc maps=0 reduces=0")),
    (
        "PUBLISH_RETRIED",
        lambda c: c.attach("w1").do(
            "submit wc maps=0 reduces=0", "fail commit-0#1 w1 cause=OUTPUT_UNWRITABLE"
        ),
    ),
    ("SUCCEEDED", lambda c: c.attach("w1").do("submit wc maps=0 reduces=0", "complete commit-0#1 w1")),
    ("CANCELLED", lambda c: c.do("submit wc", "cancel wc")),
    ("JOB_DEADLINE", lambda c: c.do("submit wc", "expire wc")),
]


@pytest.mark.parametrize(("cause", "given"), CASES, ids=[case[0] for case in CASES])
def test_explain_gives_one_cause(cause: str, given: Callable[[Cluster], object]) -> None:
    cluster = Cluster()
    given(cluster)
    answer = explain(cluster.table, cluster.leader, "wc")
    assert answer.cause == cause, answer
    assert answer.text
    explain(cluster.table, None, "wc")  # a follower answers too


def test_every_cause_of_explain_has_a_case() -> None:
    assert set(CAUSES) <= {case[0] for case in CASES}


def test_status_of_a_failed_job_tells_its_story() -> None:
    """P-14: the failed task, its attempts, where they ran, the cause."""
    cluster = Cluster().attach("w1").attach("w2")
    cluster.do(
        "submit wc maps=1 reduces=0 max_attempts=2", "fail m-0#1 w1 cause=USER_EXCEPTION message=first"
    )
    cluster.do("fail m-0#2 w2 cause=USER_EXCEPTION message=second")
    status = views.job_status(cluster.table, "wc", cluster.leader)
    assert status is not None
    assert status.state == table_pb2.FAILED
    assert (status.failure.message, status.failed_task.number) == ("second", 2)
    assert [(a.worker, a.failure.message, a.state) for a in status.story] == [
        ("w1", "first", "failed"),
        ("w2", "second", "failed"),
    ]
    assert status.ended_ms


def test_status_shows_progress_of_the_least_advanced_reduce() -> None:
    cluster = Cluster().attach("w1", 4).do("submit wc maps=1 reduces=2", "complete m-0#1 w1")
    keys = sorted(cluster.table.workers["w1"].running)
    cluster.beat("w1", *[session_pb2.Progress(attempt=k.proto(), fetched=n) for n, k in enumerate(keys, 3)])
    status = views.job_status(cluster.table, "wc", cluster.leader)
    assert status is not None
    assert status.steps[0].reduce.fetched == 3
    assert status.steps[0].map.completed == 1


def test_tasks_are_listed_by_state_kind_and_page() -> None:
    cluster = Cluster().attach("w1").do("submit wc maps=5 reduces=2", "complete m-0#1 w1")

    def listed(**wanted: object) -> tuple[list[str], int]:
        found = views.task_list(
            cluster.table, cluster.leader, cluster_pb2.ListTasksRequest(job="wc", **wanted)
        )  # type: ignore[arg-type]
        return [f"{t.task.kind}-{t.task.index}:{t.state}" for t in found.tasks], found.total

    assert listed(states=["completed"], any_kind=True) == (["0-0:completed"], 1)
    assert listed(kind=1) == (["1-0:idle", "1-1:idle"], 2)
    assert listed(any_kind=True, limit=2, offset=1) == (["0-1:in_progress", "0-2:idle"], 7)
    assert listed(task="r-1") == (["1-1:idle"], 1)
    assert listed(task="m-99") == ([], 0)
    task = views.task_list(
        cluster.table, cluster.leader, cluster_pb2.ListTasksRequest(job="wc", task="m-1")
    ).tasks[0]
    assert [(a.worker, a.state) for a in task.attempts] == [("w1", "running")]
    assert task.split.bytes == 5  # S1-08: the split belongs to its task


def test_a_worker_is_listed_as_it_is() -> None:
    """T14: active only while it is on the line."""
    cluster = Cluster().attach("w1", 2).do("submit wc maps=1", "attach w2")
    cluster.do("complete m-0#1 w1")
    seen = {w.id: w for w in views.worker_list(cluster.table, cluster.leader).workers}
    assert (seen["w1"].state, seen["w1"].held_outputs, seen["w1"].disk_free_bytes) == ("active", 1, 7)
    assert seen["w2"].state == "detached"
    cluster.do("lose w1")
    assert [w.id for w in views.worker_list(cluster.table, cluster.leader).workers] == ["w2"]
    assert len(views.worker_list(cluster.table, cluster.leader, include_lost=True).workers) == 2


def test_jobs_are_listed_newest_first_and_history_on_request() -> None:
    cluster = Cluster().do("submit a maps=0 reduces=0").attach("w1").do("complete commit-0#1 w1", "forget a")
    cluster.do("submit b", "submit c")

    def listed(**wanted: object) -> list[str]:
        return [j.id for j in views.job_list(cluster.table, cluster_pb2.ListJobsRequest(**wanted)).jobs]  # type: ignore[arg-type]

    assert listed() == ["c", "b"]
    assert listed(history=True) == ["c", "b", "a"]
    assert listed(history=True, states=[table_pb2.SUCCEEDED]) == ["a"]
    assert listed(prefix="b", limit=1) == ["b"]
    assert views.job_status(cluster.table, "a").state == table_pb2.SUCCEEDED  # type: ignore[union-attr]
    assert views.job_status(cluster.table, "zz") is None


def test_significant_events_are_kept_with_the_job() -> None:
    cluster = (
        Cluster().attach("w1").do("submit wc maps=1 reduces=0", "complete m-0#1 w1", "complete commit-0#1 w1")
    )
    types = [event.type for event in cluster.table.jobs["wc"].events()]
    assert types == ["JobAccepted", "JobStarted", "MapsDone", "JobPublishing", "JobFinished"]


@pytest.mark.parametrize(
    ("skip_bad", "records", "causes", "skipped"),
    [
        (1, (7, 7), ("NATIVE_SIGNAL", "USER_EXIT"), [7]),
        (1, (7, 8), ("NATIVE_SIGNAL", "NATIVE_SIGNAL"), []),
        (0, (7, 7), ("NATIVE_SIGNAL", "NATIVE_SIGNAL"), []),
        (1, (7, 7), ("NATIVE_SIGNAL", "USER_EXCEPTION"), []),
        (1, (0, 0), ("NATIVE_SIGNAL", "NATIVE_SIGNAL"), []),
    ],
)
def test_a_record_that_kills_twice_is_skipped(
    skip_bad: int, records: tuple[int, int], causes: tuple[str, str], skipped: list[int]
) -> None:
    """P-07: said with the next order, and by the next leader too, for it is derived from the table."""
    cluster = Cluster().attach("w1").do(f"submit wc maps=1 reduces=0 skip_bad={skip_bad}")
    for number, (record, cause) in enumerate(zip(records, causes, strict=True), 1):
        cluster.do(f"fail m-0#{number} w1 cause={cause} record={record}")
    assert list(cluster.assigned[-1].skip) == skipped


def test_history_is_bounded() -> None:
    """T15."""
    cluster = Cluster().do("submit wc")
    for _ in range(400):
        cluster.do("office b")
    events = cluster.table.jobs["wc"].events()
    assert len(events) == 256
    assert events[-1].fields["leader"] == "b"
