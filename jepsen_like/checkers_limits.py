"""What must stay within bounds: T5 (attempts at once), T13 (waiting), C14 (followers behind, leaders without
followers), T14 (times), T15 (log and snapshots), S6 (one message)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jepsen_like.checkers_consensus import verdict
from jepsen_like.evidence import Evidence, Job
from jepsen_like.history import Event
from jepsen_like.verdict import Verdict

AT_ONCE = 2  # attempts of a task: one, and one backup
# After 30 s the masters put a job before all others (LeaderConfig.starved_s); then a slot must become free: twice the
# longest task of the mix.
FIRST_S = 30.0
STARVED_S = FIRST_S + 15.0
STARVED_TURNS = 12  # so many attempts of others came before it that should not have
CALM_AGAIN_S = 12.0  # after a heal: a lease and an election
BEHIND_S = 15.0  # of a follower; with a snapshot to be sent, on a busy machine
LOG_SNAPSHOTS = 6  # a log is trimmed before it is so many times what a snapshot is taken after
SNAPSHOT_BYTES, SNAPSHOT_JOB_BYTES = 256 << 10, 128 << 10
MESSAGE_GROWTH_BYTES = 96 << 20  # of a server that refused a message which was larger
TASK_LOG_BYTES = (8 << 20) + (64 << 10) + 1024  # the beginning, the end, and how much is left out
OUT_OF_OFFICE_S = 3.0  # ten leases of a leader (0.3 s), on a busy machine
SILENT_S = 2.5  # a master that answers is noted about every second
LATE_S = 15.0  # after its deadline a job is ended, where nothing hurts
SNAPSHOT_EVERY = "MR_MASTER__SNAPSHOT_EVERY"


def leases(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T5: of one task never more than one attempt and its backup run at once. Counted are attempts on workers that
    were in one session from its beginning to its end: nobody had reason to give those up."""
    running: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    counted = 0
    for worker in evidence.workers:
        for name, begin, end in _held(worker.journal):
            counted += 1
            job, attempt = name
            running[job, attempt.rpartition(".a")[0]].append((begin, end, f"{attempt} on {worker.id}"))
    wrong = []
    for (job, task), spans in running.items():
        for begin, _, _ in spans:
            there = [who for start, end, who in spans if start <= begin < end]
            if len(there) > AT_ONCE:
                wrong.append(
                    f"{job}: {len(there)} attempts of {task} ran at {begin / 1e9:.3f} s: {', '.join(there)}"
                )
                break
    return verdict("few attempts at once", ("T5",), wrong, {"attempts": counted}, needs="attempts")


def _held(journal: Sequence[dict[str, object]]) -> Iterator[tuple[tuple[str, str], int, int]]:
    """(job, attempt), begun, ended: of those whose worker knew its leader all the while, in one life."""
    begun: dict[tuple[str, str], int] = {}
    for line in journal:
        if line["what"] == "joined":
            begun.clear()
            continue
        name = str(line.get("job")), str(line.get("attempt"))
        t = line["t"]
        assert isinstance(t, int)  # worker/journal.py
        if line["what"] == "begun":
            begun[name] = t
        elif line["what"] in {"written", "failed", "cancelled"} and name in begun:
            yield name, begun.pop(name), t


