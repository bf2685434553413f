"""What the agent promises the leader, one row a promise. The test plays both the leader and the runtime."""

# ruff: noqa: E501 - one row, one line

from __future__ import annotations

import pytest

from mr.rpc import job_pb2 as job
from mr.rpc import session_pb2 as session
from mr.rpc import task_pb2 as task
from worker.agent import DRAIN_GRACE_S, SILENT_HEARTBEATS, Agent
from worker.events import (
    Action,
    Attempt,
    CloseSession,
    DrainWanted,
    DropJob,
    DropOutput,
    DropScratch,
    Event,
    Exit,
    FailTask,
    Fetch,
    FetchEnded,
    JobPrepared,
    Joined,
    KillTask,
    Note,
    OutputDamaged,
    PeerSuspected,
    PrepareFailed,
    PrepareJob,
    Received,
    RegionFailure,
    Send,
    SessionClosed,
    SessionOpened,
    StartTask,
    SweepScratch,
    TaskDone,
    TaskFailed,
    TaskProgress,
    Tick,
)
from worker.identity import Identity
from worker.workload import DISK_RESERVE_BYTES, REPORT_AGAIN_S

SPEC = job.JobSpec(job_id="wc", steps=[job.Step(reduces=2)], staging="/out/.x", python="3.11")
MAP = Attempt("wc", 0, job.MAP, 0, 1)
MAP_AGAIN = Attempt("wc", 0, job.MAP, 0, 2)
MAP_1 = Attempt("wc", 0, job.MAP, 1, 1)
REDUCE = Attempt("wc", 0, job.REDUCE, 1, 1)
COMMIT = Attempt("wc", 0, job.COMMIT, 0, 1)
CLEANUP = Attempt("wc", 0, job.CLEANUP, 0, 1)
RESULT = job.TaskResult(index_digest=b"digest")
BOOM = job.Failure(cause=job.USER_EXCEPTION, message="boom")


def identity(**more: object) -> Identity:
    return Identity(**{"worker": "w1", "incarnation": "0001", "address": "w1:1", "slots": 2, **more})  # type: ignore[arg-type]


def welcome(term: int = 3, number: int = 1, cluster: str = "c", heartbeat_ms: int = 1000) -> Received:
    order = session.Welcome(cluster_id=cluster, leader="a", heartbeat_ms=heartbeat_ms)
    return said(session.Order(welcome=order), term=term, number=number)


def said(*orders: session.Order, term: int = 3, number: int = 1) -> Received:
    return Received(number, session.MasterMessage(term=term, orders=orders))


def assign(
    attempt: Attempt, index: int = 10, *, spec: job.JobSpec | None = SPEC, **more: object
) -> session.Order:
    order = session.Assign(attempt=attempt.wire(), **more)  # type: ignore[arg-type]
    if spec is not None:
        order.spec.CopyFrom(spec)
    return session.Order(index=index, assign=order)


def settled(attempt: Attempt, *, accepted: bool = True) -> session.Order:
    return session.Order(settled=session.Settled(attempt=attempt.wire(), accepted=accepted))


def cancel(attempt: Attempt) -> session.Order:
    return session.Order(cancel=session.CancelAttempt(attempt=attempt.wire()))


def discard(attempt: Attempt) -> session.Order:
    return session.Order(discard=session.DiscardOutput(attempt=attempt.wire()))


def forget(index: int = 20) -> session.Order:
    return session.Order(index=index, forget=session.ForgetJob(job="wc"))


def drain() -> session.Order:
    return session.Order(drain=session.DrainOrder(drain=True))


def refuse(code: str) -> session.Order:
    return session.Order(refuse=session.Refuse(code=code, reason="no"))


def outputs(*items: tuple[int, int, str], sequence: int = 0, lost: bool = False) -> session.Order:
    """(map, attempt, worker) each."""
    found = [session.MapOutput(map=m, attempt=a, worker=w, address=f"{w}:1", lost=lost) for m, a, w in items]
    return session.Order(outputs=session.MapOutputs(job="wc", from_sequence=sequence, outputs=found))


def run(m: int, attempt: int = 1) -> task.Run:
    return task.Run(map=m, attempt=attempt, path=f"/{m}", length=24)


