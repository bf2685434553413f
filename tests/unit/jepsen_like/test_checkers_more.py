"""The other half of the checkers: evidence spoilt in one place, what is allowed, what each says without evidence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from jepsen_like import checkers
from jepsen_like import checkers_access as access
from jepsen_like import checkers_attempts as attempts
from jepsen_like import checkers_clients as clients
from jepsen_like import checkers_consensus as consensus
from jepsen_like import checkers_data as data
from jepsen_like import checkers_limits as limits
from jepsen_like import checkers_refusals as refusals
from jepsen_like import checkers_workers as workers
from jepsen_like.evidence import Evidence, Job, Mark, Master, Worker
from jepsen_like.history import Event
from jepsen_like.verdict import Outcome, Verdict
from tests.unit.jepsen_like.test_checkers import BAD, S, call, event, good, line, master, ran

Spoil = Callable[[list[Event], Evidence], Any]
ALONE = [["a", "b"], ["b", "a"], ["a", "c"], ["c", "a"], ["b", "c"], ["c", "b"]]


def member(evidence: Evidence, number: int) -> dict[str, Any]:
    return evidence.masters[number].dump[0]


def third(evidence: Evidence, **head: Any) -> None:
    """A third master, whose disk agrees unless `head` says otherwise."""
    dump = copy.deepcopy(evidence.masters[1].dump)
    dump[0] |= head
    evidence.masters.append(Master(id="c", dump=dump, view=copy.deepcopy(evidence.masters[1].view)))


def cut(links: list[list[str]], *, kind: str = "masters-apart", until: float = 13.0) -> list[Event]:
    """A partition from 10 s on, proven."""
    return [
        event(10, "hurt", kind, {"cut": links}, id=70, who="nemesis"),
        event(until, "note", "heals", kind, id=70, who="nemesis"),
        event(until + 0.1, "heal", kind, id=70, who="nemesis"),
        event(until + 0.2, "proof", kind, {"packets": 9}, id=70, who="nemesis"),
    ]


def occupied(refused: str = "OUTPUT_EXISTS", after: str = "aa", job: str = "full") -> list[Event]:
    answer = {"refused": refused, "before": {"x": "aa"}, "after": {"x": after}}
    return call(71, 8, "occupied", job, answer)


def crowd(count: int) -> list[Worker]:
    """One task, `count` attempts, each on a worker of its own, all at once."""
    return [
        Worker(
            id=f"x{n}", journal=[line(0, "joined", leader="a", term=1), *ran(5, f"0.m-00009.a{n + 1}", 50)]
        )
        for n in range(count)
    ]


def starved(evidence: Evidence, others: int, jobs: int = 1) -> None:
    """Job wc gets nothing for a minute while others begin attempts, one a second, so many jobs in turn."""
    late = [line(t, "begun", f"0.m-00001.a{t}", term=1, runs=[]) for t in (16, 100)]
    busy = [
        line(20 + n, "begun", f"0.m-{n:05d}.a1", term=1, runs=[]) | {"job": f"dead{n % jobs}"}
        for n in range(others)
    ]
    evidence.workers.append(Worker(id="x", journal=[*busy, *late]))


def came_without(evidence: Evidence) -> None:
    """The log calls an output lost, because its worker had come back without it."""
    job(evidence, "wc").events[0].update(fields={"reason": "output lost"})


def damaged(how: str, attempt: int = 2) -> Event:
    what = {"file": f"/scratch/w1/jobs/wc/map/0.m-00000.a{attempt}.seg", "how": how, "node": "w2"}
    return event(3.9, "hurt", "damaged-map-output", {"damaged": [what]}, id=72, who="nemesis")


def told(index: int, at_ms: int, type: str = "TaskStarted") -> dict[str, Any]:
    """An event of a job, as `mr events --json` has it."""
    return {"index": index, "at_ms": at_ms, "type": type}


def two_leaders(until: int = 34, *, silent: bool = False) -> list[Event]:
    """`a` says that it leads in term 3 while `b` leads in term 4, from 30 s on."""
    said = [event(30, "note", "master", {"role": "leader", "term": 4}, node="b")]
    for t in range(29, until + 1, 4 if silent else 1):
        said.append(event(t, "note", "master", {"role": "leader", "term": 3}, node="a"))
    return sorted(said, key=lambda one: one.t)


def behind(applied: int = 5, up_ms: int = 60_000) -> list[Event]:
    """A leader that commits, and what a follower of it has applied twenty seconds later."""
    follower = {"role": "follower", "term": 1, "commit": 9, "applied": applied, "up_ms": up_ms}
    return [
        event(40, "note", "master", {"role": "leader", "term": 1, "commit": 9, "applied": 9}, node="a"),
        event(60, "note", "master", follower, node="b"),
    ]


def job(evidence: Evidence, id: str) -> Job:
    return next(one for one in evidence.jobs if one.id == id)


def lines(evidence: Evidence, what: str) -> list[dict[str, Any]]:
    """Of all workers' journals."""
    return [line for worker in evidence.workers for line in worker.journal if line["what"] == what]


