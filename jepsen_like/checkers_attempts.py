"""The audit of attempts, from the workers' journals and the tasks' own marks, never from the masters' table: T1 to T5,
T9, C12.

What a master logged as lost is taken from the job's events: a loss excuses a second run, and nothing else does. A
worker hears of a decision after it is taken, so a time or index in a journal is never earlier than the truth: what is
called wrong here is wrong for certain.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from jepsen_like.checkers_consensus import verdict
from jepsen_like.checkers_data import damaged_outputs
from jepsen_like.evidence import Evidence, full_name
from jepsen_like.history import Event
from jepsen_like.verdict import Verdict

CAME_WITHOUT = "output lost"  # the reason of a loss: a worker that attached did not have it
_NAME = re.compile(r"(\d+)\.([a-z])-(\d+)\.a(\d+)")
FIRST_ANSWER_NS = 4_000_000_000  # a worker repeats its report after 5 s
# While a worker's disk fails, its journal may lack lines; then nothing is concluded from a line that is missing.
_DISK_FAULTS = ("disk", "full", "read-only", "eio", "enospc", "inode")
_ELSEWHERE = frozenset({"output-disk-full"})  # no journal lies there


@dataclass(slots=True)
class Attempt:
    """What the journals say of one attempt, over all workers."""

    job: str
    task: str  # "0.m-00007"
    number: int
    assigned: list[tuple[str, str, int]] = field(default_factory=list)  # (worker, life, t)
    begun: list[tuple[str, str, int]] = field(default_factory=list)
    assigned_index: int = 0  # least
    written: list[tuple[str, str, int]] = field(default_factory=list)
    accepted: list[tuple[str, str, int, int]] = field(default_factory=list)  # (worker, life, t, index)
    runs: dict[int, int] = field(default_factory=dict)  # a reduce: map -> attempt
    twice: list[int] = field(default_factory=list)  # maps that it has merged more than once

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.job} {self.task}.a{self.number}"

    @property
    def is_map(self) -> bool:
        """Whether its output may be lost."""
        return ".m-" in self.task

    @property
    def accepted_index(self) -> int:
        """Its acceptance was in the log by then; 0 = never heard of."""
        return min((index for *_, index in self.accepted), default=0)

    @property
    def accepted_t(self) -> int:
        """It was accepted by then."""
        return min((t for _, _, t, _ in self.accepted), default=0)


def attempts(evidence: Evidence) -> dict[tuple[str, str], list[Attempt]]:
    """Every attempt by (job, task), in the order of their numbers."""
    found: dict[tuple[str, str, int], Attempt] = {}
    for worker in evidence.workers:
        for line in worker.journal:
            match = _NAME.fullmatch(line.get("attempt", ""))
            if match:
                task, number = f"{match[1]}.{match[2]}-{match[3]}", int(match[4])
                key = (line["job"], task, number)
                _take(found.setdefault(key, Attempt(*key)), worker.id, line)
    tasks: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for key in sorted(found):
        tasks[key[:2]].append(found[key])
    return tasks


def _take(attempt: Attempt, worker: str, line: dict[str, Any]) -> None:
    match line["what"]:
        case "assigned":
            index = line["index"]
            attempt.assigned.append((worker, line["life"], line["t"]))
            attempt.assigned_index = min(attempt.assigned_index or index, index)
        case "begun":
            attempt.begun.append((worker, line["life"], line["t"]))
            attempt.runs.update(dict(line["runs"]))
            attempt.twice += [number for number, n in Counter(m for m, _ in line["runs"]).items() if n > 1]
        case "written":
            attempt.written.append((worker, line["life"], line["t"]))
        case "settled" if line["accepted"]:
            attempt.accepted.append((worker, line["life"], line["t"], line["index"]))


def one_winner(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T1, T3: a task has one accepted attempt; a map may have another only after its output was lost by the log."""
    lost = _losses(evidence)
    wrong, counted = [], 0
    for (job, task), tried in attempts(evidence).items():
        winners = [one for one in tried if one.accepted]
        counted += bool(winners)
        for earlier, later in pairwise(winners):
            won = _exact_index(evidence, earlier)
            if not (earlier.is_map and any(i >= won for i in lost.get((job, task, earlier.number), ()))):
                wrong.append(
                    f"{earlier.name} and {later.name} were both accepted, and nothing was lost in between"
                )
    _ = history
    return verdict("one winner a task", ("T1", "T3"), wrong, {"tasks": counted}, needs="tasks")