def starvation(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T13: no job that could run waits for STARVED_S while others pass it STARVED_TURNS times, unless something hurt
    meanwhile: from its acceptance to its first attempt, and from one thing that happened to it to the next, to its end.
    It is passed when it has waited for FIRST_S and another job, which has not, begins an attempt: where there are too
    many jobs, all of them wait. A new leader counts anew. What is cleaned up after a job's end may wait for all who
    still work."""
    begun: dict[str, list[int]] = defaultdict(list)
    alive: dict[str, list[int]] = defaultdict(list)
    for worker in evidence.workers:
        for line in worker.journal:
            if not line.get("job") or ".x-" in line.get("attempt", ""):
                continue
            alive[line["job"]].append(line["t"])
            if line["what"] == "begun":
                begun[line["job"]].append(line["t"])
    accepted = {e.value["job"]: e.t for e in reversed(history) if e.op == "submit" and e.kind == "ok"}
    hurts, elected = list(_hurts(history)), list(_elected(history))
    lasted = {job.id: _lasted_ns(job) for job in evidence.jobs}
    for times in begun.values():
        times.sort()
    wrong = []
    for job, at in accepted.items():
        times = sorted([at, *(t for t in alive[job] if at < t <= at + lasted.get(job, 0))])
        for last, until in zip(times, [*times[1:], 0], strict=True):
            since = max([last, *(t for t in elected if last < t < until)])
            if (until - since) / 1e9 <= STARVED_S or any(a <= until and since <= b for a, b in hurts):
                continue
            passed = sum(_passes(begun | {job: []}, accepted, since + int(FIRST_S * 1e9), until))
            if passed >= STARVED_TURNS:
                wrong.append(
                    f"{job} got nothing from {since / 1e9:.1f} s to {until / 1e9:.1f} s, while others that had not"
                    f" waited so long began {passed} attempts"
                )
    return verdict("nobody starves", ("T13",), wrong, {"jobs": len(accepted)}, needs="jobs")


def _elected(history: Sequence[Event]) -> Iterator[int]:
    """When a leader of a newer term was first seen."""
    term = 0
    for event in history:
        if event.op == "master" and event.value.get("role") == "leader" and event.value["term"] > term:
            term = event.value["term"]
            yield event.t


def _passes(
    begun: Mapping[str, Sequence[int]], accepted: Mapping[str, int], since: int, until: int
) -> Iterator[int]:
    """For each job how many attempts it began within a time, though it had got one in the FIRST_S before."""
    for job, times in begun.items():
        before = [accepted.get(job, 0), *times]
        yield sum(
            since < t < until and t - last < FIRST_S * 1e9 for last, t in zip(before, times, strict=False)
        )


def _lasted_ns(job: Job) -> float:
    """From its acceptance to its end, and a little more; for ever where it has none."""
    status = job.status or {}
    if not status.get("ended_ms") or not status.get("submitted_ms"):
        return float("inf")
    return (int(status["ended_ms"]) - int(status["submitted_ms"])) * 1e6 + 1e9


def _hurts(history: Sequence[Event]) -> Iterator[tuple[int, int]]:
    """From when on each fault was at work, it may take long until it is done, to when its traces are gone."""
    begins = {e.id: e.t for e in history if e.kind == "note" and e.op == "begins"}
    heals = {e.id: e.t for e in history if e.kind == "heal"}
    last = max((e.t for e in history), default=0)
    for event in history:
        if event.kind == "hurt":
            yield begins.get(event.id, event.t), heals.get(event.id, last) + int(CALM_AGAIN_S * 1e9)


def keeping_up(history: Sequence[Event], _evidence: Evidence) -> Verdict:
    """C14: where nothing hurts, a follower has applied after BEHIND_S what a leader had committed."""
    hurts = list(_hurts(history))
    led = [(e.t, e.value["commit"], e.node) for e in history if _said(e, "leader") and e.value.get("commit")]
    times = [t for t, _, _ in led]
    wrong: dict[str, str] = {}
    counted = 0
    for event in (e for e in history if _said(e, "follower") and "applied" in e.value):
        since = event.t - int(BEHIND_S * 1e9)
        at = bisect_right(times, since)
        if (
            not at
            or event.value.get("up_ms", 0) < BEHIND_S * 1e3
            or any(a <= event.t and since <= b for a, b in hurts)
        ):
            continue
        counted += 1
        then, commit, leader = led[at - 1]
        if event.value["applied"] < commit:
            wrong.setdefault(
                event.node,
                f"{event.node} had applied index {event.value['applied']} at {event.t / 1e9:.1f} s, though {leader} had"
                f" committed {commit} at {then / 1e9:.1f} s and nothing hurt since",
            )
    return verdict("followers keep up", ("C14",), list(wrong.values()), {"samples": counted})


def stepping_down(history: Sequence[Event], _evidence: Evidence) -> Verdict:
    """C14, C15: a leader whom no majority answers any more gives up within its lease. Judged of those who still said
    that they lead when another led in a newer term: whoever elected that one answers the old one no more."""
    newest = 0
    since: dict[str, int] = {}  # node -> first seen to lead beside a newer leader, and not silent since
    last: dict[str, tuple[int, int]] = {}  # node -> (when it last said that it leads, in which term)
    wrong: dict[str, str] = {}
    counted = 0
    for event in (e for e in history if e.op == "master"):
        term = event.value.get("term", 0)
        if not _said(event, "leader"):
            since.pop(event.node, None)
            continue
        counted += 1
        then, before = last.get(event.node, (0, -1))
        last[event.node] = event.t, term
        newest = max(newest, term)
        if term == newest or term != before or event.t - then > SILENT_S * 1e9:
            since.pop(event.node, None)
        if term == newest:
            continue
        if event.t - since.setdefault(event.node, event.t) > OUT_OF_OFFICE_S * 1e9:
            wrong[f"{event.node} {term}"] = (
                f"{event.node} still said at {event.t / 1e9:.1f} s that it leads in term {term}, though a leader of"
                f" term {newest} was there at {since[event.node] / 1e9:.1f} s or before"
            )
    return verdict("leaders step down", ("C14", "C15"), list(wrong.values()), {"samples": counted})


def _said(event: Event, role: str) -> bool:
    return event.op == "master" and event.value.get("role") == role


def bounded(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T15: under a stream of jobs the log is trimmed, and a snapshot grows with the jobs it keeps and nothing else."""
    every = int(
        (evidence.config.get("settings") or {}).get(SNAPSHOT_EVERY, evidence.config.get("snapshot_every", 0))
    )
    wrong, counted = [], 0
    for event in history:
        if event.op == "master" and event.value.get("log"):
            counted += 1
            if every and event.value["log"] > LOG_SNAPSHOTS * every:
                wrong.append(
                    f"{event.node} had {event.value['log']} entries in its log at {event.t / 1e9:.3f} s, though"
                    f" snapshots are taken every {every}"
                )
    most = SNAPSHOT_BYTES + SNAPSHOT_JOB_BYTES * len(evidence.jobs)
    for master in evidence.masters:
        for line in master.dump:
            if line.get("type") == "snapshot" and line["bytes"] > most:
                wrong.append(
                    f"{master.id}: a snapshot of {line['bytes']:,} bytes for {len(evidence.jobs)} jobs"
                )
        entries = sum(line.get("type") == "entry" for line in master.dump)
        if every and entries > LOG_SNAPSHOTS * every:
            wrong.append(f"{master.id} kept {entries} entries, though snapshots are taken every {every}")
    for worker in evidence.workers:
        wrong += [
            f"{worker.id} keeps {size:,} bytes that one attempt has printed: {name}"
            for name, size in worker.logs.items()
            if size > TASK_LOG_BYTES
        ]
    return verdict("state stays small", ("T15",), wrong, {"samples": counted}, needs="samples")


def deadlines(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T6: a job that has a deadline is not ended before it, and soon after: what hurts may cost the time that it takes,
    because a deadline counts the time in which somebody leads."""
    asked: dict[str, Event] = {}
    taken: dict[str, Event] = {}
    seen: dict[str, Event] = {}
    calls = {e.id: e for e in history if e.kind == "invoke"}
    for event in history:
        if event.op == "submit" and event.kind == "invoke":
            asked.setdefault(event.value["job"], event)
        elif event.op == "submit" and event.kind == "ok":
            taken.setdefault(event.value["job"], event)
        elif event.op == "status" and event.kind == "ok" and event.value["state"] in {"FAILED", "SUCCEEDED"}:
            seen.setdefault(calls[event.id].value["job"], event)
    hurts = list(_hurts(history))
    last = max((e.t for e in history), default=0)
    wrong, counted = [], 0
    for job in evidence.jobs:
        if (
            not job.deadline_s
            or job.id not in taken
            or (job.id not in seen and job.id not in evidence.unfinished)
        ):
            continue
        counted += 1
        end = seen[job.id].t if job.id in seen else last
        due = taken[job.id].t + int(job.deadline_s * 1e9)
        took = (end - asked[job.id].t) / 1e9
        if took < job.deadline_s:
            wrong.append(
                f"{job.id} ended {took:.1f} s after it was asked for, its deadline is {job.deadline_s:g} s"
            )
        late = (end - due - _covered(hurts, taken[job.id].t, end)) / 1e9
        if late > LATE_S:
            wrong.append(f"{job.id} went on for {late:.1f} s after its deadline of {job.deadline_s:g} s")
    return verdict("deadlines are kept", ("T6",), wrong, {"jobs": counted})


def times(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """FC21: what a job's history says of the time is true but for clocks that were wrong at an election: it never goes
    back, and within one term nothing lasts longer than the whole run did."""
    wrong, counted = [], 0
    lasted_ms = max((e.t for e in history), default=0) / 1e6
    for job in evidence.jobs:
        before: Mapping[str, Any] | None = None
        told = (one for one in job.events if "at_ms" in one)
        for event in sorted(told, key=lambda one: int(one["index"])):
            counted += 1
            if before is not None:
                after_ms = event["at_ms"] - before["at_ms"]
                between = f"{job.id}: from {before['type']} to {event['type']}"
                if after_ms < 0:
                    wrong.append(f"{between} the clock went back by {-after_ms / 1e3:.3f} s")
                elif after_ms > lasted_ms and event["type"] != "LeaderChanged":
                    wrong.append(
                        f"{between} it is said to have lasted {after_ms / 1e3:.0f} s, longer than the run"
                    )
            before = event
    return verdict("times are true", ("T14",), wrong, {"events": counted})


def _covered(spans: Iterable[tuple[int, int]], begin: int, end: int) -> int:
    """Of the time from `begin` to `end`, what lies in any of the spans."""
    covered, at = 0, begin
    for start, stop in sorted(spans):
        covered += max(0, min(stop, end) - max(start, at))
        at = max(at, stop)
    return covered


def oversized(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """S6: a message that is too large is refused, and costs no more memory than a message may."""
    sent = [probe for probe in evidence.probes if probe.bytes]
    wrong = [
        f"{p.server} took a message of {p.bytes:,} bytes: {p.method} was answered {p.answer}"
        for p in sent
        if p.answer not in {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    ]
    wrong += [
        f"{p.server} grew by {p.grew:,} bytes over a message of {p.bytes:,} bytes"
        for p in sent
        if p.grew > MESSAGE_GROWTH_BYTES
    ]
    return verdict("large messages are refused", ("S6",), wrong, {"messages": len(sent)}, needs="messages")
