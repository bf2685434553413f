"""What many runs together have shown: the figures of RELIABILITY.md. Pure but for `load` and `save`.

Only what was proven counts: a process counts as killed when it lived and ended by that signal, a job as hurt when a
proven fault hurt while it was in the cluster. Runs that proved nothing are counted as runs, and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from jepsen_like import numbers
from jepsen_like.evidence import Evidence
from jepsen_like.faults import FAULTS
from jepsen_like.history import Event
from jepsen_like.verdict import Outcome


class Totals(msgspec.Struct, kw_only=True):
    """Sums over runs."""

    outcomes: dict[str, int] = msgspec.field(default_factory=dict)
    proven: dict[str, int] = msgspec.field(default_factory=dict)  # fault -> times
    kills: int = 0  # processes that died by SIGKILL, those that lost power among them
    power_cuts: int = 0  # masters that lost what they had not synced
    bytes_lost: int = 0
    partitions: int = 0
    jobs: int = 0
    jobs_hurt: int = 0
    bytes_compared: int = 0  # of outputs with the reference
    operations: int = 0
    entries_compared: int = 0  # of the replicas' logs
    attempts: int = 0
    gaps_s: list[float] = msgspec.field(default_factory=list)  # without a leader, per failover
    death_gaps_s: list[float] = msgspec.field(default_factory=list)  # of those after `kill-leader`
    seconds: float = 0.0

    def add(self, outcome: Outcome, history: Sequence[Event], evidence: Evidence, seconds: float) -> None:
        """One run more."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.seconds += seconds
        if outcome is Outcome.UNKNOWN:
            return
        proofs = [event for event in history if event.kind == "proof" and event.value]
        for proof in proofs:
            self.proven[proof.op] = self.proven.get(proof.op, 0) + 1
            cuts = int(proof.value.get("cuts", 0))
            self.kills += int(proof.value.get("kills", 0)) + cuts
            self.power_cuts += cuts
            self.bytes_lost += int(proof.value.get("bytes", 0)) if cuts else 0
            self.partitions += proof.op in FAULTS and FAULTS[proof.op].__module__.endswith("faults_partition")
        self.jobs += sum(job.status is not None for job in evidence.jobs)
        self.jobs_hurt += len(hurt(history, evidence))
        self.bytes_compared += sum(part["bytes"] for job in evidence.jobs for part in job.reference.values())
        self.operations += sum(event.kind in {"ok", "fail", "info"} for event in history)
        self.entries_compared += sum(row.get("type") == "entry" for m in evidence.masters for row in m.dump)
        self.attempts += sum(row["what"] == "begun" for worker in evidence.workers for row in worker.journal)
        self.gaps_s += [round(gap, 3) for gap in numbers.gaps_s(history)]
        self.death_gaps_s += [round(gap, 3) for gap in numbers.death_gaps_s(history)]

    def lines(self) -> list[str]:
        """For people."""
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        gaps, deaths = (_spread(gaps) for gaps in (self.gaps_s, self.death_gaps_s))
        return [
            f"runs                {sum(self.outcomes.values())}: {outcomes}; {self.seconds / 60:.0f} min",
            f"faults proven       {sum(self.proven.values()):,} of {len(self.proven)} kinds",
            f"processes killed    {self.kills:,}",
            f"power cuts          {self.power_cuts:,}; {self.bytes_lost:,} bytes lost",
            f"partitions          {self.partitions:,}",
            f"jobs                {self.jobs:,}, {self.jobs_hurt:,} of them while a fault hurt",
            f"attempts            {self.attempts:,}",
            f"operations checked  {self.operations:,}",
            f"output compared     {self.bytes_compared:,} bytes",
            f"log entries         {self.entries_compared:,} compared",
            f"failovers           {len(self.gaps_s):,}: {gaps}",
            f"leaders killed      {len(self.death_gaps_s):,}: {deaths} to another one",
        ]


def _spread(gaps_s: Sequence[float]) -> str:
    p50, p99, most = (numbers.percentile(gaps_s, share) for share in (0.5, 0.99, 1.0))
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, most {most:.2f} s"


def hurt(history: Sequence[Event], evidence: Evidence) -> set[str]:
    """The jobs during which a fault hurt that was proven."""
    proven = {event.id for event in history if event.kind == "proof" and event.value}
    begins = {event.id: event.t for event in history if event.kind == "hurt"}
    pains = [(begins[e.id], e.t) for e in history if e.kind == "heal" and e.id in proven & begins.keys()]
    first: dict[str, int] = {}
    for event in history:
        if event.op == "submit" and event.kind == "invoke":
            first.setdefault(event.value["job"], event.t)
    found = set()
    for job in evidence.jobs:
        if job.status is None or job.id not in first:
            continue
        lasted = (job.status.get("ended_ms") or 0) - (job.status.get("submitted_ms") or 0)
        ended = first[job.id] + max(0, lasted) * 1_000_000
        if any(began <= ended and healed >= first[job.id] for began, healed in pains):
            found.add(job.id)
    return found


def load(path: Path | None) -> Totals:
    """What `save` wrote; nothing yet where there is no file."""
    if path is None or not path.exists():
        return Totals()
    return msgspec.json.decode(path.read_bytes(), type=Totals)


def save(totals: Totals, path: Path | None) -> None:
    """As JSON, in one step."""
    if path is not None:
        aside = path.with_name(path.name + "~")
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(totals)))
        aside.replace(path)


def merged(parts: Sequence[Totals]) -> Totals:
    """The sum of several campaigns."""
    total = Totals()
    for part in parts:
        for name in ("outcomes", "proven"):
            setattr(total, name, dict(Counter(getattr(total, name)) + Counter(getattr(part, name))))
        for name in msgspec.structs.asdict(part):
            if name not in {"outcomes", "proven"}:
                setattr(total, name, getattr(total, name) + getattr(part, name))
    return total
