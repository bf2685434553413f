"""What lies on the disks afterwards: D1 to D3, D5 to D9, D11, T11, S5."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jepsen_like.checkers_consensus import verdict
from jepsen_like.evidence import Evidence, Job
from jepsen_like.history import Event
from jepsen_like.verdict import Verdict

MARKER = "_SUCCESS"


def outputs(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D1, D11: the parts of every job that succeeded are those of the reference, byte for byte."""
    wrong, compared = [], 0
    jobs = [job for job in evidence.jobs if _state(job) == "SUCCEEDED" and job.reference]
    for job in jobs:
        for part, should in job.reference.items():
            is_ = (job.output or {}).get(part)
            compared += should["bytes"]
            if is_ is None:
                wrong.append(f"{job.id}: {part} is missing, it should have {should['bytes']} bytes")
            elif is_["sha256"] != should["sha256"]:
                wrong.append(
                    f"{job.id}: {part} differs from the reference: {is_['bytes']} bytes {is_['sha256'][:12]},"
                    f" should be {should['bytes']} bytes {should['sha256'][:12]}"
                )
    counted = {"jobs": len(jobs), "bytes": compared}
    return verdict("outputs are right", ("D1", "D11"), wrong, counted, needs="jobs")


def file_sets(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D2, D5: an output has its parts and its marker and nothing else; a job without success has none; no staging
    place is left."""
    wrong, counted = [], 0
    for job in evidence.jobs:
        state = _state(job)
        if state not in {"SUCCEEDED", "FAILED", "CANCELLED"}:
            continue
        counted += 1
        names = set(job.output or {})
        if job.elsewhere:
            pass  # what lies there is judged as the other job's
        elif state == "SUCCEEDED":
            should = {MARKER, *job.reference} if job.reference else {MARKER, *names}
            wrong += [f"{job.id}: {name} is missing from the output" for name in sorted(should - names)]
            wrong += [f"{job.id}: {name} does not belong into the output" for name in sorted(names - should)]
        elif names:
            wrong.append(f"{job.id} is {state}, but its output holds {', '.join(sorted(names))}")
        if job.staging:
            wrong.append(f"{job.id} is {state}, but its staging place is still there")
    wrong += [
        f"{job.id} has the success marker, but the cluster says {_state(job) or 'that there is no such job'}"
        for job in evidence.jobs
        if job.output and MARKER in job.output and _state(job) != "SUCCEEDED"
    ]
    return verdict("outputs are whole", ("D2", "D5"), wrong, {"jobs": counted}, needs="jobs")


def visibility(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D4: whoever saw a success marker saw all that it lists. D5: and its job succeeds."""
    torn = [e for e in history if e.op == "torn"]
    wrong = [
        f"{e.value['job']}: at {e.t / 1e9:.3f} s its marker was there, but not {', '.join(e.value['missing'])}"
        for e in torn
    ]
    seen = [e for e in history if e.op == "published" and isinstance(e.value, dict)]
    again = {job.id.rpartition("-r")[0] for job in evidence.jobs}  # whose output is another try's
    ends = {job.id: _state(job) for job in evidence.jobs if job.id not in again}
    wrong += [
        f"{e.value['job']} was seen published at {e.t / 1e9:.3f} s, and is {ends[e.value['job']]}"
        for e in seen
        if ends.get(e.value.get("job"), "") in {"FAILED", "CANCELLED"}
    ]
    return verdict("outputs appear at once", ("D4", "D5"), wrong, {"outputs": len(seen)})


def manifests(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D3: the manifest names every file with its length and digest, and its records sum to the counters."""
    wrong, counted = [], 0
    for job in evidence.jobs:
        if _state(job) != "SUCCEEDED" or job.output is None:
            continue
        counted += 1
        if job.manifest is None:
            wrong.append(f"{job.id} succeeded, and has no manifest")
            continue
        rows = Counter(row["name"] for row in job.manifest["files"])
        wrong += [f"{job.id}: the manifest lists {name} {n} times" for name, n in rows.items() if n > 1]
        wrong += [
            f"{job.id}: the manifest gives {row['name']} {row['records']} records"
            for row in job.manifest["files"]
            if row["records"] < 0
        ]
        listed = {row["name"]: row for row in job.manifest["files"]}
        there = {name: row for name, row in job.output.items() if name != MARKER}
        for name in sorted(listed.keys() ^ there.keys()):
            wrong.append(f"{job.id}: {name} is {'not there' if name in listed else 'not in the manifest'}")
        for name in sorted(listed.keys() & there.keys()):
            if (listed[name]["bytes"], listed[name]["sha256"]) != (
                there[name]["bytes"],
                there[name]["sha256"],
            ):
                wrong.append(f"{job.id}: {name} is not what the manifest says")
        records = sum(row["records"] for row in listed.values())
        written = job.manifest["counters"].get("mr:reduce_records_out")
        if len((job.status or {}).get("steps", ())) > 1:
            written = None  # of all steps together
        if written is not None and records != written:
            wrong.append(f"{job.id}: the manifest lists {records} records, its counter says {written}")
    return verdict("manifests are true", ("D3",), wrong, {"jobs": counted})


def counters(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T11, D6: counters are those of one attempt a task: what the reference counted; what maps give reduces take."""
    wrong, counted = [], 0
    for job in evidence.jobs:
        if _state(job) != "SUCCEEDED" or job.status is None:
            continue
        found = job.status["counters"]
        for name, should in job.counters.items():
            counted += 1
            if found.get(name, 0) != should:
                wrong.append(f"{job.id}: counter {name} is {found.get(name, 0)}, should be {should}")
        combined = found.get("mr:map_records_out", 0) + found.get("mr:combine_records_out", 0)
        combined -= found.get("mr:combine_records_in", 0)  # what combiners took they gave as less
        taken = found.get("mr:reduce_records_in")
        if taken is not None and taken != combined:
            wrong.append(f"{job.id}: maps gave {combined} records, reduces took {taken}")
        if job.manifest is not None and job.manifest["counters"] != found:
            wrong.append(f"{job.id}: the manifest's counters are not those of the table")
    return verdict("counters are exact", ("T11", "D6"), wrong, {"counters": counted}, needs="counters")


def inputs(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D8: nobody wrote into an input."""
    wrong = [f"{job.id}: input {name} has changed" for job in evidence.jobs for name in job.input_changed]
    return verdict("inputs are untouched", ("D8",), wrong, {"jobs": len(evidence.jobs)})


def damage(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D7: a map output that was damaged on the disk is not merged by a reduce that was assigned afterwards, unless it
    was made again; and its job has the right bytes, or says why it failed."""
    wrong, counted = [], 0
    jobs = {job.id: job for job in evidence.jobs}
    for event in history:
        for hit in damaged_outputs(event):
            counted += 1
            job = jobs.get(hit["job"])
            if job is None or job.status is None:
                continue
            if _state(job) == "FAILED" and job.expected != "FAILED" and not job.status["failure"]:
                wrong.append(f"{job.id} failed without a cause after {hit['file']} was damaged")
            if hit["how"] not in WHOLE:
                continue  # a bit may stand where no reduce reads
            for worker in evidence.workers:
                wrong += [
                    f"{hit['job']} {name} merged {hit['file']}, of which nothing was left at {event.t / 1e9:.3f} s"
                    for name in _merged(worker.journal, hit, event.t)
                ]
    return verdict("damage is noticed", ("D7",), wrong, {"damaged files": counted})


WHOLE = frozenset({"delete"})
_SEGMENT = re.compile(r"/jobs/(?P<job>[^/]+)/map/(?P<step>\d+)\.m-(?P<map>\d+)\.a(?P<attempt>\d+)\.seg$")


def damaged_outputs(event: Event) -> Iterator[dict[str, Any]]:
    """The map outputs that a fault has damaged: job, step, map, attempt, how."""
    if event.kind == "hurt" and isinstance(event.value, dict):
        for what in event.value.get("damaged", ()):
            if found := _SEGMENT.search(str(what.get("file", ""))):
                yield {**found.groupdict(), "how": what["how"], "file": found[0]}


def _merged(journal: Sequence[dict[str, Any]], hit: dict[str, Any], since: int) -> Iterator[str]:
    """Reduces of this worker that were assigned after `since` and merged what was damaged then."""
    assigned = {
        line["attempt"]: line["t"]
        for line in journal
        if line["what"] == "assigned" and line["job"] == hit["job"]
    }
    for line in journal:
        if (
            line["what"] == "begun"
            and line["job"] == hit["job"]
            and line["attempt"].startswith(f"{hit['step']}.r-")
        ):
            late = assigned.get(line["attempt"], 0) > since
            if late and [int(hit["map"]), int(hit["attempt"])] in [list(run) for run in line["runs"]]:
                yield line["attempt"]


def leftovers(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """D9: no scratch and no process of a job that ended, on any worker."""
    ended = {job.id for job in evidence.jobs if _state(job) in {"SUCCEEDED", "FAILED", "CANCELLED"}}
    wrong = []
    for worker in evidence.workers:
        names = {path.rpartition("/")[2] for path in worker.scratch if path.startswith("jobs/")}
        wrong += [f"{worker.id} keeps scratch of {name}, which has ended" for name in sorted(names & ended)]
        if not evidence.unfinished:
            others = [path for path in worker.scratch if not path.startswith("jobs/")]
            wrong += [f"{worker.id} keeps {path}" for path in others]
        wrong += [f"{worker.id}: {text}" for text in worker.processes]
    return verdict("workers are clean", ("D9",), wrong, {"workers": len(evidence.workers)}, needs="workers")


def secrets(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """S5: no secret in any log, page, metric or argument."""
    wrong = [f"a secret stands in {place}" for place in evidence.secrets]
    counted = {"bytes": evidence.secrets_searched}
    return verdict("secrets are kept", ("S5",), wrong, counted, needs="bytes")


def _state(job: Job) -> str:
    return str(job.status["state"]) if job.status else ""