ATTACHED: list[Event] = [Tick(100.0), SessionOpened(1), welcome()]
RUNNING: list[Event] = [*ATTACHED, said(assign(MAP)), JobPrepared("wc", "/code")]
DONE: list[Event] = [*RUNNING, TaskDone(MAP, RESULT)]
HELD: list[Event] = [*DONE, said(settled(MAP))]
GATHERING: list[Event] = [*ATTACHED, said(assign(REDUCE, maps=2)), JobPrepared("wc", "/code")]
MERGING: list[Event] = [
    *GATHERING,
    said(outputs((0, 1, "w2"), (1, 1, "w2"))),
    FetchEnded(REDUCE, "w2", [run(0), run(1)]),
]
LEAVING: list[Event] = [*RUNNING, DrainWanted("SIGTERM")]


def kinds(actions: list[Action]) -> list[str]:
    """The actions in short: what is sent by its kinds, the rest by name."""
    short = []
    for action in actions:
        if isinstance(action, Send):
            short += [f"send {event.WhichOneof('kind')}" for event in action.events]
        else:
            short.append(type(action).__name__)
    return short


def agent_after(events: list[Event], **me: object) -> Agent:
    agent = Agent(identity(**me))
    for event in events:
        agent.handle(event)
        agent.check()
    return agent