def reduces(evidence: Evidence) -> dict[str, Any]:
    """The line of the reduce that began with what it had fetched."""
    return next(line for line in lines(evidence, "begun") if ".r-" in line["attempt"])


def late(ended: float, deadline_s: float = 10.0) -> Spoil:
    """A job with a deadline, taken at 20 s and seen to have failed at `ended`."""

    def spoil(history: list[Event], evidence: Evidence) -> None:
        evidence.jobs.append(Job(id="late-1", shape="late", deadline_s=deadline_s))
        history += call(80, 20, "submit", "late-1", {"job": "late-1", "existed": False, "index": 30})
        history += call(81, 21, "status", "late-1", {"state": "RUNNING"})
        history += call(82, ended, "status", "late-1", {"state": "FAILED"})

    return spoil


def left(done: str, told: str = "", took: float = 3.0) -> Spoil:
    """Worker w1 is asked to go at 30 s and goes, soon after it was `done` with an attempt and was `told` of it."""

    def spoil(history: list[Event], evidence: Evidence) -> None:
        ended = [{"node": "w1", "pid": 1, "lived": True, "signal": 15, "status": 0}]
        history.append(event(30, "note", "begins", "terminate-worker", id=90, who="nemesis"))
        history.append(event(30 + took, "hurt", "terminate-worker", {"ended": ended}, id=90, who="nemesis"))
        journal = evidence.workers[0].journal
        journal.append(line(31, done, "0.m-00001.a1"))
        if told == "forgotten":
            journal.append(line(31.1, told))
        elif told:
            journal.append(line(31.1, told, "0.m-00001.a1", term=1, index=40, accepted=True))
        journal.append(line(32, "joined", life="L9", leader="a", term=1))  # it is started again at once

    return spoil


