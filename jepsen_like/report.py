"""What a run found, for people: one HTML file that needs nothing else, and a short text. The verdict comes first.

Pure but for the folder's name: a story in, text out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jepsen_like import timeline
from jepsen_like.checkers_consensus import MOST
from jepsen_like.evidence import Evidence
from jepsen_like.history import Event
from jepsen_like.numbers import numbers
from jepsen_like.verdict import Outcome, Verdict

MARK = {Outcome.VALID: "✓", Outcome.INVALID: "✗", Outcome.UNKNOWN: "?"}
COLOUR = {Outcome.VALID: "#1a7f37", Outcome.INVALID: "#c62828", Outcome.UNKNOWN: "#9a6700"}
SENTENCE = {
    Outcome.VALID: "Every promise that was checked held.",
    Outcome.INVALID: "A promise was broken.",
    Outcome.UNKNOWN: "This run proves nothing: something could not be judged.",
}


@dataclass(frozen=True, slots=True)
class Story:
    """Everything a report tells."""

    config: Mapping[str, Any]
    history: Sequence[Event]
    evidence: Evidence
    verdicts: Sequence[Verdict]
    outcome: Outcome
    folder: Path

    @property
    def replay(self) -> str:
        """The command that plays the run again."""
        return f"mr chaos replay {self.folder}"


def text(story: Story) -> str:
    """For a terminal: the verdict, what is not valid, a few numbers, where the rest is."""
    rows = [f"{story.outcome.upper()}  {SENTENCE[story.outcome]}", ""]
    for verdict in story.verdicts:
        if verdict.outcome is not Outcome.VALID:
            ids = f"  [{', '.join(verdict.invariants)}]" if verdict.invariants else ""
            rows.append(f"  {MARK[verdict.outcome]} {verdict.checker}{ids}: {verdict.reason}")
            if verdict.excerpt != (verdict.reason,):
                rows += [f"      {line}" for line in verdict.excerpt[:MOST]]
    good = [verdict.checker for verdict in story.verdicts if verdict.outcome is Outcome.VALID]
    if good:
        rows.append(f"  {MARK[Outcome.VALID]} {len(good)} of {len(story.verdicts)} checkers valid")
    rows.append("")
    for name, value in numbers(story.history, story.evidence).items():
        rows.append(f"  {name:30} {value}")
    rows += ["", f"  report  {story.folder / 'report.html'}", f"  again   {story.replay}"]
    return "\n".join(rows)


def html(story: Story) -> str:
    """One file: styles and picture inside."""
    broken = [v for v in story.verdicts if v.outcome is not Outcome.VALID]
    sections = [
        _head(story),
        *(_violation(v) for v in broken),
        _picture(story),
        _numbers(story),
        _checkers(story),
    ]
    sections.append(_again(story))
    title = f"{story.outcome} · seed {story.config.get('seed', '?')}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><main>{''.join(sections)}</main></html>\n"
    )


def _head(story: Story) -> str:
    config, outcome = story.config, story.outcome
    asked = [
        ("seed", config.get("seed")),
        ("storm", f"{float(config['seconds']):g} s" if config.get("seconds") else None),
        (
            "cluster",
            f"{config.get('masters')} masters, {config.get('workers')} workers"
            if config.get("masters")
            else None,
        ),
        ("faults", config.get("faults") if not config.get("script") else "as written"),
    ]
    facts = " · ".join(f"{name} <b>{escape(str(value))}</b>" for name, value in asked if value is not None)
    return (
        f'<header style="border-color:{COLOUR[outcome]}"><h1 style="color:{COLOUR[outcome]}">'
        f"{MARK[outcome]} {escape(outcome.upper())}</h1><p class=lead>{SENTENCE[outcome]}</p><p>{facts}</p></header>"
    )


def _violation(verdict: Verdict) -> str:
    ids = " ".join(f"<code>{escape(id)}</code>" for id in verdict.invariants)
    lines = "\n".join(escape(line) for line in verdict.excerpt)
    return (
        f'<section class=bad style="border-color:{COLOUR[verdict.outcome]}"><h2>{MARK[verdict.outcome]} '
        f"{escape(verdict.checker)} {ids}</h2><p>{escape(verdict.reason)}</p>"
        + (f"<pre>{lines}</pre>" if lines and verdict.excerpt != (verdict.reason,) else "")
        + "</section>"
    )


def _picture(story: Story) -> str:
    if not story.history:
        return ""
    legend = [
        (timeline.ROLES["leader"], "leads (its term)"),
        (timeline.ROLES["follower"], "follows"),
        (timeline.ROLES["candidate"], "candidate"),
        (timeline.ROLES["silent"], "no answer"),
        (timeline.FAULT, "fault, proven"),
        ("#e8a49e", "fault, no proof"),
        (timeline.STATES["SUCCEEDED"], "job succeeded"),
        (timeline.STATES["FAILED"], "job failed"),
        (timeline.STATES["CANCELLED"], "job cancelled"),
    ]
    keys = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for colour, name in legend)
    picture = timeline.svg(story.history, story.evidence)
    return (
        f"<section><h2>What happened</h2>{picture}<p class=legend>{keys}"
        "<span>operations: <b style='color:#1a7f37'>▏answered</b> <b style='color:#b8860b'>▏refused</b>"
        " <b style='color:#d1242f'>▏unknown</b></span></p></section>"
    )


def _numbers(story: Story) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in numbers(story.history, story.evidence).items()
    )
    return f"<section><h2>Numbers</h2><table>{rows}</table></section>"


def _checkers(story: Story) -> str:
    rows = "".join(
        f'<tr><td style="color:{COLOUR[v.outcome]}"><b>{MARK[v.outcome]}</b> {v.outcome}</td>'
        f"<th>{escape(v.checker)}</th><td>{' '.join(v.invariants)}</td>"
        f"<td>{escape(', '.join(f'{count:,} {name}' for name, count in v.counted.items()))}</td></tr>"
        for v in story.verdicts
    )
    return f"<section><h2>Checkers, and how much evidence each has seen</h2><table>{rows}</table></section>"


def _again(story: Story) -> str:
    commands = f"{story.replay}\nmr verify {story.folder}"
    files = ", ".join(sorted(p.name for p in story.folder.iterdir())) if os.path.isdir(story.folder) else ""
    return (
        f"<section><h2>Again</h2><p>The same seed gives the same jobs and the same schedule of faults.</p>"
        f"<pre>{escape(commands)}</pre><p>Beside this file: {escape(files)}.</p></section>"
    )


STYLE = """
body{margin:0;background:#f6f7f8;color:#1c2126;font:14px/1.45 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1270px;margin:0 auto;padding:16px}
header,section{background:#fff;border:1px solid #d9dee3;border-radius:8px;padding:12px 18px;margin:0 0 14px}
header{border-left:10px solid}header h1{margin:0;font-size:30px}.lead{font-size:17px;margin:2px 0 6px}
header p{margin:4px 0}h2{font-size:16px;margin:2px 0 8px}
.bad{border-left:6px solid}pre{background:#f3f4f6;border-radius:6px;padding:10px;overflow:auto;font-size:12.5px;
white-space:pre-wrap;margin:6px 0}code{background:#eef1f4;border-radius:4px;padding:1px 6px;font-size:12px}
table{border-collapse:collapse}td,th{padding:3px 18px 3px 0;text-align:left;vertical-align:top;font-weight:400}
th{font-weight:600}svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,"DejaVu Sans",sans-serif}.row{text-anchor:end;fill:#444}.tick{text-anchor:middle;fill:#888}
.mark{fill:#1f6feb}.legend{display:flex;flex-wrap:wrap;gap:4px 18px;color:#555;font-size:12px;margin:8px 0 0}
.legend i{display:inline-block;width:14px;height:10px;border-radius:2px;margin-right:5px;border:1px solid #0002}
"""
