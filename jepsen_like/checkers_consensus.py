"""The consensus plane judged from the disks of the masters and from what each said of itself: C1 to C7.

Pure: evidence in, verdict out. `mr master dump` replays each log with the replica's own snapshot as the start, so equal
hashes of the state at one index mean that a snapshot and the entries up to it say the same (C7).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from jepsen_like.evidence import Evidence, Master
from jepsen_like.history import Event
from jepsen_like.verdict import Outcome, Verdict

MOST = 8  # lines of an excerpt


def verdict(
    checker: str,
    invariants: tuple[str, ...],
    wrong: Sequence[str],
    counted: dict[str, int],
    *,
    needs: str = "",
    reason: str = "",
) -> Verdict:
    """Invalid when something is `wrong`; unknown when `needs`, the evidence it rests on, was not there at all."""
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return Verdict(
            checker=checker,
            outcome=Outcome.INVALID,
            invariants=invariants,
            reason=wrong[0] + more,
            excerpt=tuple(wrong[:MOST]),
            counted=counted,
        )
    missing = bool(needs) and not counted.get(needs)
    why = f"no evidence: {needs} = 0" if missing else reason
    outcome = Outcome.UNKNOWN if missing else Outcome.VALID
    return Verdict(checker=checker, outcome=outcome, invariants=invariants, reason=why, counted=counted)


def elections(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C1: nobody ever saw two leaders of one term: neither the watcher nor any worker that was welcomed."""
    leaders: dict[int, dict[str, str]] = defaultdict(dict)
    for event in history:
        if event.op == "master" and event.value.get("role") == "leader":
            leaders[event.value["term"]].setdefault(
                event.node, f"{event.node} said so at {event.t / 1e9:.3f} s"
            )
    for worker in evidence.workers:
        for line in worker.journal:
            if line["what"] == "joined" and line["leader"]:
                said = f"{worker.id} was welcomed by {line['leader']} at {line['t'] / 1e9:.3f} s"
                leaders[line["term"]].setdefault(line["leader"], said)
    wrong = [
        f"term {term} had {len(who)} leaders: {'; '.join(who.values())}"
        for term, who in leaders.items()
        if len(who) > 1
    ]
    return verdict("one leader a term", ("C1",), wrong, {"terms": len(leaders)}, needs="terms")


