"""A member that speaks nonsense, with the right certificate: any messages in any order break no promise here."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.fence import LawBroken
from tests.unit.consensus.solo import Solo, answer, append, piece, vote, vote_request

SMALL = st.integers(0, 9)
TERM = st.integers(0, 5)
PEER = st.sampled_from("bc")


@st.composite
def messages(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["append", "answer", "vote", "voted", "piece", "piece answer", "timeout"]))
    term = draw(TERM)
    match kind:
        case "append":
            prev = draw(SMALL)
            terms = draw(st.lists(st.integers(1, 5), max_size=4))
            new = [(b"\x00%d" % t, prev + 1 + i, t) for i, t in enumerate(terms)]
            promote = (draw(SMALL), draw(st.sampled_from([0, 7])))
            return append(term, (prev, draw(TERM)), new, draw(SMALL), round=draw(SMALL), promote=promote)
        case "answer":
            return answer(
                term,
                draw(SMALL),
                draw(st.booleans()),
                rejected=draw(SMALL),
                round=draw(SMALL),
                non_voter=draw(st.booleans()),
                incarnation=draw(st.integers(0, 2)),
            )
        case "vote":
            return vote_request(
                term, (draw(SMALL), draw(TERM)), pre=draw(st.booleans()), transfer=draw(st.booleans())
            )
        case "voted":
            return vote(term, pre=draw(st.booleans()), granted=draw(st.booleans()))
        case "piece":
            content = draw(st.binary(min_size=40, max_size=50))
            return piece(term, content, draw(st.integers(1, 9)), draw(TERM), draw(st.integers(0, 39)))
        case "piece answer":
            return {
                "type": "snapshot_answer",
                "term": term,
                "snapshot": (draw(SMALL), draw(TERM)),
                "held": draw(SMALL),
                "round": draw(SMALL),
            }
    return {"type": "timeout_now", "term": term}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PEER, messages(), st.sampled_from([0.0, 0.0, 0.1, 0.7])), max_size=25))
def test_any_messages_in_any_order(story: list[tuple[str, dict[str, Any], float]]) -> None:
    """Terms never fall, one vote a term, what is committed stays; at worst the process ends because a law is broken."""
    a = Solo()
    votes: dict[int, str] = {}
    committed: list[tuple[bytes, int, int]] = []
    term = 0
    for peer, message, pause in story:
        try:
            a.propose()
            a.wait(pause)
            sent = a.hear(peer, message)
        except LawBroken:
            return
        assert a.node.term >= term
        term = a.node.term
        for to, said in sent:
            if said["type"] == "response_vote" and said["granted"] and not said["pre"]:
                assert votes.setdefault(said["term"], to) == to
        base = a.node.journal[0][1]
        now = list(a.node.journal[: a.node.commit + 1 - base])
        assert a.node.commit <= a.node.last
        if base == 1:
            assert now[: len(committed)] == committed
            committed = now
