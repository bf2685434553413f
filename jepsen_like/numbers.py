"""The numbers of a run: how much was attacked, how much was checked, how long nobody led. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jepsen_like.evidence import Evidence, Job
from jepsen_like.history import Event

NOTICED_S = 1.0  # within it the watcher has seen that somebody is gone


@dataclass(frozen=True, slots=True)
class Failover:
    """From the moment at which a leader was last seen in office, when it then lost it, until a leader of a newer term
    was seen; nanoseconds of the run. As seen from outside, ten times a second."""

    leader: str
    lost: int
    until: int

    @property
    def seconds(self) -> float:
        """How long nobody was seen to lead."""
        return (self.until - self.lost) / 1e9


def failovers(history: Sequence[Event]) -> list[Failover]:
    """All of a run, in order."""
    found: list[Failover] = []
    leader, last, lost = "", 0, 0
    term = 0
    for event in history:
        if event.op != "master":
            continue
        role, now = event.value.get("role"), event.value.get("term", 0)
        if role == "leader" and now >= term:
            if term and now > term:
                found.append(Failover(leader, lost or last, event.t))
            leader, term, lost, last = event.node, now, 0, event.t
        elif event.node == leader and not lost:
            lost = event.t
    return found


def gaps_s(history: Sequence[Event]) -> list[float]:
    """Seconds without a leader, for every failover, whatever its reason: a pause or a partition lasts as long as it
    lasts."""
    return [one.seconds for one in failovers(history)]


def death_gaps_s(history: Sequence[Event]) -> list[float]:
    """Seconds from the SIGKILL of a leader by `kill-leader` until another one was seen (C14), in the midst of whatever
    else hurt."""
    deaths = [
        (death["node"], event.t)
        for event in history
        if event.kind == "hurt" and event.op == "kill-leader" and isinstance(event.value, dict)
        for death in event.value.get("killed", ())
        if death["lived"]
    ]
    return [
        max(0.0, (one.until - t) / 1e9)
        for one in failovers(history)
        for node, t in deaths
        if node == one.leader and abs(one.lost - t) < NOTICED_S * 1e9
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def numbers(history: Sequence[Event], evidence: Evidence) -> dict[str, str]:
    """Name to text, in the order of the report."""
    operations = Counter(e.kind for e in history if e.kind in {"ok", "fail", "info"})
    proven = Counter(e.op for e in history if e.kind == "proof" and e.value)
    terms = {e.value["term"] for e in history if e.op == "master" and e.value.get("role") == "leader"}
    gaps, deaths = gaps_s(history), death_gaps_s(history)
    states = Counter(_end(job) for job in evidence.jobs)
    reruns: Counter[str] = Counter()
    for job in evidence.jobs:
        if job.status:
            reruns.update(job.status["reruns"])
    lost = sum(
        int(e.value.get("bytes", 0)) for e in history if e.kind == "proof" and e.value and "cuts" in e.value
    )
    compared = sum(part["bytes"] for job in evidence.jobs for part in job.reference.values())
    return {
        "operations": f"{sum(operations.values())}: {operations['ok']} ok, {operations['fail']} refused,"
        f" {operations['info']} without a certain answer",
        "jobs": ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none",
        "attempts begun": str(sum(line["what"] == "begun" for w in evidence.workers for line in w.journal)),
        "finished tasks run again": ", ".join(f"{count} {why}" for why, count in reruns.items()) or "none",
        "faults proven": f"{sum(proven.values())}: "
        + ", ".join(f"{n} {name}" for name, n in proven.most_common())
        if proven
        else "none",
        "terms": str(len(terms)),
        "failover": f"{len(gaps)} times, without a leader p50 {percentile(gaps, 0.5):.2f} s, most {max(gaps):.2f} s"
        if gaps
        else "none",
        "leader killed": f"{len(deaths)} times, another one after p50 {percentile(deaths, 0.5):.2f} s,"
        f" most {max(deaths):.2f} s"
        if deaths
        else "never",
        "bytes lost in power cuts": f"{lost:,}",
        "output compared": f"{compared:,} bytes",
        "log entries compared": str(
            sum(line.get("type") == "entry" for m in evidence.masters for line in m.dump)
        ),
        "calm until the last job ended": f"{evidence.calm_s:.1f} s",
    }


def _end(job: Job) -> str:
    """How it ended; some jobs of the mix are there to fail."""
    if job.status is None:
        return "gone"
    state = str(job.status["state"])
    return f"{state} as they should" if state == job.expected == "FAILED" else state
