"""What is refused, and how: C15 (no majority, no promise; an answer in time, always) and D12 (an output that is not
empty is left alone)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from jepsen_like.checkers_consensus import verdict
from jepsen_like.evidence import Evidence
from jepsen_like.history import Event
from jepsen_like.verdict import Verdict

# The patience of each call, all its parts together (a submit looks, stages and uploads twice), and what a busy machine
# may add to it.
WITHIN_S = {
    "submit": 60.0,
    "cancel": 25.0,
    "status": 25.0,
    "again": 25.0,
    "trespass": 25.0,
    "retry": 60.0,
    "occupied": 60.0,
    "rival": 60.0,
}
# These leave no master alive.
NOBODY = frozenset({"kill-all-masters", "power-cut-all"})
# What the client library may raise (mr/errors.py); anything else is no answer but an accident.
TYPED = frozenset(
    {
        "Cancelled",
        "CommitUnknown",
        "DeadlineExceeded",
        "JobFailed",
        "NotAllowed",
        "NotFound",
        "NotLeader",
        "Rejected",
        "TooManySkipped",
        "Unavailable",
        "Usage",
        "WaitTimeout",
    }
)


def honest(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C15: while no majority of masters can talk, no write is acknowledged; whoever asks gets an answer or a typed
    error within the patience of the call."""
    calls = {e.id: e for e in history if e.kind == "invoke" and e.op in WITHIN_S}
    ends = {e.id: e for e in history if e.kind in {"ok", "fail", "info"} and e.op in WITHIN_S}
    windows = list(_without_majority(history, [master.id for master in evidence.masters]))
    last = max((e.t for e in history), default=0)
    wrong, during = [], 0
    for number, call in calls.items():
        end = ends.get(number)
        took = ((end.t if end else last) - call.t) / 1e9
        what = f"{call.op} of {call.process} at {call.t / 1e9:.3f} s"
        if took > WITHIN_S[call.op]:
            wrong.append(f"{what} {'took' if end else 'had no answer after'} {took:.1f} s")
        if end is None:
            continue
        during += any(begin <= end.t <= until for begin, until, _ in windows)
        if end.kind != "ok":
            error = end.value.get("error") if isinstance(end.value, dict) else None
            if error is not None and error not in TYPED:
                wrong.append(f"{what} ended in {error}, which is no error of ours: {end.value.get('text')}")
        elif _is_write(end):
            wrong += [
                f"{what} was acknowledged at {end.t / 1e9:.3f} s, though {why} since {begin / 1e9:.3f} s"
                for begin, until, why in windows
                if begin < call.t and end.t < until
            ]
    counted = {"calls": len(calls), "without a majority": during}
    return verdict("no promise without a majority", ("C15",), wrong, counted, needs="calls")


def _is_write(end: Event) -> bool:
    """Whether the answer says that something was written now."""
    answer = end.value if isinstance(end.value, dict) else {}
    if end.op in {"submit", "again", "retry"}:
        return answer.get("existed") is False
    return end.op == "cancel" and answer.get("state") == "CANCELLED"


def _without_majority(history: Sequence[Event], masters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """From when to when no majority could talk, and why: by what was hurt, where the hurt was proven."""
    proven = {e.id for e in history if e.kind == "proof" and e.value}
    heals = {e.id: e.t for e in history if e.kind == "note" and e.op == "heals"}
    for event in history:
        if event.kind != "hurt" or event.id not in proven or event.id not in heals:
            continue
        if event.op in NOBODY:
            yield event.t, heals[event.id], f"{event.op}: every master was dead"
        elif masters and isinstance(event.value, dict) and event.value.get("cut"):
            # a power cut has no links: it says who died and what was lost
            cut = {
                (str(link[0]), str(link[1])) for link in event.value["cut"] if isinstance(link, list | tuple)
            }
            if not _majority(masters, cut):
                yield event.t, heals[event.id], f"{event.op}: no majority of masters could talk"


def _majority(masters: Sequence[str], cut: set[tuple[str, str]]) -> bool:
    """Whether some master can exchange messages with as many others as make a majority with it."""
    need = len(masters) // 2  # others
    return any(
        all((one, other) not in cut and (other, one) not in cut for other in others)
        for one in masters
        for others in combinations([m for m in masters if m != one], need)
    )


# call -> the codes that tell the truth
TAKEN = {
    "occupied": frozenset({"OUTPUT_EXISTS"}),
    "rival": frozenset({"OUTPUT_IN_USE", "OUTPUT_EXISTS"}),  # the first one may have published meanwhile
}


def occupied(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D12: a job whose output is not empty, or another's who still lives, is refused before anything runs, and nothing
    there is touched."""
    listed = {job.id for job in evidence.jobs if job.status}
    calls = {e.id: e.value["job"] for e in history if e.op in TAKEN and e.kind == "invoke"}
    wrong, counted = [], 0
    for event in history:
        if event.op not in TAKEN or event.kind != "ok":
            continue
        job, answer = calls[event.id], event.value
        counted += 1
        if answer.get("before") != answer.get("after"):
            wrong.append(f"{job}: its output was there before, and {_changed(answer)} changed")
        if answer["refused"] not in TAKEN[event.op]:
            said = f"refused as {answer['refused']}" if answer["refused"] else "accepted"
            wrong.append(f"{job}: its output was not free, and it was {said}")
        if job in listed:
            wrong.append(f"{job}: its output was not free, and the cluster has the job")
    ran = {mark.job for mark in evidence.marks} & set(calls.values())
    wrong += [f"{job}: its output was not free, and tasks of it ran" for job in sorted(ran)]
    return verdict("full outputs are left alone", ("D12",), wrong, {"submits": counted})


def _changed(answer: dict[str, dict[str, str]]) -> str:
    before, after = answer["before"], answer["after"]
    return ", ".join(
        sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    )