@pytest.mark.parametrize(
    ("promise", "given", "when", "then"),
    [
        # -- the session
        ("attach comes first, a heartbeat ends the report", [Tick(1.0)], SessionOpened(1), ["send attach", "send heartbeat"]),
        ("the first welcome sweeps the scratch of earlier lives", ATTACHED[:2], welcome(), ["Joined", "SweepScratch"]),
        ("a later one does not", [*ATTACHED, SessionOpened(2)], welcome(number=2), ["Joined"]),
        ("an unsettled completion is sent again on attach (FT7)", DONE, SessionOpened(2), ["send attach", "send completed", "send heartbeat"]),
        ("a settled one is not", HELD, SessionOpened(2), ["send attach", "send heartbeat"]),
        ("messages of an older session are not heard", [*ATTACHED, SessionOpened(2)], said(assign(MAP), number=1), []),
        ("a redirect is followed", ATTACHED[:2], said(session.Order(redirect=session.Redirect(leader="b:1")), term=0), ["CloseSession"]),
        ("a worker of another cluster is refused (FT22)", ATTACHED[:2], said(refuse("WRONG_CLUSTER")), ["CloseSession", "Exit"]),
        ("a superseded one ends (FT21)", ATTACHED, said(refuse("SUPERSEDED")), ["CloseSession", "Exit"]),
        ("but not by the word of a stale leader", ATTACHED, said(refuse("SUPERSEDED"), term=2), ["CloseSession"]),
        ("it never serves a second cluster", [*ATTACHED, SessionOpened(2)], welcome(number=2, cluster="other"), ["CloseSession", "Exit"]),
        # -- terms (C12)
        ("an order of an older term is refused (C12, FT12)", ATTACHED, said(assign(MAP), term=2), ["CloseSession"]),
        ("a cancellation of an older term, too", RUNNING, said(cancel(MAP), term=2), ["CloseSession"]),
        ("a newer term is believed", ATTACHED, said(assign(MAP), term=4), ["PrepareJob"]),
        # -- attempts begin
        ("the first task of a job waits for its code", ATTACHED, said(assign(MAP)), ["PrepareJob"]),
        ("which is asked for once", [*ATTACHED, said(assign(MAP))], said(assign(MAP_1)), []),
        ("and all that waited start with it", [*ATTACHED, said(assign(MAP)), said(assign(MAP_1))], JobPrepared("wc", "/code"), ["StartTask", "StartTask"]),
        ("with the code in hand a task starts at once", RUNNING, said(assign(MAP_1, spec=None)), ["StartTask"]),
        ("what cannot run here says why", [*ATTACHED, said(assign(MAP))], PrepareFailed("wc", BOOM), ["KillTask", "DropScratch", "send failed"]),
        ("the same Assign again starts nothing (FT6)", RUNNING, said(assign(MAP)), []),
        ("for a finished attempt it is answered with the report", DONE, said(assign(MAP)), ["send completed"]),
        ("for a settled one with nothing", HELD, said(assign(MAP)), []),
        ("for a cancelled one with nothing", [*RUNNING, said(cancel(MAP))], said(assign(MAP)), []),
        ("for a forgotten job, replayed, with nothing", [*RUNNING, said(forget())], said(assign(MAP)), []),
        ("but a clean-up may follow the end of its job", [*RUNNING, said(forget())], said(assign(CLEANUP, 30)), ["StartTask"]),
        ("and leaves nothing behind", [*RUNNING, said(forget()), said(assign(CLEANUP, 30)), TaskDone(CLEANUP, job.TaskResult())], said(settled(CLEANUP)), ["DropJob"]),
        ("publication needs no code", ATTACHED, said(assign(COMMIT)), ["StartTask"]),
        ("a job that was never described is refused", ATTACHED, said(assign(MAP, spec=None)), ["send failed"]),
        ("a malformed order is refused and does no harm", ATTACHED, said(assign(Attempt("../x", 0, 0, 0, 1)), assign(MAP)), ["Note", "PrepareJob"]),
        ("so is one with a number that cannot be", ATTACHED, said(assign(Attempt("wc", 0, 0, 0, 0))), ["Note"]),
        ("a full disk takes nothing more (FD8)", [*ATTACHED, Tick(101.0, DISK_RESERVE_BYTES - 1)], said(assign(MAP)), ["send failed"]),
        # -- attempts end
        ("a result is reported, the scratch goes", RUNNING, TaskDone(MAP, RESULT), ["DropScratch", "send completed"]),
        ("a failure, too", RUNNING, TaskFailed(MAP, BOOM), ["KillTask", "DropScratch", "send failed"]),
        ("what was cancelled meanwhile is not reported", [*RUNNING, said(cancel(MAP))], TaskDone(MAP, RESULT), []),
        ("a refused output is discarded (FT4)", DONE, said(settled(MAP, accepted=False)), ["DropOutput"]),
        ("an accepted one is kept", DONE, said(settled(MAP)), []),
        ("to settle twice changes nothing, not even the other way", HELD, said(settled(MAP, accepted=False)), []),
        ("until nobody needs it", HELD, said(discard(MAP)), ["DropOutput"]),
        ("a discard for what is not here is ignored", ATTACHED, said(discard(MAP)), []),
        ("a cancelled attempt dies with its tree and its scratch", RUNNING, said(cancel(MAP)), ["KillTask", "DropScratch"]),
        ("cancelled after the end, its output goes", DONE, said(cancel(MAP)), ["DropOutput"]),
        ("a cancellation of what is not here is ignored", ATTACHED, said(cancel(MAP)), []),
        ("a forgotten job leaves no process and no file (D9)", RUNNING, said(forget()), ["KillTask", "DropJob"]),
        ("a job that was never here is forgotten as well", ATTACHED, said(forget()), ["DropJob"]),
        ("an unsettled report is made again after a while", DONE, Tick(100.0 + REPORT_AGAIN_S), ["send heartbeat", "send completed"]),
        # -- without a leader
        ("work goes on without a leader", [*RUNNING, SessionClosed(1)], Tick(10_000.0), []),
        ("its result waits for the next one", [*RUNNING, SessionClosed(1)], TaskDone(MAP, RESULT), ["DropScratch"]),
        ("a silent leader is looked for elsewhere, no work dies", RUNNING, Tick(101.0 + SILENT_HEARTBEATS), ["CloseSession"]),
        # -- reduces
        ("a reduce fetches what is there while maps run (S1-14)", GATHERING, said(outputs((0, 1, "w2"))), ["Fetch"]),
        ("from one peer one call at a time", [*GATHERING, said(outputs((0, 1, "w2")))], said(outputs((1, 1, "w2"), sequence=1)), []),
        ("it merges when every output is in hand (T9)", MERGING[:-1], MERGING[-1], ["StartTask"]),
        ("an output lost before the merge is not used (FD1)", [*MERGING[:-1], said(outputs((0, 1, "w2"), sequence=2, lost=True))], MERGING[-1], []),
        ("but its successor is fetched", [*MERGING[:-1], said(outputs((0, 1, "w2"), sequence=2, lost=True)), MERGING[-1]], said(outputs((0, 2, "w3"), sequence=3)), ["Fetch"]),
        ("items heard before are skipped", [*GATHERING, said(outputs((0, 1, "w2")))], said(outputs((0, 1, "w2"))), []),
        ("a gap in the items is asked for again", GATHERING, said(outputs((1, 1, "w2"), sequence=5)), ["CloseSession"]),
        ("a failed fetch is reported, region by region (S2-15)", [*GATHERING, said(outputs((0, 1, "w2")))], FetchEnded(REDUCE, "w2", [], [RegionFailure(0, 1, job.FETCH_FAILED, "reset")]), ["send fetch_failed"]),
        ("and tried again after a pause", [*GATHERING, said(outputs((0, 1, "w2"))), FetchEnded(REDUCE, "w2", [], [RegionFailure(0, 1, job.FETCH_FAILED, "reset")])], Tick(100.6), ["Fetch"]),
        ("this disk full while fetching fails the attempt (FD8)", GATHERING, TaskFailed(REDUCE, job.Failure(cause=job.DISK_FULL)), ["KillTask", "DropScratch", "send failed"]),
        ("a damaged output is reported and dropped (FD2)", HELD, OutputDamaged(MAP, "checksum"), ["send output_lost", "DropOutput"]),
        ("one that is not held is nobody's loss", ATTACHED, OutputDamaged(MAP, "checksum"), []),
        # -- leaving
        ("a worker told to leave says so", RUNNING, DrainWanted("SIGTERM"), ["send drain"]),
        ("takes nothing new", LEAVING, said(assign(MAP_1)), ["send failed"]),
        ("says so to the next leader, too", LEAVING, SessionOpened(2), ["send attach", "send drain", "send heartbeat"]),
        ("finishes what runs, and waits for its settling", LEAVING, TaskDone(MAP, RESULT), ["DropScratch", "send completed"]),
        ("keeps an output that reduces may want", [*LEAVING, TaskDone(MAP, RESULT)], said(settled(MAP)), []),
        ("leaves when nobody wants it", [*LEAVING, TaskDone(MAP, RESULT), said(settled(MAP))], said(discard(MAP)), ["DropOutput", "Exit"]),
        ("or when the leader says that it may", [*LEAVING, TaskDone(MAP, RESULT), said(settled(MAP))], said(drain()), ["Exit"]),
        ("or when its grace has passed", [*LEAVING, TaskDone(MAP, RESULT), said(settled(MAP)), SessionClosed(1)], Tick(100.0 + DRAIN_GRACE_S), ["Exit"]),
        ("but not before", [*LEAVING, TaskDone(MAP, RESULT), said(settled(MAP)), SessionClosed(1)], Tick(99.0 + DRAIN_GRACE_S), []),
        ("an idle one leaves at once", ATTACHED, DrainWanted("SIGTERM"), ["send drain", "Exit"]),
        ("drained by the leader it stays", HELD, said(drain()), []),
        ("and takes nothing new", [*HELD, said(drain())], said(assign(MAP_1)), ["send failed"]),
        ("until it is undrained", [*HELD, said(drain()), said(session.Order(drain=session.DrainOrder()))], said(assign(MAP_1)), ["StartTask"]),
        # -- the rest
        ("what peers are suspected of goes to the leader", ATTACHED, PeerSuspected("w2", False, 3, 3), ["send suspicion"]),
        ("an order of a newer release is no reason to die", ATTACHED, said(session.Order(index=5)), []),
    ],
)  # fmt: skip
def test_promise(promise: str, given: list[Event], when: Event, then: list[str]) -> None:
    agent = agent_after(given)
    assert kinds(agent.handle(when)) == then, promise
    agent.check()


