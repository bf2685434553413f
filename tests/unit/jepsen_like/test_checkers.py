"""Every checker on good evidence and on evidence that was spoilt in one place: it must tell them apart, and say why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from jepsen_like import checkers
from jepsen_like import checkers_attempts as attempts
from jepsen_like import checkers_clients as clients
from jepsen_like import checkers_consensus as consensus
from jepsen_like import checkers_data as data
from jepsen_like.evidence import Audit, Evidence, Job, Mark, Master, Peek, Probe, Worker
from jepsen_like.history import Event
from jepsen_like.run import RunConfig, calm_s, slowness
from jepsen_like.verdict import Outcome, Verdict

S = 1_000_000_000
DIGEST = {"part-r-00000": {"bytes": 5, "sha256": "aa"}, "part-r-00001": {"bytes": 0, "sha256": "bb"}}


def event(
    t: float, kind: str, op: str, value: Any = None, *, id: int = 0, node: str = "", who: str = "c"
) -> Event:
    return Event(t=int(t * S), process=who, kind=kind, op=op, value=value, node=node, id=id)


def call(number: int, t: float, op: str, job: str, answer: Any, kind: str = "ok", **more: Any) -> list[Event]:
    asked = {"job": job, **more}
    return [event(t, "invoke", op, asked, id=number), event(t + 0.1, kind, op, answer, id=number)]


def master(t: float, id: str, role: str, term: int, commit: int = 0) -> Event:
    told = {"role": role, "term": term, "commit": commit, "log": 10}
    return event(t, "note", "master", told, node=id, who="watcher")


def line(t: float, what: str, attempt: str = "", life: str = "L1", **more: Any) -> dict[str, Any]:
    return {"t": int(t * S), "life": life, "what": what, "job": "wc", "attempt": attempt, **more}


def ran(
    t: float, attempt: str, index: int, *, accepted: bool = True, life: str = "L1", **begun: Any
) -> list[dict[str, Any]]:
    """An attempt from its order to its verdict."""
    return [
        line(t, "assigned", attempt, life, term=1, index=index),
        line(t + 0.1, "begun", attempt, life, term=1, runs=begun.get("runs", [])),
        line(t + 0.5, "written", attempt, life),
        line(t + 0.6, "settled", attempt, life, term=1, index=index + 1, accepted=accepted),
    ]


def good() -> tuple[list[Event], Evidence]:
    """One job of one map and one reduce, on two workers and two masters, with one fault."""
    history = [
        event(0, "note", "run", {}),
        master(0.1, "a", "leader", 1, 1),
        master(0.1, "b", "follower", 1),
        *call(1, 1, "submit", "wc", {"job": "wc", "existed": False, "index": 3}),
        *call(2, 1.5, "status", "wc", {"state": "RUNNING", "tasks": [[0, "map", 2, 1, 1, 0]]}),
        event(2, "hurt", "kill-worker", {"node": "w1"}, id=10, who="nemesis"),
        *call(3, 2.2, "status", "wc", {"state": "RUNNING", "tasks": [[0, "map", 2, 0, 0, 2]]}),
        event(2.9, "note", "heals", "kill-worker", id=10, who="nemesis"),
        event(3, "heal", "kill-worker", id=10, who="nemesis"),
        event(3, "proof", "kill-worker", {"status": -9}, id=10, who="nemesis"),
        master(5, "a", "leader", 1, 4),
        event(6, "note", "published", {"job": "wc", "missing": []}, who="reader"),
        *call(4, 6.5, "wait", "wc", {"state": "SUCCEEDED"}),
        *call(5, 7, "submit", "dead", {"job": "dead", "existed": False, "index": 20}),
        *call(6, 7.5, "cancel", "dead", {"state": "CANCELLED"}),
    ]
    entries = [
        {"type": "entry", "index": n, "term": 1, "digest": f"d{n}", "committed": True} for n in range(1, 5)
    ]
    states = [{"type": "state", "index": 4, "hash": "h4"}]
    view = {"wc": {"state": "SUCCEEDED", "counters": {"mr:x": 1}, "reruns": {}, "attempts": 3}}
    view["dead"] = {"state": "CANCELLED", "counters": {}, "reruns": {}, "attempts": 0}
    evidence = Evidence(
        jobs=[
            Job(
                id="wc",
                shape="wordcount",
                reduces=2,
                status={
                    "state": "SUCCEEDED",
                    "reason": "",
                    "counters": {"mr:map_records_in": 3, "mr:map_records_out": 4, "mr:reduce_records_in": 4},
                    "reruns": {"worker lost": 1},
                    "failure": None,
                },
                events=[{"type": "MapOutputLost", "task": "m-0", "attempt": 1, "index": 8, "worker": "w1"}],
                output={**copy.deepcopy(DIGEST), "_SUCCESS": {"bytes": 9, "sha256": "cc"}},
                manifest={
                    "files": [
                        {"name": n, "records": r, **DIGEST[n]}
                        for n, r in (("part-r-00000", 2), ("part-r-00001", 0))
                    ],
                    "counters": {"mr:map_records_in": 3, "mr:map_records_out": 4, "mr:reduce_records_in": 4},
                },
                reference=dict(DIGEST),
                counters={"mr:map_records_in": 3},
            ),
            Job(
                id="dead",
                shape="tiny",
                status={"state": "CANCELLED", "reason": "", "counters": {}, "reruns": {}, "failure": None},
            ),
        ],
        workers=[
            Worker(id="w1", journal=[line(0, "joined", leader="a", term=1), *ran(1, "0.m-00000.a1", 5)]),
            Worker(
                id="w2",
                journal=[
                    line(0, "joined", life="L2", leader="a", term=1),
                    *ran(3, "0.m-00000.a2", 9, life="L2"),
                    *ran(4, "0.r-00000.a1", 11, life="L2", runs=[[0, 2]]),
                ],
            ),
        ],
        masters=[
            Master(
                id=id,
                dump=[
                    {"type": "member", "term": 1, "vote": "a", "last": 4},
                    *copy.deepcopy(entries),
                    *copy.deepcopy(states),
                ],
                view=copy.deepcopy(view),
            )
            for id in "ab"
        ],
        marks=[Mark(job="wc", task="m-0", attempt=1, t=S), Mark(job="wc", task="m-0", attempt=2, t=3 * S)],
        probes=[
            Probe(
                who="another CA", server="a", port="grpc", method="/mr.Cluster/GetJob", answer="UNAVAILABLE"
            ),
            Probe(
                who="worker", server="a", port="grpc", method="/mr.Cluster/Submit", answer="PERMISSION_DENIED"
            ),
            Probe(
                who="client",
                server="a",
                port="grpc",
                method="/mr.Cluster/Submit",
                answer="RESOURCE_EXHAUSTED",
                bytes=40 << 20,
            ),
        ],
        audits=[
            Audit(master="a", method="Submit", job="wc", identity="client", outcome="ok"),
            Audit(master="a", method="Submit", job="dead", identity="client", outcome="ok"),
            Audit(master="a", method="Cancel", job="dead", identity="client", outcome="ok"),
        ],
        peeks=[Peek(job="peek", task="m-0", isolation="namespaces")],
        config={"settings": {"MR_MASTER__SNAPSHOT_EVERY": "300"}},
        secrets_searched=1000,
        healed_t=3 * S,
        calm_s=4,
    )
    return history, evidence


def test_good_evidence_is_valid_by_every_checker() -> None:
    history, evidence = good()
    verdicts = checkers.judge(history, evidence)
    assert {v.checker: v.reason for v in verdicts if v.outcome is not Outcome.VALID} == {}


def _job(evidence: Evidence) -> Job:
    return evidence.jobs[0]


def _journal(evidence: Evidence, worker: int) -> list[dict[str, Any]]:
    return evidence.workers[worker].journal


BAD: list[tuple[str, Callable[..., Verdict], Callable[[list[Event], Evidence], Any], str]] = [
    # consensus
    (
        "C1 two leaders of a term",
        consensus.elections,
        lambda h, e: h.append(master(6, "b", "leader", 1)),
        "term 1 had 2 leaders",
    ),
    (
        "C1 a worker was welcomed by another leader of the term",
        consensus.elections,
        lambda h, e: _journal(e, 1).append(line(5, "joined", leader="b", term=1)),
        "2 leaders",
    ),
    (
        "C2 a term falls",
        consensus.terms,
        lambda h, e: h.extend([master(8, "b", "follower", 7), master(9, "b", "follower", 2)]),
        "term 2",
    ),
    (
        "C2 the disk has forgotten",
        consensus.terms,
        lambda h, e: h.append(master(8, "b", "follower", 7)),
        "its disk says 1",
    ),
    (
        "C5 two committed entries",
        consensus.logs,
        lambda h, e: e.masters[1].dump[3].update(digest="xx", term=1),
        "committed at index 3",
    ),
    (
        "C3 one term, two contents",
        consensus.logs,
        lambda h, e: e.masters[1].dump[3].update(digest="xx", committed=False),
        "one term, two contents",
    ),
    (
        "C3 an agreement above a difference",
        consensus.logs,
        lambda h, e: e.masters[1].dump[2].update(digest="xx", term=0, committed=False),
        "not before",
    ),
    ("C3 a hole", consensus.logs, lambda h, e: e.masters[0].dump.pop(2), "goes from index 1 to 3"),
    (
        "C6 two states",
        consensus.states,
        lambda h, e: e.masters[0].dump[-1].update(hash="zz"),
        "after index 4",
    ),
    (
        "C6 two views",
        consensus.views,
        lambda h, e: e.masters[0].view["wc"].update(attempts=9),
        "looks different",
    ),
    (
        "T11 counters differ between masters",
        consensus.views,
        lambda h, e: e.masters[0].view["wc"].update(counters={}),
        "looks different",
    ),
    # clients
    (
        "C8 an acknowledged job is gone",
        clients.acknowledged,
        lambda h, e: e.jobs.pop(0),
        "acknowledged, but the job is gone",
    ),
    (
        "C9 a refused job exists",
        clients.acknowledged,
        lambda h, e: (
            h.extend(call(90, 8, "submit", "ghost", {}, "fail")),
            e.jobs.append(Job(id="ghost", status={"state": "QUEUED"})),
        ),
        "refused for certain",
    ),
    (
        "C11 a job vanishes",
        clients.linearizable,
        lambda h, e: h.extend(call(91, 9, "status", "wc", {"state": "absent"})),
        "no order",
    ),
    (
        "C11 a read of the past",
        clients.linearizable,
        lambda h, e: h.extend(call(91, 9, "status", "wc", {"state": "RUNNING"})),
        "no order",
    ),
    (
        "C10 two submits made it",
        clients.linearizable,
        lambda h, e: h.extend(call(91, 9, "submit", "wc", {"job": "wc", "existed": False})),
        "no order",
    ),
    (
        "T8 an end changes",
        clients.linearizable,
        lambda h, e: h.extend(call(91, 9, "status", "dead", {"state": "SUCCEEDED"})),
        "no order",
    ),
    (
        "C10 a request id makes two jobs",
        clients.requests,
        lambda h, e: h.extend(call(92, 9, "again", "wc", {"job": "wc-other"}, request="r1")),
        "made wc, then also wc-other",
    ),
    (
        "T7 a cancelled job succeeds",
        clients.cancels,
        lambda h, e: e.jobs[1].status.update(state="SUCCEEDED"),
        "but the job is SUCCEEDED",
    ),
    (
        "T7 a cancelled job has output",
        clients.cancels,
        lambda h, e: setattr(e.jobs[1], "output", dict(DIGEST)),
        "its output holds",
    ),
    (
        "T7 something is accepted after the cancel",
        clients.cancels,
        lambda h, e: _journal(e, 0).extend([{**row, "job": "dead"} for row in ran(9, "0.m-00001.a1", 40)]),
        "was accepted",
    ),
    (
        "T10 a task is missing",
        clients.conservation,
        lambda h, e: h.extend(
            call(93, 9, "status", "wc", {"state": "RUNNING", "tasks": [[0, "map", 2, 0, 0, 1]]})
        ),
        "has 2 tasks",
    ),
    ("T12 a job does not end", clients.liveness, lambda h, e: e.unfinished.append("wc"), "did not end"),
    (
        "C14 nobody commits after the heal",
        clients.liveness,
        lambda h, e: (h.remove(master(5, "a", "leader", 1, 4)), h.append(master(40, "a", "follower", 1))),
        "no leader committed",
    ),
    (
        "T6 a good job fails",
        clients.ends,
        lambda h, e: _job(e).status.update(state="FAILED"),
        "ended FAILED, not SUCCEEDED",
    ),
    (
        "T6 a poisoned job is given up too soon",
        clients.ends,
        lambda h, e: (
            setattr(_job(e), "expected", "FAILED"),
            _job(e).status.update(
                state="FAILED", failure={"cause": "USER_EXCEPTION", "message": "POISON", "task": "m-0"}
            ),
        ),
        "after 2 attempts",
    ),
    (
        "a node does not come back",
        clients.servers,
        lambda h, e: h.append(event(9, "note", "broken", "!b: no")),
        "!b",
    ),
    # attempts
    (
        "T1 two winners",
        attempts.one_winner,
        lambda h, e: _journal(e, 0).extend(ran(5, "0.r-00000.a2", 14)),
        "both accepted",
    ),
    (
        "T1 two winning maps, nothing lost",
        attempts.one_winner,
        lambda h, e: _job(e).events.clear(),
        "both accepted",
    ),
    (
        "T2 accepted, but never written",
        attempts.granted,
        lambda h, e: _journal(e, 1).remove(line(4.5, "written", "0.r-00000.a1", "L2")),
        "never wrote it",
    ),
    (
        "T5 an attempt begins twice",
        attempts.granted,
        lambda h, e: _journal(e, 0).extend(ran(5, "0.m-00000.a1", 5)),
        "began 2 times",
    ),
    (
        "T5 its first record is met twice",
        attempts.granted,
        lambda h, e: e.marks.append(Mark(job="wc", task="m-0", attempt=1, t=9)),
        "2 times",
    ),
    (
        "T4 a map runs again after a failover",
        attempts.no_rerun,
        lambda h, e: _job(e).events.clear(),
        "not lost",
    ),
    (
        "T4 a reduce runs again",
        attempts.no_rerun,
        lambda h, e: _journal(e, 0).extend(ran(6, "0.r-00000.a2", 30, accepted=False)),
        "was assigned at index 30",
    ),
    (
        "T9 a reduce lacks a map",
        attempts.barrier,
        lambda h, e: _journal(e, 0).append(line(1, "assigned", "0.m-00001.a1", term=1, index=5)),
        "without 1 of 2 maps",
    ),
    (
        "T9 a reduce merged what was replaced",
        attempts.barrier,
        lambda h, e: _journal(e, 1)[6].update(runs=[[0, 1]]),
        "with attempt 1 of map 0",
    ),
    (
        "T9 a reduce merged what the log had declared lost",
        attempts.barrier,
        lambda h, e: (_journal(e, 1)[6].update(runs=[[0, 1]]), _journal(e, 1).__delitem__(slice(1, 5))),
        "declared lost at index 8",
    ),
    (
        "C12 a worker obeys an old term",
        attempts.fenced,
        lambda h, e: _journal(e, 1).extend(
            [line(8, "assigned", "", "L2", term=5, index=1), line(9, "assigned", "", "L2", term=4, index=1)]
        ),
        "obeyed term 4",
    ),
    # data
    (
        "D1 other bytes",
        data.outputs,
        lambda h, e: _job(e).output["part-r-00000"].update(sha256="zz"),
        "differs from the reference",
    ),
    ("D1 a part is missing", data.outputs, lambda h, e: _job(e).output.pop("part-r-00001"), "is missing"),
    (
        "D2 a file too many",
        data.file_sets,
        lambda h, e: _job(e).output.update({"x.tmp": {"bytes": 0, "sha256": ""}}),
        "does not belong",
    ),
    ("D2 staging is left", data.file_sets, lambda h, e: setattr(e.jobs[1], "staging", True), "staging place"),
    ("D5 no marker", data.file_sets, lambda h, e: _job(e).output.pop("_SUCCESS"), "_SUCCESS is missing"),
    (
        "D5 a marker without success",
        data.file_sets,
        lambda h, e: _job(e).status.update(state="FAILED"),
        "its output holds",
    ),
    (
        "D4 a marker too soon",
        data.visibility,
        lambda h, e: h.append(event(6, "note", "torn", {"job": "wc", "missing": ["p"]})),
        "not p",
    ),
    (
        "D3 a wrong length",
        data.manifests,
        lambda h, e: _job(e).manifest["files"][0].update(bytes=6),
        "not what the manifest says",
    ),
    (
        "D3 a file that is not listed",
        data.manifests,
        lambda h, e: _job(e).manifest["files"].pop(),
        "not in the manifest",
    ),
    (
        "D3 records do not sum up",
        data.manifests,
        lambda h, e: _job(e).manifest["counters"].update({"mr:reduce_records_out": 7}),
        "lists 2 records",
    ),
    (
        "T11 a counter is counted twice",
        data.counters,
        lambda h, e: _job(e).status["counters"].update({"mr:map_records_in": 6}),
        "is 6, should be 3",
    ),
    (
        "D6 a record is lost between map and reduce",
        data.counters,
        lambda h, e: _job(e).status["counters"].update({"mr:reduce_records_in": 3}),
        "maps gave 4 records, reduces took 3",
    ),
    (
        "D8 an input changed",
        data.inputs,
        lambda h, e: _job(e).input_changed.append("0000.txt"),
        "has changed",
    ),
    (
        "D9 scratch stays",
        data.leftovers,
        lambda h, e: e.workers[0].scratch.append("jobs/wc"),
        "keeps scratch of wc",
    ),
    (
        "D9 a process stays",
        data.leftovers,
        lambda h, e: e.workers[0].processes.append("process 7"),
        "process 7",
    ),
    ("S5 a secret in a log", data.secrets, lambda h, e: e.secrets.append("w1/log"), "stands in w1/log"),
]


@pytest.mark.parametrize(("promise", "checker", "spoil", "words"), BAD, ids=[row[0] for row in BAD])
def test_a_broken_promise_is_found(
    promise: str, checker: Callable[..., Verdict], spoil: Callable[[list[Event], Evidence], Any], words: str
) -> None:
    history, evidence = good()
    spoil(history, evidence)
    verdict = checker(history, evidence)
    assert verdict.outcome is Outcome.INVALID, promise
    assert words in verdict.reason, verdict.reason
    assert verdict.excerpt, "a violation shows the smallest excerpt"
    assert verdict.invariants or checker is clients.servers


def test_the_base_of_a_log_is_a_place_and_no_content() -> None:
    """Found by a campaign, seed 860107359: after an install the base has the snapshot's term and a placeholder."""
    history, evidence = good()
    base = next(line for line in evidence.masters[1].dump if line["type"] == "entry")
    base |= {"kind": "base", "digest": "a placeholder"}
    assert consensus.logs(history, evidence).outcome is Outcome.VALID
    base["term"] += 1
    assert consensus.logs(history, evidence).outcome is Outcome.INVALID


