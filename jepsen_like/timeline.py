"""The picture of a run as SVG: who led, in which term, what hurt, what jobs lived through, what clients were told.

Pure: history and evidence in, text out. One time axis for all rows; colours say the same thing everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from jepsen_like.evidence import Evidence
from jepsen_like.history import Event

WIDTH, LEFT, RIGHT, ROW, GAP = 1240, 150, 16, 18, 4
ROLES = {"leader": "#1a7f37", "follower": "#d8e6dc", "candidate": "#e3b341", "silent": "#ffffff"}
STATES = {"SUCCEEDED": "#4f8fd0", "FAILED": "#b8860b", "CANCELLED": "#9a9a9a", "": "#d1242f"}
FAULT = "#cf4a3f"
KINDS = {"ok": "#1a7f37", "fail": "#b8860b", "info": "#d1242f"}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in a row; times in nanoseconds of the run."""

    row: str
    begin: int
    end: int
    colour: str
    title: str
    text: str = ""


def leaders(history: Sequence[Event], end: int) -> Iterator[Span]:
    """What each master said of itself, from one answer to the next."""
    rows: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        if event.op == "master":
            rows[event.node].append(event)
    for node in sorted(rows):
        spans: list[tuple[int, dict[str, Any]]] = []
        for event in rows[node]:
            known = spans[-1][1] if spans else {}
            if (event.value.get("role"), event.value.get("term")) != (known.get("role"), known.get("term")):
                spans.append((event.t, event.value))
        for (begin, value), (until, _) in zip(spans, [*spans[1:], (end, {})], strict=True):
            role, term = value["role"], value.get("term", "")
            which = f" in term {term}" if term else ""
            yield Span(
                row=f"master {node}",
                begin=begin,
                end=until,
                colour=ROLES.get(role, "#d8e6dc"),
                title=f"{node}: {role}{which} from {begin / 1e9:.2f} s to {until / 1e9:.2f} s",
                text=str(term) if role == "leader" else "",
            )


def hurts(history: Sequence[Event], end: int) -> Iterator[Span]:
    """Each fault from its hurt to its heal, packed into as few rows as hold them."""
    heals = {event.id: event.t for event in history if event.kind == "heal"}
    proofs = {event.id: event.value for event in history if event.kind == "proof"}
    free: list[int] = []
    for event in history:
        if event.kind != "hurt":
            continue
        until = heals.get(event.id, end)
        name = int(_label(event.op) * end / (WIDTH - LEFT - RIGHT))
        room = (
            until if until - event.t > name else until + name
        )  # its name stands behind it where it is too short
        row = next((n for n, busy in enumerate(free) if busy <= event.t), len(free))
        free[row : row + 1] = [room]
        proof = proofs.get(event.id)
        yield Span(
            row="faults" if row == 0 else " " * row,
            begin=event.t,
            end=until,
            colour=FAULT if proof else "#e8a49e",
            title=f"{event.op}: {event.value}\nproof: {proof or 'none'}",
            text=event.op,
        )


def jobs(history: Sequence[Event], evidence: Evidence, end: int) -> Iterator[Span]:
    """Each job from its first submit until somebody saw it ended."""
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    calls = {
        e.id: e.value["job"]
        for e in history
        if e.kind == "invoke" and isinstance(e.value, dict) and "job" in e.value
    }
    for event in history:
        job = calls.get(event.id)
        if job is None:
            continue
        if event.kind == "ok" and event.op == "submit":
            begins.setdefault(job, event.t)
        state = event.value.get("state") if event.kind == "ok" and isinstance(event.value, dict) else None
        if state in {"SUCCEEDED", "FAILED", "CANCELLED"}:
            ends.setdefault(job, event.t)
    states = {job.id: job.status["state"] if job.status else "" for job in evidence.jobs}
    reruns = {job.id: sum(job.status["reruns"].values()) if job.status else 0 for job in evidence.jobs}
    for job in sorted((j for j in begins if not j.startswith("register")), key=lambda j: begins[j]):
        state = states.get(job, "")
        yield Span(
            row=job,
            begin=begins[job],
            end=ends.get(job, end),
            colour=STATES.get(state, STATES[""]),
            title=f"{job}: {state or 'gone'}, {reruns.get(job, 0)} finished tasks run again",
            text=(state or "gone")
            if state != "SUCCEEDED"
            else (f"{reruns[job]} re-run" if reruns.get(job) else ""),
        )


def svg(history: Sequence[Event], evidence: Evidence) -> str:
    """The whole picture."""
    end = max((event.t for event in history), default=1) or 1
    spans = [*leaders(history, end), *hurts(history, end), *jobs(history, evidence, end)]
    rows = list(dict.fromkeys(span.row for span in spans))
    tall = len(rows) * (ROW + GAP) + 62
    scale = (WIDTH - LEFT - RIGHT) / end
    parts = [f'<svg viewBox="0 0 {WIDTH} {tall}" role="img" aria-label="timeline of the run">']
    parts += _axis(end, scale, tall - 20)
    healed = evidence.healed_t
    if healed:
        x = LEFT + healed * scale
        parts.append(
            f'<rect x="{x:.1f}" y="18" width="{(end - healed) * scale:.1f}" height="{tall - 38}" fill="#f2f8ff"/>'
        )
        parts.append(f'<text x="{x + 3:.1f}" y="14" class="mark">all healed, calm</text>')
    for number, row in enumerate(rows):
        y = 24 + number * (ROW + GAP)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" class="row">{escape(row.strip())}</text>')
        for span in (one for one in spans if one.row == row):
            parts.append(_bar(span, scale, y))
    y = 24 + len(rows) * (ROW + GAP)
    parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" class="row">operations</text>')
    for event in history:
        if event.kind in KINDS and event.op in {"submit", "cancel", "status", "wait", "again"}:
            x = LEFT + event.t * scale
            tick = {"ok": 6, "fail": 11, "info": 16}[event.kind]
            what = escape(f"{event.process} {event.op} {event.kind} at {event.t / 1e9:.2f} s")
            parts.append(
                f'<rect x="{x:.1f}" y="{y + ROW - tick}" width="1.2" height="{tick}" fill="{KINDS[event.kind]}">'
                f"<title>{what}</title></rect>"
            )
    return "\n".join([*parts, "</svg>"])


def _bar(span: Span, scale: float, y: int) -> str:
    x, width = LEFT + span.begin * scale, max(1.5, (span.end - span.begin) * scale)
    dark = span.colour in {ROLES["leader"], FAULT, *STATES.values()}
    fits = width > _label(span.text)
    label = ""
    if span.text:
        at, colour = (x + 4, "#fff" if dark else "#333") if fits else (x + width + 4, "#333")
        label = f'<text x="{at:.1f}" y="{y + 13}" class="label" fill="{colour}">{escape(span.text)}</text>'
    return (
        f'<g><title>{escape(span.title)}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW}" rx="2"'
        f' fill="{span.colour}" stroke="#0002"/>{label}</g>'
    )


def _label(text: str) -> float:
    """How wide it is, in pixels, with a little room."""
    return 6.3 * len(text) + 6


def _axis(end: int, scale: float, bottom: int) -> Iterator[str]:
    seconds = end / 1e9
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800) if seconds / s <= 14), 3600)
    for number in range(int(seconds // step) + 1):
        x = LEFT + number * step * 1e9 * scale
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{bottom}" stroke="#0000000f"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 14}" class="tick">{number * step} s</text>'
