"""What clients were told, judged: C8 to C11, C14, T7, T8, T10, T12, and whether the run proves anything at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from jepsen_like import linearizability
from jepsen_like.checkers_consensus import verdict
from jepsen_like.evidence import Evidence, Job, full_name
from jepsen_like.history import Event
from jepsen_like.model import (
    JOB_OPS,
    OTHER_OPS,
    REGISTER_OPS,
    JobModel,
    denied,
    operations,
    register_operations,
)
from jepsen_like.operation import Model, Operation
from jepsen_like.verdict import Outcome, Verdict
from jepsen_like.workloads import ERRAND, attempts_of, failure_of

ENDS = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
# Faults that cost the leader its office: a run with one of them claims an election.
ELECTING = frozenset(
    {"kill-leader", "leader-alone", "kill-all-masters", "power-cut-all", "transfer-leadership"}
)
FAILOVER_S = 10.0  # from the last heal until a leader commits (C14)


def linearizable(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C11, C10, T7, T8: for each job one order explains every answer, and how the job stands in the end."""
    return _linear(operations, [*history, *_last_reads(history, evidence)], JobModel())


def _last_reads(history: Sequence[Event], evidence: Evidence) -> list[Event]:
    """What the cluster said of each job that a client asked for, when all was over."""
    asked = set(_calls(history, "submit").values())
    t = max((event.t for event in history), default=0) + 1
    id = max((event.id for event in history), default=0) + 1
    reads = []
    for number, job in enumerate(one for one in evidence.jobs if one.id in asked):
        state = job.status["state"] if job.status else "absent"
        for kind, value in (("invoke", {"job": job.id}), ("ok", {"state": state})):
            at = t + (kind == "ok")
            reads.append(Event(t=at, process="the end", kind=kind, op="status", value=value, id=id + number))
    return reads


def registers(history: Sequence[Event], _evidence: Evidence) -> Verdict:
    """C11 for registers: read, write and cas of any system that recorded them."""
    return _linear(register_operations, history, linearizability.Register())


def understood(history: Sequence[Event], _evidence: Evidence) -> Verdict:
    """Whether every call is of a kind that some checker knows: what is not looked at must not look like innocence."""
    calls = [e for e in history if e.kind == "invoke"]
    strange = [e for e in calls if e.op not in JOB_OPS | REGISTER_OPS | OTHER_OPS]
    names = ", ".join(sorted({e.op for e in strange}))
    return Verdict(
        checker="every call is understood",
        outcome=Outcome.UNKNOWN if strange else Outcome.VALID,
        reason=f"{len(strange)} calls of a kind that nobody here knows: {names}" if strange else "",
        counted={"calls": len(calls)},
    )


def _linear(
    calls: Callable[[Sequence[Event]], list[Operation]], history: Sequence[Event], model: Model
) -> Verdict:
    try:
        return linearizability.check(calls(history), model, denied=denied(history))
    except ValueError as strange:
        return Verdict(
            checker="linearizability", outcome=Outcome.UNKNOWN, invariants=("C11",), reason=str(strange)
        )