MORE: list[tuple[str, Callable[..., Verdict], Spoil, str]] = [
    (
        "D12 a second job gets the place of one that lives",
        refusals.occupied,
        lambda h, e: h.extend(call(74, 8, "rival", "second", {"refused": ""})),
        "second: its output was not free, and it was accepted",
    ),
    (
        "D12 it is refused, and for no true reason",
        refusals.occupied,
        lambda h, e: h.extend(call(74, 8, "rival", "second", {"refused": "QUOTA"})),
        "refused as QUOTA",
    ),
    ("T4 a worker goes with a result", workers.leaving, left("written"), "what became of 0.m-00001.a1 of wc"),
    ("T4 a worker goes with a failure", workers.leaving, left("failed"), "was asked to go at 30.000 s"),
    ("T6 a deadline that came early", limits.deadlines, late(25), "its deadline is 10 s"),
    ("T6 a deadline that was forgotten", limits.deadlines, late(60), "went on for 30.0 s after"),
    (
        "T6 a deadline that never came",
        limits.deadlines,
        lambda h, e: (
            late(90)(h, e),
            h[-1].value.update(state="RUNNING"),
            e.unfinished.append("late-1"),
        ),
        "went on for 60.0 s after",
    ),
    (
        "T15 user code fills a disk",
        limits.bounded,
        lambda h, e: e.workers[0].logs.update({"wc/0.m-00000.a1.log": 20_000_000}),
        "keeps 20,000,000 bytes",
    ),
    (
        "C14 a follower stands still",
        limits.keeping_up,
        lambda h, e: h.extend(behind()),
        "b had applied index 5 at 60.0 s, though a had committed 9 at 40.0 s",
    ),
    (
        "C15 a leader whom nobody follows any more",
        limits.stepping_down,
        lambda h, e: h.extend(two_leaders()),
        "a still said at 34.0 s that it leads in term 3, though a leader of term 4 was there at 30.0 s or before",
    ),
    (
        "FC21 an hour within one term",
        limits.times,
        lambda h, e: e.jobs[0].events.extend([told(900, 9_000), told(901, 3_609_000)]),
        "it is said to have lasted 3600 s, longer than the run",
    ),
    (
        "FC21 a clock that goes back",
        limits.times,
        lambda h, e: e.jobs[0].events.extend([told(900, 9_000), told(901, 8_000)]),
        "the clock went back by 1.000 s",
    ),
    (
        "T4 a map output is called lost, and its worker has it",
        attempts.losses,
        lambda h, e: came_without(e),
        "had not dropped it",
    ),
    (
        "T4 it was dropped because it had been called lost",
        attempts.losses,
        lambda h, e: (came_without(e), e.workers[0].journal.append(line(30, "dropped", "0.m-00000.a1"))),
        "had not dropped it",
    ),
    (
        "T3 a winner was told that it did not count",
        attempts.losses,
        lambda h, e: [one.update(accepted=False) for one in e.workers[0].journal if one["what"] == "settled"],
        "that it did not count",
    ),
    (
        "C9 a job that nobody asked for",
        clients.acknowledged,
        lambda h, e: e.jobs.append(Job(id="ghost", status={"state": "RUNNING"})),
        "ghost exists, and nobody",
    ),
    (
        "T2 an attempt that no order began",
        attempts.granted,
        lambda h, e: e.workers[0].journal.remove(ran(1, "0.m-00000.a1", 5)[0]),
        "never told to",
    ),
    (
        "T2 a task met a record, and no worker began it",
        attempts.granted,
        lambda h, e: e.marks.append(Mark(job="wc", task="m-7", attempt=1, t=4 * S)),
        "no worker began it",
    ),
    (
        "T2 the same while a master's disk fails",
        attempts.granted,
        lambda h, e: (
            h.append(event(1, "hurt", "fsync-eio", {"node": "a"}, id=73)),
            e.marks.append(Mark(job="wc", task="m-7", attempt=1, t=4 * S)),
        ),
        "no worker began it",
    ),
    (
        "T3 a map output is called lost before it won",
        attempts.one_winner,
        lambda h, e: job(e, "wc").events[0].update(index=2),
        "both accepted",
    ),
    (
        "T8 a job that a client saw succeed is cancelled in the end",
        clients.linearizable,
        lambda h, e: job(e, "wc").status.update(state="CANCELLED"),
        "'wc'",
    ),
    (
        "C9 a job that was seen, though its submit was never answered, is gone in the end",
        clients.linearizable,
        lambda h, e: (
            h.extend(call(93, 3, "submit", "ghost", {}, "info")),
            h.extend(call(94, 4, "status", "ghost", {"state": "RUNNING"})),
            e.jobs.append(Job(id="ghost")),
        ),
        "'ghost'",
    ),
    (
        "C6 all masters show another end than the cluster says",
        consensus.views,
        lambda h, e: [m.view["dead"].update(state="SUCCEEDED") for m in e.masters],
        "shows dead as SUCCEEDED",
    ),
    (
        "C6 a master lacks a job",
        consensus.views,
        lambda h, e: e.masters[1].view.pop("wc"),
        "shows wc as nothing",
    ),
    (
        "C2 a log with entries of a term that its disk does not know",
        consensus.logs,
        lambda h, e: [m.dump[0].update(term=0) for m in e.masters],
        "its disk knows term 0",
    ),
    (
        "C3 a log that ends before it says",
        consensus.logs,
        lambda h, e: e.masters[0].dump[0].update(last=99),
        "its log ends at 99",
    ),
    (
        "T2 an attempt is written before it begins",
        attempts.granted,
        lambda h, e: lines(e, "begun")[0].update(t=int(60e9)),
        "and begun at 60.000 s",
    ),
    (
        "T9 a reduce merged what nobody wrote",
        attempts.barrier,
        lambda h, e: reduces(e).update(runs=[[0, 9]]),
        "attempt 9 of map 0, which nobody has written",
    ),
    (
        "T9 a reduce merged one map twice",
        attempts.barrier,
        lambda h, e: reduces(e).update(runs=[*reduces(e)["runs"], *reduces(e)["runs"]]),
        "merged map 0 more than once",
    ),
    (
        "D3 a job that succeeded has no manifest",
        data.manifests,
        lambda h, e: setattr(job(e, "wc"), "manifest", None),
        "has no manifest",
    ),
    (
        "D3 a file is listed twice",
        data.manifests,
        lambda h, e: job(e, "wc").manifest["files"].append(dict(job(e, "wc").manifest["files"][0])),
        "2 times",
    ),
    (
        "D5 a cancelled job was seen published",
        data.visibility,
        lambda h, e: h.append(event(9, "note", "published", {"job": "dead"})),
        "is CANCELLED",
    ),
    (
        "T10 a task too many",
        clients.conservation,
        lambda h, e: h.extend(
            call(95, 3, "status", "wc", {"state": "RUNNING", "tasks": [[0, "map", 3, 3, 0, 0]]})
        ),
        "and now 3",
    ),
    (
        "T10 less than nothing waits",
        clients.conservation,
        lambda h, e: h.extend(
            call(96, 3, "status", "x", {"state": "RUNNING", "tasks": [[0, "map", 2, -1, 1, 2]]})
        ),
        "make 2",
    ),
    (
        "C10 a submit is answered with another job",
        clients.requests,
        lambda h, e: h.extend(call(97, 3, "submit", "y", {"job": "z", "existed": False})),
        "was answered with z",
    ),
    (
        "C2 a leader whom nobody's disk has voted for",
        consensus.votes,
        lambda h, e: (third(e, vote=None), member(e, 1).update(vote="b")),
        "without a majority of votes: b voted for b; c did not vote",
    ),
    (
        "C2 a vote is forgotten, and the term with it",
        consensus.votes,
        lambda h, e: (third(e, term=0), member(e, 1).update(term=0)),
        "b never came to term 1",
    ),
    (
        "C4 a later leader wrote over what was committed",
        consensus.completeness,
        lambda h, e: e.masters[1].dump[4].update(term=2, digest="zz", committed=False),
        "lacked what was committed",
    ),
    (
        "C4 a later leader's log was shorter",
        consensus.completeness,
        lambda h, e: (e.masters[1].dump.pop(4), e.masters[1].dump[3].update(term=3, committed=False)),
        "lacked what was committed",
    ),
    (
        "C4 the last leader lacks what it said was committed",
        consensus.completeness,
        lambda h, e: h.append(master(6, "a", "leader", 1, 9)),
        "with a log to index 4",
    ),
    (
        "C15 a write without a majority",
        refusals.honest,
        lambda h, e: (
            third(e),
            h.extend(cut(ALONE)),
            h.extend(call(73, 11, "submit", "x", {"job": "x", "existed": False})),
        ),
        "no majority of masters could talk",
    ),
    (
        "C15 a cancel while every master was dead",
        refusals.honest,
        lambda h, e: (
            h.extend(cut([], kind="kill-all-masters")),
            h.extend(call(73, 11, "cancel", "x", {"state": "CANCELLED"})),
        ),
        "every master was dead",
    ),
    (
        "C15 a call that hangs",
        refusals.honest,
        lambda h, e: h.extend([event(10, "invoke", "cancel", {"job": "wc"}, id=74), event(99, "note", "x")]),
        "had no answer after 89.0 s",
    ),
    (
        "C15 an answer long after its deadline",
        refusals.honest,
        lambda h, e: h.extend(
            [
                event(10, "invoke", "status", {"job": "wc"}, id=74),
                event(60, "fail", "status", {"error": "Unavailable"}, id=74),
            ]
        ),
        "took 50.0 s",
    ),
    (
        "C15 an error that is none of ours",
        refusals.honest,
        lambda h, e: h.extend(call(74, 10, "cancel", "wc", {"error": "AttributeError", "text": "!"}, "info")),
        "no error of ours",
    ),
    ("D12 a full output is taken", refusals.occupied, lambda h, e: h.extend(occupied("")), "it was accepted"),
    (
        "D12 refused for another reason",
        refusals.occupied,
        lambda h, e: h.extend(occupied("QUOTA")),
        "refused as QUOTA",
    ),
    (
        "D12 something there changed",
        refusals.occupied,
        lambda h, e: h.extend(occupied(after="bb")),
        "x changed",
    ),
    ("D12 the job exists", refusals.occupied, lambda h, e: h.extend(occupied(job="wc")), "has the job"),
    (
        "T5 three attempts at once",
        limits.leases,
        lambda h, e: e.workers.extend(crowd(3)),
        "3 attempts of 0.m-00009",
    ),
    ("T13 a job starves", limits.starvation, lambda h, e: starved(e, 40), "got nothing from"),
    (
        "T15 a log that is never trimmed",
        limits.bounded,
        lambda h, e: h.append(
            event(9, "note", "master", {"role": "leader", "term": 1, "log": 9000}, node="a")
        ),
        "9000 entries",
    ),
    (
        "T15 a snapshot that grows with what is gone",
        limits.bounded,
        lambda h, e: e.masters[0].dump.append({"type": "snapshot", "index": 1, "bytes": 9 << 20}),
        "for 2 jobs",
    ),
    (
        "S6 a large message is taken",
        limits.oversized,
        lambda h, e: setattr(e.probes[2], "answer", "OK"),
        "took a",
    ),
    (
        "S6 memory grows with it",
        limits.oversized,
        lambda h, e: setattr(e.probes[2], "grew", 1 << 30),
        "grew by",
    ),
    (
        "S1 a stranger is answered",
        access.strangers,
        lambda h, e: setattr(e.probes[0], "answer", "NOT_FOUND"),
        "to another CA",
    ),
    (
        "S2 a worker submits",
        access.roles,
        lambda h, e: setattr(e.probes[1], "answer", "INVALID_ARGUMENT"),
        "a worker",
    ),
    (
        "S2 another user ends a job",
        access.roles,
        lambda h, e: h.extend(call(78, 8, "trespass", "wc", {"refused": ""})),
        "answered that it is done",
    ),
    (
        "S5 another user sees the environment of a job",
        access.roles,
        lambda h, e: h.extend(call(78, 8, "trespass", "wc", {"refused": "NotAllowed", "shown": ["Watch"]})),
        "wc: Watch showed its environment",
    ),
    (
        "S4 a task reads a key",
        access.peeks,
        lambda h, e: e.peeks[0].found.append("the key ca.key"),
        "read the key ca.key",
    ),
    ("S7 a cancel leaves no line", access.audits, lambda h, e: e.audits.pop(), "Cancel of dead"),
    ("S7 nobody did it", access.audits, lambda h, e: setattr(e.audits[0], "identity", ""), "by nobody"),
    (
        "D7 a reduce merged what was deleted before it was assigned",
        data.damage,
        lambda h, e: h.append(damaged("delete")),
        "nothing was left",
    ),
]