def granted(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T2, T5: what is accepted was assigned to, begun and written by that life of that worker; nothing begins twice,
    or without an order; no task met a record that no worker began."""
    blind = _blind(history, evidence)
    wrong, counted = [], 0
    marks: dict[tuple[str, str, int], int] = defaultdict(int)
    for mark in evidence.marks:
        marks[mark.job, mark.task, mark.attempt] += 1
    tasks = attempts(evidence)
    for tried in tasks.values():
        for one in tried:
            counted += len(one.begun)
            if len(one.begun) > 1:
                where = ", ".join(f"{w} at {t / 1e9:.3f} s" for w, _, t in one.begun)
                wrong.append(f"{one.name} began {len(one.begun)} times: {where}")
            wrong += _out_of_order(one)
            lives = {(w, life) for w, life, _ in one.written}
            wrong += [
                f"{one.name} was accepted from {w}, which never wrote it"
                for w, life, *_ in one.accepted
                if (w, life) not in lives and w not in blind
            ]
            ordered = {(w, life) for w, life, _ in one.assigned}
            wrong += [
                f"{one.name} began on {w} at {t / 1e9:.3f} s, which that life of it was never told to"
                for w, life, t in one.begun
                if (w, life) not in ordered and w not in blind
            ]
    if evidence.workers and not blind:
        begun = {(one.job, one.task, one.number) for tried in tasks.values() for one in tried if one.begun}
        wrong += [
            f"{job} {task} attempt {number} met a record, and no worker began it"
            for job, task, number in marks
            if (job, full_name(task), number) not in begun
        ]
    wrong += [
        f"{job} {task} attempt {number} met its first record {count} times"
        for (job, task, number), count in marks.items()
        if count > 1
    ]
    counts = {"begun": counted, "marks": len(evidence.marks)}
    return verdict("attempts are granted", ("T2", "T5"), wrong, counts, needs="begun")


def _blind(history: Sequence[Event], evidence: Evidence) -> set[str]:
    """Workers whose journals may lack lines, because their disks failed."""
    struck: set[str] = set()
    masters = {master.id for master in evidence.masters}
    for event in history:
        if event.kind != "hurt" or event.op in _ELSEWHERE or not any(w in event.op for w in _DISK_FAULTS):
            continue
        node = event.node or (event.value.get("node") if isinstance(event.value, dict) else None)
        struck |= {node} - masters if node else {worker.id for worker in evidence.workers}
    return struck


def _out_of_order(one: Attempt) -> Iterator[str]:
    """In one life of a worker an attempt is assigned, begun, written, settled: in this order, as far as lines tell."""
    settled = [(worker, life, t) for worker, life, t, _ in one.accepted]
    steps = (
        ("assigned", one.assigned),
        ("begun", one.begun),
        ("written", one.written),
        ("accepted", settled),
    )
    for (before, earlier), (after, later) in pairwise(steps):
        for worker, life, t in later:
            times = [at for w, its, at in earlier if (w, its) == (worker, life)]
            if times and min(times) > t:
                yield f"{one.name} was {after} on {worker} at {t / 1e9:.3f} s, and {before} at {min(times) / 1e9:.3f} s"
    if one.accepted and one.assigned_index >= one.accepted_index > 0:
        yield f"{one.name} was assigned at index {one.assigned_index} and accepted by index {one.accepted_index}"


def no_rerun(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T4: after a task was accepted nothing assigns it again, unless its output was lost by the log: a change of leader
    is no reason."""
    lost = _losses(evidence)
    wrong, counted = [], 0
    for (job, task), tried in attempts(evidence).items():
        for winner in (one for one in tried if one.accepted):
            counted += 1
            for later in tried:
                if later.number <= winner.number or later.assigned_index <= winner.accepted_index:
                    continue
                if winner.is_map and any(
                    i <= later.assigned_index for i in lost.get((job, task, winner.number), ())
                ):
                    continue
                wrong.append(
                    f"{later.name} was assigned at index {later.assigned_index}, though {winner.name}"
                    f" was accepted by index {winner.accepted_index} and not lost"
                )
    _ = history
    return verdict("no finished task runs again", ("T4",), wrong, {"tasks": counted}, needs="tasks")


def barrier(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T9: an accepted reduce has merged one output of every map, none of them replaced before it was written."""
    tasks, lost = attempts(evidence), _losses(evidence)
    blind = _blind(history, evidence)
    wrong: list[str] = []
    counted = 0
    maps_of: dict[tuple[str, str], int] = defaultdict(int)
    for job, task in tasks:
        if ".m-" in task:
            maps_of[job, task.partition(".")[0]] += 1
    for (job, task), tried in tasks.items():
        step, _, _ = task.partition(".")
        for reduce in (one for one in tried if one.accepted and one.begun and ".r-" in task):
            counted += 1
            missing = maps_of[job, step] - len(reduce.runs)
            if missing > 0:
                wrong.append(f"{reduce.name} was accepted without {missing} of {maps_of[job, step]} maps")
            wrong += [f"{reduce.name} has merged map {number} more than once" for number in reduce.twice]
            wrong += [] if blind else _unheard_of(tasks, reduce, step)
            at = max((t for *_, t in reduce.written), default=0)
            index = _exact_index(evidence, reduce)
            for number, version in reduce.runs.items():
                gone = lost.get((job, f"{step}.m-{number:05d}", version), [])
                if index and any(loss < index for loss in gone):
                    wrong.append(
                        f"{reduce.name} was accepted at index {index} with attempt {version} of map {number},"
                        f" which was declared lost at index {min(gone)}"
                    )
                    continue
                others = tasks.get((job, f"{step}.m-{number:05d}"), [])
                newer = [m for m in others if m.number > version and m.accepted and m.accepted_t < at]
                if newer:
                    ago = (at - newer[-1].accepted_t) / 1e9
                    wrong.append(
                        f"{reduce.name} was accepted with attempt {version} of map {number}, though attempt"
                        f" {newer[-1].number} had replaced it {ago:.3f} s before it was written"
                    )
    _ = history
    return verdict("reduces wait for maps", ("T9",), wrong, {"reduces": counted})


def _unheard_of(tasks: Mapping[tuple[str, str], list[Attempt]], reduce: Attempt, step: str) -> Iterator[str]:
    """Map outputs that it has merged, and that nobody had written by then."""
    began = max((t for *_, t in reduce.begun), default=0)
    for number, version in reduce.runs.items():
        made = [m for m in tasks.get((reduce.job, f"{step}.m-{number:05d}"), ()) if m.number == version]
        written = [t for m in made for *_, t in m.written]
        if not written:
            yield f"{reduce.name} has merged attempt {version} of map {number}, which nobody has written"
        elif min(written) > began:
            yield (
                f"{reduce.name} began at {began / 1e9:.3f} s with attempt {version} of map {number}, which was"
                f" written at {min(written) / 1e9:.3f} s"
            )


def _exact_index(evidence: Evidence, attempt: Attempt) -> int:
    """The index of its acceptance when the first report of it was answered: at once, and by the same leader. A report
    that was repeated is answered with a later index; then 0."""
    for worker, life, t, index in attempt.accepted:
        written = [at for w, its, at in attempt.written if (w, its) == (worker, life) and at <= t]
        journal = next((w.journal for w in evidence.workers if w.id == worker), [])
        if not written or t - written[-1] >= FIRST_ANSWER_NS:
            continue
        if not any(line["what"] == "joined" and written[-1] <= line["t"] <= t for line in journal):
            return index
    return 0


def losses(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T3, T4: a map output that the log declares lost was lost. One that its worker "came back without" had been
    dropped, forgotten or damaged there before the loss was heard of anywhere, or that life of the worker was over; and
    its worker had not been told before that the attempt did not count."""
    blind = _blind(history, evidence)
    hit = {
        (h["job"], int(h["step"]), int(h["map"]), int(h["attempt"]))
        for e in history
        for h in damaged_outputs(e)
    }
    journals = {worker.id: worker.journal for worker in evidence.workers}
    heard = _heard(evidence)
    wrong, counted = [], 0
    for job, event in _events(evidence, "MapOutputLost"):
        counted += 1
        task, worker = full_name(event["task"]), event["worker"]
        match = _NAME.fullmatch(f"{task}.a{event['attempt']}")
        if match is None or worker in blind or worker not in journals:
            continue
        about = [line for line in journals[worker] if line.get("job") == job]
        mine = [line for line in about if line.get("attempt") == match[0]]
        wrong += [
            f"{job} {match[0]} was declared lost at index {event['index']}, so it had won; but {worker} was told at"
            f" index {line['index']} that it did not count"
            for line in mine
            if line["what"] == "settled"
            and not line["accepted"]
            and 0 < line["index"] < (event["index"] or 0)
        ]
        written = [line for line in mine if line["what"] == "written"]
        if event.get("fields", {}).get("reason") != CAME_WITHOUT or not written:
            continue
        first, by = written[0], heard(event["index"] or 0)
        gone = (job, int(match[1]), int(match[3]), int(match[4])) in hit
        gone |= any(line["what"] == "dropped" and line["t"] <= by for line in mine)
        gone |= any(line["what"] == "forgotten" and line["t"] <= by for line in about)
        gone |= any(
            line["life"] != first["life"] and first["t"] < line["t"] <= by for line in journals[worker]
        )
        if not gone:
            wrong.append(
                f"{job} {match[0]} was declared lost at index {event['index']}, though {worker} wrote it at"
                f" {first['t'] / 1e9:.3f} s, lived on, and had not dropped it"
            )
    return verdict("losses are true", ("T3", "T4"), wrong, {"losses": counted})


def _heard(evidence: Evidence) -> Callable[[int], float]:
    """By when somebody had heard of an entry of the log of that index, or of a later one."""
    lines = sorted((line["t"], line.get("index") or 0) for w in evidence.workers for line in w.journal)
    most = list(accumulate((index for _, index in lines), max))

    def by(index: int) -> float:
        at = bisect_left(most, index)
        return lines[at][0] if at < len(lines) else float("inf")

    return by


def fenced(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C12: no life of a worker obeys a term older than one it has obeyed before."""
    wrong, counted = [], 0
    for worker in evidence.workers:
        highest: dict[str, tuple[int, dict[str, Any]]] = {}
        for line in worker.journal:
            if not line.get("term"):
                continue
            counted += 1
            term, before = highest.get(line["life"], (0, line))
            if line["term"] < term:
                wrong.append(
                    f"{worker.id} obeyed term {line['term']} ({line['what']} {line.get('attempt', '')}) at"
                    f" {line['t'] / 1e9:.3f} s after term {term} at {before['t'] / 1e9:.3f} s"
                )
            else:
                highest[line["life"]] = (line["term"], line)
    _ = history
    return verdict("workers obey the newest term", ("C12",), wrong, {"orders": counted}, needs="orders")


def _losses(evidence: Evidence) -> dict[tuple[str, str, int], list[int]]:
    """(job, task, attempt) of map outputs that the log declares lost -> at which indexes."""
    found: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for job, event in _events(evidence, "MapOutputLost"):
        found[job, full_name(event["task"]), event["attempt"]].append(event["index"] or 0)
    return found


def _events(evidence: Evidence, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for job in evidence.jobs:
        for event in job.events:
            if event["type"] == kind and event["task"]:
                yield job.id, event
