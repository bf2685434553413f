"""The fence as a function: any append from a leader whose log is lawful leaves the follower's log lawful (C3, C5)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import fence
from consensus.fence import Ballot, LawBroken, Voter, judge_append, term_at, up_to_date
from consensus.progress import Member, Mode, agreed, confirmed_round, last_quorum

Log = list[tuple[bytes, int, int]]


def log_of(*terms: int, first: int = 1) -> Log:
    return [(b"%d/%d" % (first + i, t), first + i, t) for i, t in enumerate(terms)]


def message(leader: Log, prev: int, last: int, commit: int) -> dict[str, Any]:
    held = term_at(leader, prev)
    assert held is not None
    base = leader[0][1]
    return {
        "type": "append_entries",
        "term": 99,
        "prevLogIdx": prev,
        "prevLogTerm": held,
        "entries": leader[prev + 1 - base : last + 1 - base],
        "commit_index": commit,
    }


def carry_out(log: Log, left: dict[str, Any]) -> Log:
    """What pysyncobj does with what is left of an append."""
    base = log[0][1]
    position = left["prevLogIdx"] - base
    assert log[position][2] == left["prevLogTerm"], "pysyncobj would reject what the fence let through"
    return [*log[: position + 1], *left["entries"]] if left["entries"] or position + 1 < len(log) else log


@st.composite
def pairs(draw: Any) -> tuple[Log, Log, int]:
    """A leader's and a follower's log that share a prefix, all of whose committed entries lie in it."""
    common = sorted(draw(st.lists(st.integers(1, 3), max_size=6)))
    tail = sorted(draw(st.lists(st.integers(4, 6), max_size=6)))
    other = sorted(draw(st.lists(st.integers(7, 9), max_size=6)))
    follower = log_of(0, *common, *tail)
    leader = log_of(0, *common, *other)
    commit = draw(st.integers(1, 1 + len(common)))
    drop = draw(st.integers(0, commit - 1))  # the follower's log begins with a snapshot's end
    return follower[drop:], leader, commit


@given(pairs(), st.data())
def test_an_append_leaves_a_prefix_of_the_leaders_log_or_nothing_changed(
    pair: tuple[Log, Log, int], data: st.DataObject
) -> None:
    follower, leader, commit = pair
    prev = data.draw(st.integers(1, leader[-1][1]))
    last = data.draw(st.integers(prev, leader[-1][1]))
    verdict = judge_append(follower, commit, message(leader, prev, last, leader[-1][1]))
    after = carry_out(follower, verdict.message)
    committed = follower[: commit + 1 - follower[0][1]]
    assert after[: len(committed)] == committed, "what is committed is final"
    if verdict.matched:
        end = verdict.next_index - 1
        assert verdict.message["commit_index"] <= end
        assert all(
            term_at(after, i) == term_at(leader, i) for i in range(after[0][1], end + 1) if i <= leader[-1][1]
        )
        assert end >= last or end >= follower[0][1]
        kept = [e for e in follower if term_at(leader, e[1]) == e[2]]
        assert len(after) >= len(kept), "nothing that agrees is lost (hazard 2)"
    else:
        assert after == follower
        assert verdict.message["commit_index"] <= commit
        assert commit < verdict.next_index <= follower[-1][1] + 1


@given(pairs(), st.data())
def test_the_same_append_twice_is_the_same_as_once(pair: tuple[Log, Log, int], data: st.DataObject) -> None:
    follower, leader, commit = pair
    prev = data.draw(st.integers(1, leader[-1][1]))
    last = data.draw(st.integers(prev, leader[-1][1]))
    sent = message(leader, prev, last, commit)
    once = carry_out(follower, judge_append(follower, commit, sent).message)
    again = judge_append(once, commit, sent)
    assert carry_out(once, again.message) == once
    assert not again.message["entries"]


@given(pairs())
def test_probing_finds_where_the_logs_agree(pair: tuple[Log, Log, int]) -> None:
    """Hazard 15: from any start, in at most one question per term of the follower's tail and two more."""
    follower, leader, commit = pair
    last = leader[-1][1]
    member = Member(next=last + 1)
    questions = len({e[2] for e in follower}) + 3
    for _ in range(questions):
        prev = member.next - 1
        verdict = judge_append(follower, commit, message(leader, prev, prev, commit))
        reply = {"success": verdict.matched, "next_node_idx": verdict.next_index, "rejected": prev}
        member.answered(reply, last)
        if member.mode is Mode.STREAM:
            assert term_at(follower, min(member.match, follower[-1][1])) == term_at(leader, member.match)
            return
    pytest.fail(f"no agreement after {questions} questions")