@pytest.mark.parametrize(
    ("promise", "spoil"),
    [
        ("no proof", lambda h: [e for e in h if e.kind != "proof"]),
        (
            "an empty proof",
            lambda h: [event(3, "proof", "kill-worker", None, id=10) if e.kind == "proof" else e for e in h],
        ),
        (
            "a proof that counts nothing",
            lambda h: [
                event(3, "proof", "kill-worker", {"packets": {"a": 0, "b": 0}, "pid": 9}, id=10)
                if e.kind == "proof"
                else e
                for e in h
            ],
        ),
        ("no fault at all", lambda h: [e for e in h if e.process != "nemesis"]),
        (
            "no election",
            lambda h: [event(2, "hurt", "kill-leader", {}, id=10) if e.kind == "hurt" else e for e in h],
        ),
        ("nobody asked anything", lambda h: [e for e in h if e.kind != "invoke"]),
    ],
)
def test_a_run_without_proven_faults_is_void(
    promise: str, spoil: Callable[[list[Event]], list[Event]]
) -> None:
    history, evidence = good()
    verdicts = checkers.judge(spoil(history), evidence)
    assert next(v for v in verdicts if v.checker == "faults are proven").outcome is Outcome.UNKNOWN, promise
    assert checkers.overall(verdicts) is not Outcome.VALID