def acknowledged(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C8: every job whose submit was answered exists in the end. C9: one that was only ever refused does not, and
    none that nobody asked for."""
    ids = {job.id: job for job in evidence.jobs}
    accepted: dict[str, Event] = {}
    for event in _answers(history, "submit", "ok"):
        accepted.setdefault(event.value["job"], event)
    calls = _calls(history, "submit")
    perhaps = {calls[e.id] for e in _answers(history, "submit", "info") if e.id in calls}
    perhaps |= {job for number, job in calls.items() if number not in _ended(history)}
    refused = (
        {calls[e.id] for e in _answers(history, "submit", "fail") if e.id in calls}
        - accepted.keys()
        - perhaps
    )
    wrong = [
        f"submit of {job} was acknowledged, but the job is gone: {event.process} was told so at {event.t / 1e9:.3f} s"
        for job, event in sorted(accepted.items())
        if _gone(ids, job)
    ]
    wrong += [
        f"submit of {job} was refused for certain, but the job exists"
        for job in sorted(refused)
        if _there(ids, job)
    ]
    asked = {*calls.values(), *_calls(history, "again").values()}
    wrong += [
        f"{job.id} exists, and nobody has submitted it"
        for job in evidence.jobs
        if job.status
        and job.id not in asked
        and not _tried_again(job.id, asked)
        and not job.id.startswith(f"{ERRAND}-")
    ]
    counted = {
        "acknowledged": len(accepted),
        "refused": len(refused),
        "unknown": len(perhaps - accepted.keys()),
    }
    return verdict("acknowledged jobs exist", ("C8", "C9"), wrong, counted, needs="acknowledged")


def requests(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C10: a request id has one effect: whatever it is sent with later, it answers with its first job."""
    wrong = []
    made = _calls(history, "submit")
    wrong += [
        f"submit of {made[e.id]} was answered with {e.value['job']}"
        for e in _answers(history, "submit", "ok")
        if isinstance(e.value, dict) and e.value.get("job", made[e.id]) != made[e.id]
    ]
    answers = _answers(history, "again", "ok")
    calls = {e.id: e.value for e in history if e.op == "again" and e.kind == "invoke"}
    for answer in answers:
        call = calls[answer.id]
        if answer.value["job"] != call["job"]:
            wrong.append(f"request {call['request']} made {call['job']}, then also {answer.value['job']}")
    listed = {job.id for job in evidence.jobs if job.status}
    wrong += [
        f"{job} exists, though its request id was another job's"
        for job in sorted(listed)
        if job.endswith("-other")
    ]
    return verdict("one request, one effect", ("C10",), wrong, {"repeated": len(answers)})


def cancels(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T7: once a cancel is answered CANCELLED, that is how the job ends; nothing of it commits later, and its output
    holds nothing."""
    ids = {job.id: job for job in evidence.jobs}
    calls = _calls(history, "cancel")
    wrong, counted = [], 0
    for event in _answers(history, "cancel", "ok"):
        if event.value["state"] != "CANCELLED" or event.id not in calls:
            continue
        counted += 1
        id = calls[event.id]
        job = ids.get(id)
        state = job.status["state"] if job and job.status else "gone"
        if state != "CANCELLED":
            wrong.append(f"{id}: cancel was answered at {event.t / 1e9:.3f} s, but the job is {state}")
        if job and job.output:
            wrong.append(f"{id}: cancelled, but its output holds {', '.join(sorted(job.output))}")
        wrong += [
            f"{id}: cancelled at {event.t / 1e9:.3f} s, but {attempt}, written at {at / 1e9:.3f} s, was accepted"
            for attempt, at in _accepted_late(evidence, id, event.t)
        ]
    return verdict("cancel wins", ("T7",), wrong, {"cancels": counted})


def conservation(history: Sequence[Event], _evidence: Evidence) -> Verdict:
    """T10: in every answer idle + in progress + completed = the number of tasks, which stays what it is."""
    wrong, counted = [], 0
    calls, totals = _calls(history, "status"), dict[tuple[Any, ...], int]()
    for event in _answers(history, "status", "ok"):
        for step, kind, total, idle, running, done in event.value.get("tasks", ()):
            counted += 1
            parts, at = [idle, running, done], f"{event.t / 1e9:.3f} s: step {step} {kind}"
            if sum(parts) != total or min(parts) < 0:
                wrong.append(f"{at} has {total} tasks, but {parts} make {sum(parts)}")
            known = totals.setdefault((calls.get(event.id), step, kind), total)
            if known != total:
                wrong.append(f"{at} had {known} tasks, and now {total}")
    return verdict("tasks are conserved", ("T10",), wrong, {"counts": counted})


def liveness(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T12: after the last heal every job ends in the calm. C14: some leader commits soon after it."""
    wrong = [
        f"{job} did not end within {evidence.calm_s:.0f} s after the last heal" for job in evidence.unfinished
    ]
    healed = evidence.healed_t
    before = max((_commit(e) for e in history if e.t <= healed), default=0)
    after = [e for e in history if e.t > healed and _commit(e) > before]
    window = [e for e in history if e.op == "master" and e.t > healed + FAILOVER_S * 1e9]
    if after and (after[0].t - healed) / 1e9 > FAILOVER_S and _asked_between(history, healed, after[0].t):
        wrong.append(
            f"no leader committed within {FAILOVER_S:g} s after the last heal at {healed / 1e9:.1f} s"
        )
    if not after and window and _asked_between(history, healed, window[-1].t):
        wrong.append(f"no leader committed anything after the last heal at {healed / 1e9:.1f} s")
    counted = {"jobs": len(evidence.jobs), "unfinished": len(evidence.unfinished)}
    return verdict("jobs end in the calm", ("T12", "C14"), wrong, counted, needs="jobs")


def ends(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T6, D8: a job that nobody cancelled ends as its code says, whatever happened to the cluster; a poisoned one fails
    after its own attempts, and says why."""
    wrong, counted = [], 0
    for job in evidence.jobs:
        if job.status is None or not job.shape or job.status["state"] == "CANCELLED":
            continue
        counted += 1
        state = job.status["state"]
        if state in ENDS and state != job.expected:
            wrong.append(f"{job.id} ended {state}, not {job.expected}: {job.status['reason']}")
        if state == "FAILED" and job.expected == "FAILED":
            failure = job.status["failure"] or {}
            _, causes, word = failure_of(job.shape if failure_of(job.shape)[1] else "poison")
            if failure.get("cause") not in causes or word not in failure.get("message", ""):
                wrong.append(
                    f"{job.id} failed by its own code, but says {failure.get('cause')}: {failure.get('message')}"
                )
            tries = _tries(evidence, job.id, failure.get("task") or "", causes)
            promised = attempts_of(job.shape)
            if tries < promised:
                wrong.append(
                    f"{job.id} was given up after {tries} attempts of {failure.get('task')}, {promised} are promised"
                )
    return verdict("jobs end as they should", ("T6", "D8"), wrong, {"jobs": counted}, needs="jobs")


def _tries(evidence: Evidence, job: str, task: str, causes: Collection[str]) -> int:
    """How often a task was tried: it met its first record, or its worker saw it fail by its own fault before that (on a
    busy machine its time may be over first)."""
    marks = Counter(mark.task for mark in evidence.marks if mark.job == job)[task]
    failed = [
        line
        for worker in evidence.workers
        for line in worker.journal
        if line["what"] == "failed" and line.get("job") == job and line.get("cause") in causes
    ]
    seen = sum(str(line["attempt"]).rpartition(".a")[0] == full_name(task) for line in failed)
    return max(marks, seen)


def servers(history: Sequence[Event], _evidence: Evidence) -> Verdict:
    """What the faults themselves found wrong: a second process on one disk, a node that does not come back."""
    wrong = [str(e.value) for e in history if e.op == "broken" and e.kind == "note"]
    ups = sum(e.op == "revived" for e in history)
    return verdict("servers come back", ("C14", "T12"), wrong, {"revived": ups})


# Of a schedule drawn from many, one in so many may be unproven: a read error needs somebody who reads just then.
ONE_IN = 5


def proofs(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """A run is void unless its faults are proven: each has its own proof, and somebody asked something meanwhile.

    Of a script every fault; of faults that were named each at least once; of a schedule drawn from all of them, or in
    which each comes once, four of five. What was not proven is listed, and counts nowhere as a fault."""
    hurts = {e.id: e for e in history if e.kind == "hurt"}
    proven = {
        e.id
        for e in history
        if e.kind == "proof" and _bit(e.value) and e.id in hurts and e.t >= hurts[e.id].t
    }
    heals = {e.id: e.t for e in history if e.kind == "heal"}
    calls = {e.id: e.t for e in history if e.kind == "invoke"}
    ends = {e.id: e.t for e in history if e.kind in {"ok", "fail", "info"}}
    busy = [(t, ends.get(number, t)) for number, t in calls.items()]
    unproven = {number: e for number, e in hurts.items() if number not in proven}
    missing = [f"{e.op} at {e.t / 1e9:.1f} s" for e in unproven.values()]
    idle = [
        f"{e.op} at {e.t / 1e9:.1f} s"
        for number, e in hurts.items()
        if number in heals and not any(began <= heals[number] and ended >= e.t for began, ended in busy)
    ]
    claimed = sorted({e.op for e in hurts.values()} & ELECTING)
    terms = len({e.value["term"] for e in history if e.op == "master" and e.value.get("role") == "leader"})
    counted = {"faults": len(hurts), "proven": len(proven & hurts.keys())}
    reason = ""
    if not hurts:
        reason = "void: no fault was injected"
    elif _void(unproven, hurts, evidence.config):
        reason = f"void: not proven to have struck: {', '.join(missing[:5])}"
    elif claimed and terms < 2:
        reason = f"void: {', '.join(claimed)} should have cost an election, and there was none"
    elif len(idle) == len(hurts):
        reason = "void: no client asked anything while a fault hurt"
    outcome = Outcome.UNKNOWN if reason else Outcome.VALID
    return Verdict(checker="faults are proven", outcome=outcome, reason=reason, counted=counted)


# Numbers in a proof that count nothing.
NO_COUNT = frozenset({"pid", "pids", "status", "statuses", "exit", "term", "free blocks", "at", "size"})


def _bit(proof: Any) -> bool:
    """Whether what a fault shows for itself shows anything: of what it has counted, something is more than nothing."""
    counts = list(_counts(proof))
    return any(n > 0 for n in counts) if counts else bool(proof)


def _counts(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for name, one in value.items():
            if name not in NO_COUNT:
                yield from _counts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _counts(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _void(unproven: dict[int, Event], hurts: dict[int, Event], config: Mapping[str, Any]) -> bool:
    if config.get("script") or not config.get("faults"):
        return bool(unproven)
    if config["faults"] == "all" or config.get("each"):
        return len(unproven) * ONE_IN > len(hurts)
    struck = {e.op for number, e in hurts.items() if number not in unproven}
    return bool({e.op for e in unproven.values()} - struck)


def _answers(history: Sequence[Event], op: str, kind: str) -> list[Event]:
    return [event for event in history if event.op == op and event.kind == kind]


def _calls(history: Sequence[Event], op: str) -> dict[int, str]:
    return {event.id: event.value["job"] for event in history if event.op == op and event.kind == "invoke"}


def _ended(history: Sequence[Event]) -> set[int]:
    return {event.id for event in history if event.kind in {"ok", "fail", "info"}}


def _tried_again(id: str, asked: Collection[str]) -> bool:
    """Whether it is a retry of a job that somebody asked for: its name and "-r1"."""
    return id.rpartition("-r")[0] in asked


def _there(ids: Mapping[str, Job], job: str) -> bool:
    return job in ids and ids[job].status is not None


def _gone(ids: Mapping[str, Job], job: str) -> bool:
    return not _there(ids, job)


def _accepted_late(evidence: Evidence, job: str, since: int) -> list[tuple[str, int]]:
    """Attempts whose output was written after `since` and accepted all the same; removing what is left is wanted."""
    found = []
    for worker in evidence.workers:
        mine = [line for line in worker.journal if line.get("job") == job]
        written = {
            line["attempt"]: line["t"] for line in mine if line["what"] == "written" and line["t"] > since
        }
        taken = {line["attempt"] for line in mine if line["what"] == "settled" and line["accepted"]}
        found += [(name, at) for name, at in written.items() if name in taken and ".x-" not in name]
    return found


def _commit(event: Event) -> int:
    return (
        int(event.value.get("commit") or 0)
        if event.op == "master" and event.value.get("role") == "leader"
        else 0
    )


def _asked_between(history: Sequence[Event], begin: int, end: int) -> bool:
    return any(begin <= e.t <= end and e.kind == "invoke" and e.op in {"submit", "cancel"} for e in history)