@pytest.mark.parametrize(
    ("promise", "log", "commit", "prev", "terms"),
    [
        ("an entry that contradicts a committed one", log_of(0, 1, 1, 1), 4, (2, 1), [2]),
        ("a prev that contradicts a committed one", log_of(0, 1, 1, 1), 4, (3, 2), []),
    ],
)
def test_what_is_committed_is_never_overwritten(
    promise: str, log: Log, commit: int, prev: tuple[int, int], terms: list[int]
) -> None:
    sent = {
        "type": "append_entries",
        "term": 9,
        "prevLogIdx": prev[0],
        "prevLogTerm": prev[1],
        "entries": [(b"x", prev[0] + 1 + i, t) for i, t in enumerate(terms)],
        "commit_index": 1,
    }
    with pytest.raises(LawBroken):
        judge_append(log, commit, sent)


VOTER = {"term": 3, "votes": True, "leads": False, "leader_alive": False}


@pytest.mark.parametrize(
    ("promise", "voter", "asked", "would", "lets"),
    [
        ("nobody leads: yes", {}, {"term": 4}, True, True),
        ("a leader is alive: no", {"leader_alive": True}, {"term": 4}, False, False),
        (
            "a leader asked for it: the vote, yes",
            {"leader_alive": True},
            {"term": 4, "transfer": True},
            False,
            True,
        ),
        ("we lead: no", {"leads": True}, {"term": 4}, False, False),
        ("we have no vote: no", {"votes": False}, {"term": 4, "transfer": True}, False, False),
        ("a term that is over: no", {}, {"term": 3}, False, True),
        ("its log ends before ours: no", {}, {"term": 4, "last_log_index": 2}, False, True),
        ("its last term is older: no", {}, {"term": 4, "last_log_term": 1, "last_log_index": 9}, False, True),
    ],
)
def test_who_gets_a_vote(
    promise: str, voter: dict[str, Any], asked: dict[str, Any], would: bool, lets: bool
) -> None:
    """`would`: the pre-vote is granted. `lets`: the real request reaches Raft, which looks at term and log itself."""
    request = {"last_log_index": 3, "last_log_term": 2, "transfer": False} | asked
    record = Voter(**{**VOTER, **voter})
    assert record.may_prevote(request, log_of(0, 1, 2)) == would, promise
    assert record.may_vote(request) == lets, promise


def test_a_log_is_as_complete_as_its_last_entry_says() -> None:
    mine = log_of(0, 1, 2)
    assert up_to_date(mine, {"last_log_term": 2, "last_log_index": 3})
    assert up_to_date(mine, {"last_log_term": 3, "last_log_index": 1})
    assert not up_to_date(mine, {"last_log_term": 2, "last_log_index": 2})


def test_voters_are_counted_once_a_term() -> None:
    ballot = Ballot()
    assert [ballot.count(1, v) for v in "abb"] == [True, True, False]
    assert ballot.count(2, "b")
    assert not ballot.count(1, "c"), "a vote of a term that is over"


@given(st.integers(0, 50), st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=2, max_size=6))
def test_agreed_is_on_the_disks_of_a_majority_of_voters(own: int, others: list[tuple[int, bool]]) -> None:
    members = [Member(next=1, match=m, voter=v) for m, v in others]
    majority = (len(members) + 1) // 2 + 1
    index = agreed(own, members, majority)
    disks = [own, *(m for m, voter in others if voter)]
    assert sum(d >= index for d in disks) >= majority or index == 0
    assert sum(d >= index + 1 for d in disks) < majority, "the highest such index"


def test_a_round_and_a_time_are_a_majoritys() -> None:
    members = [
        Member(next=1, round=r, heard=h, voter=v)
        for r, h, v in [(7, 1.0, True), (9, 2.0, True), (9, 9.0, False)]
    ]
    assert confirmed_round(9, members, 2) == 9
    assert confirmed_round(9, members, 3) == 7
    assert last_quorum(10.0, members, 3) == 1.0
    assert last_quorum(10.0, members, 4) == float("-inf"), "a non-voter does not help"


def test_the_window_is_freed_by_what_is_answered() -> None:
    member = Member(next=2, mode=Mode.STREAM)
    for last, size in ((5, 100), (9, 200)):
        member.sending(last, size)
    member.answered({"success": True, "next_node_idx": 6}, 9)
    assert (member.match, member.next, member.window_bytes) == (5, 10, 200)
    assert fence.term_at(log_of(0, 1), 7) is None