_KILLED = ["kill-worker"] * 4
VOID: list[tuple[str, dict[str, Any], list[str], list[str], bool]] = [
    # the run's config, faults proven, faults that were not, void
    ("a script is proven whole", {"script": [[1, "delay", 1]], "faults": "all"}, _KILLED, ["delay"], True),
    ("a history of somebody else's is proven whole", {}, _KILLED, ["delay"], True),
    ("of drawn ones four of five", {"faults": "all"}, _KILLED, ["delay"], False),
    ("fewer are too few", {"faults": "all"}, _KILLED[:3], ["delay"], True),
    (
        "of a mixed part four of five",
        {"faults": "kill-worker,delay", "each": True},
        _KILLED,
        ["delay"],
        False,
    ),
    ("what was named is proven", {"faults": "kill-worker,delay"}, _KILLED, ["delay"], True),
    ("once is enough", {"faults": "kill-worker,delay"}, [*_KILLED, "delay"], ["delay"], False),
]


@pytest.mark.parametrize(("promise", "config", "proven", "unproven", "void"), VOID)
def test_what_must_be_proven(
    promise: str, config: dict[str, Any], proven: list[str], unproven: list[str], void: bool
) -> None:
    history, evidence = good()
    evidence.config = config
    history = [e for e in history if e.process != "nemesis"]
    for number, name in enumerate([*proven, *unproven], start=100):
        history.append(event(2, "hurt", name, {}, id=number))
        history.append(event(3, "proof", name, {"it": 1} if number < 100 + len(proven) else None, id=number))
        history.append(event(3, "heal", name, id=number))
    history.sort(key=lambda e: e.t)
    verdict = clients.proofs(history, evidence)
    assert (verdict.outcome is Outcome.UNKNOWN) is void, verdict.reason