def test_an_attach_says_what_runs_and_what_is_held() -> None:
    """T4: a new leader runs nothing again that a worker still has."""
    agent = agent_after([*HELD, said(assign(MAP_1, spec=None)), said(assign(REDUCE, maps=2, spec=None))])
    [send] = agent.handle(SessionOpened(2))
    assert isinstance(send, Send)
    attach = send.events[0].attach
    assert [Attempt.of(a) for a in attach.running] == [MAP_1, REDUCE]
    assert [Attempt.of(a) for a in attach.held] == [MAP]
    assert (attach.highest_term, attach.cluster_id) == (3, "c")
    assert [(c.job, c.step, c.sequence) for c in attach.cursors] == [("wc", 0, 0)]


@pytest.mark.parametrize(
    ("promise", "given", "then"),
    [
        ("none at first", ATTACHED, []),
        ("one whose code may be on its way", [*ATTACHED, said(assign(MAP))], ["wc"]),
        ("one of which only a failed attempt was here", [*RUNNING, TaskFailed(MAP, BOOM), said(settled(MAP))], ["wc"]),
        ("one whose code could not be had", [*ATTACHED, said(assign(MAP)), PrepareFailed("wc", BOOM)], ["wc"]),
        ("not one that was forgotten", [*RUNNING, said(forget())], []),
        ("nor one that was cleaned up after that", [*RUNNING, said(forget()), said(assign(CLEANUP, 30)), TaskDone(CLEANUP, job.TaskResult()), said(settled(CLEANUP))], []),
    ],
)  # fmt: skip
def test_an_attach_names_the_jobs_that_left_something_here(
    promise: str, given: list[Event], then: list[str]
) -> None:
    """D9: a leader that ended a job without this worker must hear that something of it is here."""
    [send] = agent_after(given).handle(SessionOpened(2))[:1]
    assert isinstance(send, Send)
    assert list(send.events[0].attach.jobs) == then, promise