def terms(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C2: a master's term never falls, over all its lives; its disk still knows the greatest that it was seen in.
    A master whose disk was taken away on purpose begins anew."""
    seen: dict[str, tuple[int, int]] = {}
    wrong, counted = [], 0
    for event in history:
        if event.op in REPLACED and event.kind == "hurt":
            seen.pop(_node(event), None)
        elif event.op == "master" and event.value.get("term"):
            counted += 1
            term, at = seen.get(event.node, (0, 0))
            if event.value["term"] < term:
                wrong.append(
                    f"{event.node} was in term {term} at {at / 1e9:.3f} s and in term {event.value['term']}"
                    f" at {event.t / 1e9:.3f} s"
                )
            if event.value["term"] >= term:
                seen[event.node] = (event.value["term"], event.t)
    for master in evidence.masters:
        member = _of_type(master, "member")
        if member and master.id in seen and member[0]["term"] < seen[master.id][0]:
            wrong.append(
                f"{master.id} was seen in term {seen[master.id][0]}, its disk says {member[0]['term']}"
            )
    return verdict("terms never fall", ("C2",), wrong, {"observations": counted}, needs="observations")


def logs(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C3 and C5: one entry at (index, term) in two logs means one content and one prefix; what is committed at an index
    is the same everywhere."""
    wrong: list[str] = []
    entries = {
        m.id: {line["index"]: line for line in _of_type(m, "entry")} for m in evidence.masters if m.dump
    }
    names = sorted(entries)
    compared = 0
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            mine, theirs = entries[one], entries[other]
            matched_at = 0  # the highest index at which both have one term: the prefixes below must be equal
            for index in sorted(mine.keys() & theirs.keys(), reverse=True):
                compared += 1
                a, b = mine[index], theirs[index]
                same_term, same = a["term"] == b["term"], a["digest"] == b["digest"]
                if "base" in (
                    a.get("kind"),
                    b.get("kind"),
                ):  # its content may be a placeholder, its term is not
                    same = same_term
                if same_term and not matched_at:
                    matched_at = index
                if same_term and same:
                    continue
                where = f"index {index}: {one} has {_entry(a)}, {other} has {_entry(b)}"
                if a["committed"] and b["committed"]:
                    wrong.append(f"two entries are committed at {where}")
                elif same_term:
                    wrong.append(f"one term, two contents at {where}")
                elif matched_at:
                    wrong.append(f"the logs agree at {matched_at}, but not before, at {where}")
    wrong += _gaps(evidence)
    refused = [f"{m.id}: {m.refused}" for m in evidence.masters if m.refused]
    reason = f"not readable: {'; '.join(refused)}" if refused else ""
    needs = "entries" if len(evidence.masters) > 1 else ""
    found = verdict("logs agree", ("C3", "C5"), wrong, {"entries": compared}, needs=needs, reason=reason)
    return replace(found, outcome=Outcome.UNKNOWN) if refused and not wrong else found


def _entry(line: dict[str, Any]) -> str:
    return f"term {line['term']} {line['digest'][:12]}"


def _gaps(evidence: Evidence) -> Iterable[str]:
    """A log has no hole, and its terms never fall from entry to entry."""
    for master in evidence.masters:
        before: dict[str, int] = {}
        for line in _of_type(master, "entry"):
            if before and line["index"] != before["index"] + 1:
                yield f"{master.id}: the log goes from index {before['index']} to {line['index']}"
            if before and line["term"] < before["term"]:
                yield f"{master.id}: term {line['term']} at index {line['index']} comes after term {before['term']}"
            before = line
        head = _of_type(master, "member")
        if before and head and before["term"] > head[0]["term"]:
            yield f"{master.id} has an entry of term {before['term']}, its disk knows term {head[0]['term']}"
        if before and head and before["index"] != head[0]["last"]:
            yield f"{master.id} says that its log ends at {head[0]['last']}, it ends at {before['index']}"


def states(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C6 and C7: at every index at which two replicas have a state, it is one state; wherever each began from."""
    wrong, compared = [], 0
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for master in evidence.masters:
        began = {line["index"] for line in _of_type(master, "snapshot")}
        for line in _of_type(master, "state"):
            how = " (its snapshot)" if line["index"] in began else ""
            found[line["index"]][line["hash"]].append(master.id + how)
    for index in sorted(found):
        compared += sum(map(len, found[index].values())) > 1
        if len(found[index]) > 1:
            who = "; ".join(f"{', '.join(ids)}: {hash[:12]}" for hash, ids in found[index].items())
            wrong.append(f"after index {index} the replicas differ: {who}")
    needs = "states" if len(evidence.masters) > 1 else ""
    return verdict("states agree", ("C6", "C7"), wrong, {"states": compared}, needs=needs)


def views(_history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C6, T11: when all is quiet, every living master by itself shows every job alike, counters too. While jobs still
    run, each shows what it has heard so far, which proves nothing (that they run is another checker's to say)."""
    if evidence.unfinished:
        why = f"not quiet: {len(evidence.unfinished)} jobs had not ended"
        return Verdict(
            checker="masters show one table", outcome=Outcome.UNKNOWN, invariants=("C6", "T11"), reason=why
        )
    wrong, compared = [], 0
    shown: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for master in evidence.masters:
        for job, view in master.view.items():
            if "error" not in view or view["error"] == "NotFound":
                shown[job][repr(sorted(view.items()))].append(master.id)
    for job, versions in shown.items():
        compared += 1
        if len(versions) > 1:
            who = "; ".join(f"{', '.join(ids)} show {text[:160]}" for text, ids in versions.items())
            wrong.append(f"{job} looks different: {who}")
    showing = [master for master in evidence.masters if master.view]
    ends = {job.id: job.status for job in evidence.jobs if job.status}
    for master in showing:
        for id, status in ends.items():
            view = master.view.get(id, {"state": "nothing"})
            if "error" not in view and view.get("state") != status["state"]:
                wrong.append(
                    f"{master.id} shows {id} as {view.get('state')}, the cluster says {status['state']}"
                )
    silent = [m.id for m in evidence.masters if not m.view] if showing else []
    reason = f"{', '.join(silent)} showed nothing" if silent and ends else ""
    found = verdict("masters show one table", ("C6", "T11"), wrong, {"jobs": compared}, reason=reason)
    return replace(found, outcome=Outcome.UNKNOWN) if reason and not wrong else found


def _of_type(master: Master, kind: str) -> list[dict[str, Any]]:
    return [line for line in master.dump if line.get("type") == kind]


def votes(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C2: nobody votes twice in a term. What a stopped member's disk says of its last term is held against who led in
    it: a leader has the recorded votes of a majority, but for members that went on to a later term since, or whose
    disk was taken away."""
    led = _leaders(history, evidence)
    replaced = {_node(e) for e in history if e.op in REPLACED}
    wrong, counted = [], 0
    records = {m.id: head[0] for m in evidence.masters if (head := _of_type(m, "member"))}
    for term, who in led.items():
        for leader in who:
            against = [
                f"{id} voted for {record['vote']}" if record["vote"] else f"{id} did not vote"
                for id, record in sorted(records.items())
                if id not in replaced
                and record["term"] == term
                and record["vote"] != leader
                and record.get("voter", True)
            ]
            behind = [
                f"{id} never came to term {term}"
                for id, record in sorted(records.items())
                if id not in replaced and record["term"] < term
            ]
            counted += 1
            size = max(len(records), len(evidence.masters))
            if records and size - len(against) - len(behind) < size // 2 + 1:
                wrong.append(
                    f"{leader} led term {term} without a majority of votes: {'; '.join([*against, *behind])}"
                )
    return verdict(
        "leaders were voted for", ("C2",), wrong, {"leaders": counted, "disks": len(records)}, needs="disks"
    )


def _node(event: Event) -> str:
    """Whom a fault hit."""
    return event.node or (str(event.value.get("node", "")) if isinstance(event.value, dict) else "")


REPLACED = frozenset({"wiped-master", "damaged-master", "disk-replaced", "lose-disk"})


def _leaders(history: Sequence[Event], evidence: Evidence) -> dict[int, set[str]]:
    """Who led in each term, by his own word or that of a worker whom he welcomed."""
    led: dict[int, set[str]] = defaultdict(set)
    for event in history:
        if event.op == "master" and event.value.get("role") == "leader":
            led[event.value["term"]].add(event.node)
    for worker in evidence.workers:
        for line in worker.journal:
            if line["what"] == "joined" and line["leader"]:
                led[line["term"]].add(line["leader"])
    return led


def completeness(history: Sequence[Event], evidence: Evidence) -> Verdict:
    """C4: what was committed in a term is in the log of every leader of a later one. From the disks: no log has an
    entry of a later term where a committed one stands elsewhere, or before it. From the leaders' own words: the last
    leader's disk holds all that any leader said was committed, and so do those of a majority."""
    committed: dict[int, tuple[int, str, str]] = {}  # index -> term, digest, whose log
    for master in evidence.masters:
        for line in _of_type(master, "entry"):
            if line["committed"] and line.get("kind") != "base":
                committed.setdefault(line["index"], (line["term"], line["digest"], master.id))
    wrong = [text for master in evidence.masters for text in _overwritten(master, committed)]
    told = [
        (e.value["commit"], e.value["term"], e.node)
        for e in history
        if e.op == "master" and e.value.get("role") == "leader" and e.value.get("commit")
    ]
    heads = {m.id: head[0] for m in evidence.masters if (head := _of_type(m, "member"))}
    most, term, by = max(told, default=(0, 0, ""))
    last_term = max((t for _, t, _ in told), default=0)
    for leader in sorted({node for _, t, node in told if t == last_term and node in heads}):
        if heads[leader]["last"] < most:
            wrong.append(
                f"{leader} led term {last_term} with a log to index {heads[leader]['last']}, though {by} had"
                f" committed index {most} in term {term}"
            )
    short = [f"{id} to {head['last']}" for id, head in sorted(heads.items()) if head["last"] < most]
    if heads and len(heads) - len(short) < len(evidence.masters) // 2 + 1:
        wrong.append(f"index {most}, committed by {by} in term {term}, is on no majority: {', '.join(short)}")
    counted = {"committed": len(committed), "told": len(told)}
    return verdict("leaders have all that is committed", ("C4", "C8"), wrong, counted, needs="committed")


def _overwritten(master: Master, committed: dict[int, tuple[int, str, str]]) -> Iterable[str]:
    """Entries of a later term than a committed one, in its place or before it: their leader did not have it."""
    entries = {line["index"]: line for line in _of_type(master, "entry")}
    indexes = sorted(entries)
    for index, (term, _, whose) in committed.items():
        place = bisect_right(indexes, index) - 1
        if place >= 0 and entries[indexes[place]]["term"] > term:
            line = entries[indexes[place]]
            yield (
                f"{whose} has index {index} committed in term {term}, but at index {line['index']} {master.id} has"
                f" {_entry(line)}: the leader of that term lacked what was committed"
            )