@pytest.mark.parametrize(
    "proof",
    [
        {"free blocks": 0},
        {"status": -9},
        {"bytes": 0, "cuts": 1},
        {"damaged": [{"file": "x", "how": "flip", "at": 0, "size": 0}], "refused": ""},
        {"from": "a", "to": "b", "term": 0},
    ],
    ids=str,
)
def test_what_counts_nothing_may_still_be_a_proof(proof: dict[str, Any]) -> None:
    """A disk is full when no block is free."""
    history, evidence = good()
    history = [event(3, "proof", "kill-worker", proof, id=10) if e.kind == "proof" else e for e in history]
    assert clients.proofs(history, evidence).outcome is Outcome.VALID


def test_no_evidence_is_unknown_not_valid() -> None:
    verdicts = checkers.judge([], Evidence())
    assert checkers.overall(verdicts) is Outcome.UNKNOWN
    assert Outcome.INVALID not in {v.outcome for v in verdicts}


def test_a_checker_that_crashes_says_unknown() -> None:
    history, evidence = good()
    _journal(evidence, 0)[2].pop("runs")
    found = [v for v in checkers.judge(history, evidence) if "crashed" in v.reason]
    assert found
    assert {v.outcome for v in found} == {Outcome.UNKNOWN}


@pytest.mark.parametrize(
    ("promise", "history", "outcome"),
    [
        (
            "a timeout may have taken effect",
            [*call(1, 0, "submit", "x", {}, "info"), *call(2, 1, "status", "x", {"state": "QUEUED"})],
            Outcome.VALID,
        ),
        (
            "or not",
            [*call(1, 0, "submit", "x", {}, "info"), *call(2, 1, "status", "x", {"state": "absent"})],
            Outcome.VALID,
        ),
        (
            "but once seen it stays",
            [
                *call(1, 0, "submit", "x", {}, "info"),
                *call(2, 1, "status", "x", {"state": "QUEUED"}),
                *call(3, 2, "status", "x", {"state": "absent"}),
            ],
            Outcome.INVALID,
        ),
        (
            "a cancel that timed out may win",
            [
                *call(1, 0, "submit", "x", {"existed": False}),
                *call(2, 1, "cancel", "x", {}, "info"),
                *call(3, 2, "status", "x", {"state": "CANCELLED"}),
            ],
            Outcome.VALID,
        ),
        (
            "nobody cancelled it",
            [
                *call(1, 0, "submit", "x", {"existed": False}),
                *call(3, 2, "status", "x", {"state": "CANCELLED"}),
            ],
            Outcome.INVALID,
        ),
        (
            "a cancel that came too late names the end",
            [
                *call(1, 0, "submit", "x", {"existed": False}),
                *call(2, 1, "cancel", "x", {"state": "SUCCEEDED"}),
            ],
            Outcome.VALID,
        ),
        (
            "a cancel cannot win after the end",
            [
                *call(1, 0, "status", "x", {"state": "absent"}),
                *call(2, 1, "cancel", "x", {"state": "CANCELLED"}),
            ],
            Outcome.INVALID,
        ),
    ],
)
def test_histories_of_known_verdict(promise: str, history: list[Event], outcome: Outcome) -> None:
    """What `mr verify history.jsonl` judges: no evidence, only what clients were told (C11)."""
    assert checkers.judge(history, None)[0].outcome is outcome, promise