def test_slots_bound_task_processes_not_reduces_that_gather() -> None:
    """An overbooking leader must not make maps wait for reduces that wait for them."""
    agent = agent_after(GATHERING, slots=1)
    assert kinds(agent.handle(said(assign(MAP, spec=None)))) == ["StartTask"]
    assert kinds(agent.handle(said(assign(MAP_1, spec=None)))) == []
    assert kinds(agent.handle(TaskDone(MAP, RESULT))) == ["DropScratch", "send completed", "StartTask"]
    agent.check()


def test_a_worker_of_one_kind_refuses_the_other() -> None:
    agent = agent_after(ATTACHED, kinds=(job.MAP,))
    assert kinds(agent.handle(said(assign(REDUCE, maps=1)))) == ["send failed"]
    assert kinds(agent.handle(said(assign(COMMIT)))) == ["StartTask"]


def test_runs_reach_the_merge_in_map_order() -> None:
    """D11: values of equal keys are in map order, in whatever order the regions came."""
    agent = agent_after(GATHERING)
    agent.handle(said(outputs((1, 1, "w3"), (0, 1, "w2"))))
    assert kinds(agent.handle(FetchEnded(REDUCE, "w3", [run(1)]))) == []
    [start] = agent.handle(FetchEnded(REDUCE, "w2", [run(0)]))
    assert isinstance(start, StartTask)
    assert [r.map for r in start.runs] == [0, 1]


def test_an_attempt_over_its_deadline_is_ended_once() -> None:
    agent = agent_after([*ATTACHED, said(assign(MAP, deadline_ms=2000)), JobPrepared("wc", "/code")])
    agent.handle(welcome(heartbeat_ms=60_000))
    assert [a for a in agent.handle(Tick(101.9)) if isinstance(a, FailTask)] == []
    [fail] = [a for a in agent.handle(Tick(102.0)) if isinstance(a, FailTask)]
    assert fail.failure.cause == job.TASK_TIMEOUT
    assert [a for a in agent.handle(Tick(103.0)) if isinstance(a, FailTask)] == []
    assert "send failed" in kinds(agent.handle(TaskFailed(MAP, fail.failure)))


def test_heartbeats_carry_progress_and_come_in_time() -> None:
    agent = agent_after([*GATHERING, said(assign(MAP, spec=None))])
    agent.handle(TaskProgress(MAP, session.Progress(attempt=MAP.wire(), records=7)))
    assert agent.handle(Tick(100.5)) == []
    [send] = agent.handle(Tick(101.0, disk_free=1 << 40, memory_used=9))
    assert isinstance(send, Send)
    beat = send.events[0].heartbeat
    assert [(p.phase, p.records) for p in beat.progress] == [("fetch", 0), ("", 7)]
    assert (beat.disk_free_bytes, beat.memory_used_bytes) == (1 << 40, 9)


def test_an_unsettled_report_is_made_again_within_one_session() -> None:
    """FT7: the leader's answer may be lost though the stream lives."""
    agent = agent_after(DONE)
    now, sent = 100.0, []
    while now < 100.0 + REPORT_AGAIN_S:
        now += 1.0
        sent += kinds(agent.handle(Tick(now)))
        agent.handle(Received(1, session.MasterMessage(term=3, heartbeat_echo=1)))
    assert sent.count("send completed") == 1


def test_every_action_and_event_was_met() -> None:
    """The table above plays the whole vocabulary; a new word needs a row."""
    met = {CloseSession, DropJob, DropOutput, DropScratch, Exit, FailTask, Fetch, Joined, KillTask, Note}
    met |= {PrepareJob, Send, StartTask, SweepScratch}
    assert met == set(Action.__args__)  # type: ignore[attr-defined]