@pytest.mark.parametrize(("promise", "checker", "spoil", "words"), MORE, ids=[row[0] for row in MORE])
def test_a_broken_promise_is_found(
    promise: str, checker: Callable[..., Verdict], spoil: Spoil, words: str
) -> None:
    history, evidence = good()
    spoil(history, evidence)
    verdict = checker(history, evidence)
    assert verdict.outcome is Outcome.INVALID, promise
    assert words in verdict.reason, verdict.reason
    assert verdict.excerpt, "a violation shows the smallest excerpt"
    assert verdict.invariants


FINE: list[tuple[str, Callable[..., Verdict], Spoil]] = [
    ("T6 a job ends at its deadline", limits.deadlines, late(33)),
    ("T4 it was told", workers.leaving, left("written", "settled")),
    ("T4 it was told that nobody wants it", workers.leaving, left("written", "cancelled")),
    ("T4 its job had ended", workers.leaving, left("failed", "forgotten")),
    ("T4 it waited as long as it must", workers.leaving, left("written", took=26)),
    (
        "T6 a deadline counts no time in which nobody could lead",
        limits.deadlines,
        lambda h, e: (
            late(60)(h, e),
            h.extend(cut([], until=55.0)),
            h.append(event(26, "note", "begins", "masters-apart", id=70, who="nemesis")),
        ),
    ),
    (
        "D5 a cancelled job has another one's output where its own would be",
        data.file_sets,
        lambda h, e: setattr(job(e, "dead"), "elsewhere", True),
    ),
    (
        "T15 what is kept of much that was printed",
        limits.bounded,
        lambda h, e: e.workers[0].logs.update({"wc/0.m-00000.a1.log": (8 << 20) + (64 << 10) + 40}),
    ),
    (
        "T6 on a busy machine its time was over before its first record, as often as is promised",
        clients.ends,
        lambda h, e: (
            setattr(job(e, "wc"), "expected", "FAILED"),
            setattr(job(e, "wc"), "shape", "hostile-forever"),
            job(e, "wc").status.update(
                state="FAILED",
                failure={"cause": "TASK_TIMEOUT", "message": "its deadline passed", "task": "m-7"},
            ),
            e.workers[0].journal.extend(
                line(6 + n, "failed", f"0.m-00007.a{n}", cause="TASK_TIMEOUT") for n in (1, 2)
            ),
        ),
    ),
    (
        "D12 a second job is refused while the first one lives",
        refusals.occupied,
        lambda h, e: h.extend(call(74, 8, "rival", "second", {"refused": "OUTPUT_IN_USE"})),
    ),
    (
        "C14 it has what was committed a while ago",
        limits.keeping_up,
        lambda h, e: h.extend(behind(applied=9)),
    ),
    ("C15 it was paused meanwhile", limits.stepping_down, lambda h, e: h.extend(two_leaders(silent=True))),
    ("C15 it gave up in time", limits.stepping_down, lambda h, e: h.extend(two_leaders(until=32))),
    (
        "FC21 a new leader's clock is wrong",
        limits.times,
        lambda h, e: e.jobs[0].events.extend([told(900, 9_000), told(901, 3_609_000, "LeaderChanged")]),
    ),
    ("C14 it has only just started", limits.keeping_up, lambda h, e: h.extend(behind(up_ms=3000))),
    (
        "C14 a fault is at work, and not done yet",
        limits.keeping_up,
        lambda h, e: h.extend(
            [
                event(44, "note", "begins", "kill-burst", id=78),
                *behind(),
                event(61, "hurt", "kill-burst", {}, id=78),
                event(62, "heal", "kill-burst", id=78),
            ]
        ),
    ),
    (
        "T4 it was dropped before",
        attempts.losses,
        lambda h, e: (came_without(e), e.workers[0].journal.append(line(2, "dropped", "0.m-00000.a1"))),
    ),
    (
        "T4 its worker began a new life",
        attempts.losses,
        lambda h, e: (
            came_without(e),
            e.workers[0].journal.append(line(2, "joined", life="L9", leader="a", term=1)),
        ),
    ),
    (
        "T4 its disk failed",
        attempts.losses,
        lambda h, e: (
            came_without(e),
            h.append(event(1, "hurt", "worker-read-eio", {"node": "w1"}, id=73)),
        ),
    ),
    (
        "T4 it was damaged",
        attempts.losses,
        lambda h, e: (came_without(e), h.append(damaged("flip", attempt=1))),
    ),
    (
        "C9 a retry is asked for by the name of the first",
        clients.acknowledged,
        lambda h, e: e.jobs.append(Job(id="wc-r1", status={"state": "RUNNING"})),
    ),
    (
        "C9 a job that a fault submitted itself",
        clients.acknowledged,
        lambda h, e: e.jobs.append(Job(id="errand-0003", status={"state": "RUNNING"})),
    ),
    (
        "T2 a worker whose disk fails may write no lines",
        attempts.granted,
        lambda h, e: (
            h.append(event(1, "hurt", "worker-read-only", {"node": "w1"}, id=73)),
            e.workers[0].journal.clear(),
        ),
    ),
    (
        "T2 nor one whose disk was taken away, wherever that was",
        attempts.granted,
        lambda h, e: (
            h.append(event(1, "hurt", "worker-disk-lost", {}, id=73)),
            e.workers[0].journal.clear(),
        ),
    ),
    (
        "C2 a member that did not vote does not make its leader false",
        consensus.votes,
        lambda h, e: third(e, vote=None),
    ),
    (
        "C2 a member that went on to a later term is not asked about the earlier",
        consensus.votes,
        lambda h, e: (third(e, term=5, vote="b"), member(e, 1).update(term=5, vote="b")),
    ),
    (
        "C2 a disk that was taken away has forgotten lawfully",
        consensus.votes,
        lambda h, e: (
            third(e, vote=None),
            member(e, 1).update(term=0),
            h.append(event(4, "hurt", "wiped-master", {"node": "b"}, id=75)),
        ),
    ),
    (
        "C2 a disk that was taken away begins anew",
        consensus.terms,
        lambda h, e: h.extend(
            [
                master(8, "b", "follower", 7),
                event(8.5, "hurt", "wiped-master", {"node": "b"}, id=75),
                master(9, "b", "non-voter", 1),
            ]
        ),
    ),
    (
        "C4 a follower that lags has an old entry that nobody committed",
        consensus.completeness,
        lambda h, e: (third(e), e.masters[2].dump[4].update(term=0, digest="old", committed=False)),
    ),
    (
        "C15 a majority on one side may write",
        refusals.honest,
        lambda h, e: (
            third(e),
            h.extend(cut(ALONE[:4])),
            h.extend(call(73, 11, "submit", "x", {"job": "x", "existed": False})),
        ),
    ),
    (
        "C15 what was asked before the cut may be answered in it",
        refusals.honest,
        lambda h, e: (
            third(e),
            h.extend(cut(ALONE)),
            h.append(event(9.9, "invoke", "cancel", {"job": "wc"}, id=76)),
            h.append(event(10.1, "ok", "cancel", {"state": "CANCELLED"}, id=76)),
        ),
    ),
    (
        "C15 a power cut of one is no partition",  # found by a campaign, seed 865292954: the checker crashed
        refusals.honest,
        lambda h, e: (
            third(e),
            h.extend(cut([{"node": "a", "lived": True, "bytes": 7}], kind="power-cut")),  # type: ignore[list-item]  # as it is
            h.extend(call(73, 11, "submit", "x", {"job": "x", "existed": False})),
        ),
    ),
    (
        "C15 a cut that is not proven is no cut",
        refusals.honest,
        lambda h, e: (
            third(e),
            h.extend(cut(ALONE)[:3]),
            h.extend(call(73, 11, "submit", "x", {"job": "x", "existed": False})),
        ),
    ),
    (
        "S2 another user is refused",
        access.roles,
        lambda h, e: h.extend(call(78, 8, "trespass", "wc", {"refused": "NotAllowed"})),
    ),
    ("D12 a refusal that touches nothing", refusals.occupied, lambda h, e: h.extend(occupied())),
    ("T5 an attempt and its backup", limits.leases, lambda h, e: e.workers.extend(crowd(2))),
    (
        "T5 a worker that was away is not counted",
        limits.leases,
        lambda h, e: (
            e.workers.extend(crowd(3)),
            e.workers[-1].journal.insert(3, line(5.2, "joined", leader="a", term=2)),
        ),
    ),
    ("T13 nobody else got anything either", limits.starvation, lambda h, e: starved(e, 3)),
    (
        "T13 what comes after the end of a job is not waiting",
        limits.starvation,
        lambda h, e: (starved(e, 40), e.jobs[0].status.update(submitted_ms=1_000, ended_ms=5_000)),
    ),
    (
        "T13 where there are too many jobs, all of them wait",
        limits.starvation,
        lambda h, e: starved(e, 70, jobs=35),
    ),
    (
        "T13 a new leader counts anew",
        limits.starvation,
        lambda h, e: (starved(e, 80), h.append(master(58, "b", "leader", 9, 9))),
    ),
    (
        "T13 something hurt meanwhile",
        limits.starvation,
        lambda h, e: (starved(e, 40), h.append(event(40, "hurt", "halves", {}, id=77))),
    ),
    (
        "S4 without isolation nothing is promised",
        access.peeks,
        lambda h, e: (e.peeks[0].found.append("the key ca.key"), setattr(e.peeks[0], "isolation", "none")),
    ),
    ("D7 a bit may stand where no reduce reads", data.damage, lambda h, e: h.append(damaged("flip"))),
]