def register(number: int, t: float, op: str, value: Any, answer: Any, kind: str = "ok") -> list[Event]:
    asked = {"key": "x", "value": value}
    return [event(t, "invoke", op, asked, id=number), event(t + 0.5, kind, op, answer, id=number)]


@pytest.mark.parametrize(
    ("promise", "history", "outcome"),
    [
        (
            "a read sees the write",
            [*register(1, 0, "write", 1, None), *register(2, 1, "read", None, 1)],
            Outcome.VALID,
        ),
        (
            "a stale read",
            [*register(1, 0, "write", 1, None), *register(2, 1, "read", None, None)],
            Outcome.INVALID,
        ),
        (
            "a refused write is not seen",
            [*register(1, 0, "write", 1, {}, "fail"), *register(2, 1, "read", None, 1)],
            Outcome.INVALID,
        ),
        (
            "a lost one may be",
            [*register(1, 0, "write", 1, {}, "info"), *register(2, 1, "read", None, 1)],
            Outcome.VALID,
        ),
    ],
)
def test_register_histories_of_known_verdict(promise: str, history: list[Event], outcome: Outcome) -> None:
    assert checkers.overall(checkers.judge(history, None)) is outcome, promise


@pytest.mark.parametrize(
    ("waiting", "seconds"), [(0, 120.0), (12, 120.0), (60, 360.0)], ids=["none", "a few", "a long storm's"]
)
def test_the_calm_is_long_enough_for_the_jobs_that_wait(waiting: int, seconds: float) -> None:
    """T12: twice the time without faults, and a minute."""
    assert calm_s(RunConfig(seed=1, job_every_s=2.5), waiting) == seconds


@pytest.mark.parametrize(
    ("promise", "load", "cores", "slower"),
    [
        ("a cluster in its storm is no reason", 6.0, 2, 1.0),
        ("where others want as much again, things take twice as long", 12.0, 2, 2.0),
        ("but not for ever", 99.0, 2, 5.0),
        ("more processors carry more", 12.0, 8, 1.0),
    ],
)
def test_a_machine_with_other_work_may_take_longer(
    promise: str, load: float, cores: int, slower: float
) -> None:
    assert slowness(load, cores) == slower, promise
    assert calm_s(RunConfig(seed=1), 0, slower) == 120.0 * slower
