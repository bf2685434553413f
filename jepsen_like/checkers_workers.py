"""How workers go: one that was asked to has been told of all that it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jepsen_like.checkers_consensus import verdict
from jepsen_like.evidence import Evidence, Worker
from jepsen_like.history import Event
from jepsen_like.verdict import Verdict

LEAVE = "terminate-worker"
# A worker that is asked to go waits 25 s for answers. One that went earlier, by itself, had no reason to miss any.
PATIENT_S = 20.0
TOLD = frozenset({"settled", "cancelled", "dropped"})


def leaving(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """T4: a worker that leaves in peace, before its time to wait is over, has heard what became of every result of that
    life: what it reported is in the log, and nobody runs it again for want of an answer."""
    begins = {e.id: e.t for e in history if e.kind == "note" and e.op == "begins"}
    workers = {worker.id: worker for worker in evidence.workers}
    wrong, counted = [], 0
    for event in history:
        if event.kind != "hurt" or event.op != LEAVE or not isinstance(event.value, dict):
            continue
        asked = begins.get(event.id, event.t)
        for end in event.value.get("ended", ()):
            impatient = (event.t - asked) / 1e9 > PATIENT_S or end.get("late")
            if end["status"] != 0 or impatient or end["node"] not in workers:
                continue
            counted += 1
            wrong += [
                f"{end['node']} was asked to go at {asked / 1e9:.3f} s and went, but nobody had told it what became of"
                f" {attempt} of {job}, done at {at / 1e9:.3f} s"
                for job, attempt, at in _untold(workers[end["node"]], asked)
            ]
    return verdict("workers leave in order", ("T4",), wrong, {"left": counted})


def _untold(worker: Worker, asked: int) -> Iterator[tuple[str, str, int]]:
    """Job, attempt, when it was done: results of the life that was `asked` to go of which it heard nothing."""
    life = next((line["life"] for line in reversed(worker.journal) if line["t"] <= asked), "")
    lines = [line for line in worker.journal if line["life"] == life]
    told = {(line["job"], line["attempt"]) for line in lines if line["what"] in TOLD}
    forgotten = {line["job"] for line in lines if line["what"] == "forgotten"}
    for line in lines:
        if line["what"] not in {"written", "failed"} or line["job"] in forgotten:
            continue
        if (line["job"], line["attempt"]) not in told:
            yield line["job"], line["attempt"], line["t"]