@pytest.mark.parametrize(("promise", "checker", "spoil"), FINE, ids=[row[0] for row in FINE])
def test_what_is_allowed_is_not_blamed(promise: str, checker: Callable[..., Verdict], spoil: Spoil) -> None:
    history, evidence = good()
    spoil(history, evidence)
    verdict = checker(history, evidence)
    assert verdict.outcome is Outcome.VALID, f"{promise}: {verdict.reason}"


LACKING: list[tuple[Callable[..., Verdict], Spoil]] = [
    (consensus.votes, lambda h, e: e.masters.clear()),
    (consensus.completeness, lambda h, e: e.masters.clear()),
    (refusals.honest, lambda h, e: h.clear()),
    (limits.leases, lambda h, e: e.workers.clear()),
    (limits.starvation, lambda h, e: h.clear()),
    (limits.bounded, lambda h, e: h.clear()),
    (limits.oversized, lambda h, e: e.probes.clear()),
    (access.strangers, lambda h, e: e.probes.clear()),
    (access.roles, lambda h, e: e.probes.clear()),
    (access.audits, lambda h, e: h.clear()),
]


@pytest.mark.parametrize(("checker", "take_away"), LACKING, ids=[row[0].__name__ for row in LACKING])
def test_without_its_evidence_a_checker_says_unknown_and_which(
    checker: Callable[..., Verdict], take_away: Spoil
) -> None:
    history, evidence = good()
    take_away(history, evidence)
    verdict = checker(history, evidence)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "no evidence: " in verdict.reason


def test_every_checker_has_a_row() -> None:
    assert {checker for _, checker, _, _ in (*BAD, *MORE)} == set(checkers.CHECKERS)
