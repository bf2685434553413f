"""The report: verdict first, the smallest excerpt of a violation, a picture of everything, the command that replays."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jepsen_like import numbers, timeline
from jepsen_like.evidence import Evidence, Job, load, save
from jepsen_like.history import Event
from jepsen_like.report import Story, html, text
from jepsen_like.verdict import Outcome, Verdict

S = 1_000_000_000


def event(t: float, kind: str, op: str, value: object, *, id: int = 0, node: str = "") -> Event:
    return Event(t=int(t * S), process="p", kind=kind, op=op, value=value, node=node, id=id)


HISTORY = [
    event(0, "note", "master", {"role": "leader", "term": 1, "commit": 1}, node="a"),
    event(0, "note", "master", {"role": "follower", "term": 1}, node="b"),
    event(1, "invoke", "submit", {"job": "wc-000"}, id=1),
    event(1.2, "ok", "submit", {"job": "wc-000", "existed": False}, id=1),
    event(2, "hurt", "kill-leader", {"killed": [{"node": "a", "lived": True}], "note": "<b>"}, id=2),
    event(2.1, "note", "master", {"role": "silent"}, node="a"),
    event(2.8, "note", "master", {"role": "leader", "term": 2, "commit": 9}, node="b"),
    event(4, "heal", "kill-leader", None, id=2),
    event(4, "proof", "kill-leader", {"status": -9}, id=2),
    event(5, "invoke", "wait", {"job": "wc-000"}, id=3),
    event(6, "ok", "wait", {"state": "SUCCEEDED"}, id=3),
]
EVIDENCE = Evidence(
    jobs=[Job(id="wc-000", status={"state": "SUCCEEDED", "reruns": {"worker lost": 2}})],
    healed_t=4 * S,
    calm_s=2,
)
BAD = Verdict(
    checker="outputs are right",
    outcome=Outcome.INVALID,
    invariants=("D1",),
    reason="wc-000: part-r-00000 <differs>",
    excerpt=("the line that shows it",),
)
GOOD = Verdict(checker="logs agree", outcome=Outcome.VALID, counted={"entries": 1234})


def story(*verdicts: Verdict, outcome: Outcome, folder: Path = Path("/runs/7")) -> Story:
    config = {"seed": 7, "seconds": 60.0, "masters": 3, "workers": 3, "faults": "all"}
    return Story(config, HISTORY, EVIDENCE, verdicts, outcome, folder)


class Balanced(HTMLParser):
    """Fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_violation_stands_at_the_top_with_its_excerpt_and_how_to_replay_it() -> None:
    page = html(story(BAD, GOOD, outcome=Outcome.INVALID))
    order = [
        page.index(words)
        for words in ("INVALID", "the line that shows it", "What happened", "mr chaos replay /runs/7")
    ]
    assert order == sorted(order)
    assert "&lt;differs&gt;" in page, "what servers say is text, not markup"
    assert "<b>" not in page.split("kill-leader:")[1][:120]


def test_the_page_is_one_well_formed_file_without_anything_from_elsewhere() -> None:
    page = html(story(GOOD, outcome=Outcome.VALID))
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page


def test_the_text_says_the_verdict_first_and_only_then_numbers() -> None:
    said = text(story(BAD, GOOD, outcome=Outcome.INVALID)).splitlines()
    assert said[0].startswith("INVALID")
    assert "[D1]" in said[2]
    assert "1 of 2 checkers valid" in "\n".join(said)
    assert said[-1].strip() == "again   mr chaos replay /runs/7"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_a_page(outcome: Outcome) -> None:
    assert outcome.upper() in html(story(GOOD, outcome=outcome))


def test_an_empty_run_still_has_a_page() -> None:
    empty = Story({}, [], Evidence(), [], Outcome.UNKNOWN, Path("/none"))
    assert "UNKNOWN" in html(empty)
    assert text(empty).startswith("UNKNOWN")


def test_the_picture_has_a_row_for_each_master_fault_and_job() -> None:
    rows = {span.row for span in timeline.leaders(HISTORY, 6 * S)}
    assert rows == {"master a", "master b"}
    (hurt,) = timeline.hurts(HISTORY, 6 * S)
    assert (hurt.begin, hurt.end, hurt.text) == (2 * S, 4 * S, "kill-leader")
    (job,) = timeline.jobs(HISTORY, EVIDENCE, 6 * S)
    assert (job.row, job.text) == ("wc-000", "2 re-run")


def test_a_failover_is_measured_from_the_loss_of_one_leader_to_the_next() -> None:
    assert numbers.gaps_s(HISTORY) == [pytest.approx(0.7)]


def test_after_a_death_it_is_measured_from_the_signal_and_only_if_the_leader_died() -> None:
    assert numbers.death_gaps_s(HISTORY) == [pytest.approx(0.8)]
    follower = [
        e if e.kind != "hurt" else replace(e, value={"killed": [{"node": "b", "lived": True}]})
        for e in HISTORY
    ]
    assert numbers.death_gaps_s(follower) == []
    other = [e if e.kind != "hurt" else replace(e, op="leader-alone") for e in HISTORY]
    assert numbers.death_gaps_s(other) == []


def test_evidence_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    save(EVIDENCE, tmp_path / "evidence.json")
    assert load(tmp_path / "evidence.json") == EVIDENCE
    (tmp_path / "bad.json").write_text('{"jobs": 7}')
    with pytest.raises(ValueError, match="no evidence"):
        load(tmp_path / "bad.json")
