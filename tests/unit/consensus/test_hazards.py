"""The hazards of stock pysyncobj 0.3.17 that a node of ours must not have, each with the rule that keeps it away.

A row is a story and the rule it needs: the story ends well with the rule and badly without it. What the journal, the
snapshots and the transport keep away (3 to 8, 11, 28 to 30) is tested beside them; what random histories find
without a rule is in tests/simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from consensus import fence, leading
from consensus.applying import Applier, Batch, Poisoned, Restore, digest
from consensus.config import Limits
from consensus.core import NO_OP, REGULAR
from consensus.electing import Electing
from consensus.fence import LawBroken
from consensus.following import Following
from consensus.journal import Journal
from consensus.outbox import Outbox
from consensus.progress import Member, Mode
from consensus.replica import CommitUnknown, NotLeader
from consensus.snapshots import Snapshot, serialise
from tests.unit.consensus.solo import Outcome, Solo, answer, append, entries, piece, vote, vote_request

Story = Callable[[], bool]


def an_old_append_arrives_again() -> bool:
    """2: the same first append again must not cut what the second one brought and we acknowledged."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 3, 1)))
    a.hear("b", append(1, (3, 1), entries(4, 5, 1)))
    a.hear("b", append(1, (1, 0), entries(2, 3, 1)))
    return a.log()[-1] == (5, 1)


def a_heartbeat_commits_only_what_it_verified() -> bool:
    """1, 18: our own unreplicated tail is not the leader's, although its commit index lies beyond."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 2, 1), commit=2))
    a.hear("b", append(1, (2, 1), entries(3, 6, 1)))  # a tail that only this leader had
    a.hear("c", append(2, (2, 1), [], commit=5))  # the next one has others in their place
    return a.node.commit == 2


def a_snapshot_piece_commits_nothing() -> bool:
    """1: a deposed leader must not commit its own tail because the new one began to send a snapshot."""
    a = Solo()
    a.elect("b")
    mine = a.propose(b"mine")
    content = serialise(Snapshot(50, 4, b"", b"[]"))
    a.hear("c", piece(5, content, 50, 4, 0, 10))
    return a.node.commit == 1 and mine.result is None and isinstance(mine.error, CommitUnknown)


def an_answer_of_an_old_term_comes_late() -> bool:
    """9: five members; acknowledgements given in term 1 say nothing about the log of term 3."""
    a = Solo(5)
    a.elect("b", "c")
    term = a.node.term
    a.hear("d", append(term + 1, (1, 0), []))
    a.elect("d", "e")
    a.propose()
    last = a.node.last
    for late in ("b", "c"):
        a.hear(late, answer(term, last + 1))
    return a.leads and a.node.commit == 1


def a_vote_arrives_twice() -> bool:
    """10: five members; two copies of one vote are one voter."""
    a = Solo(5)
    a.elect("b", "b")
    return not a.leads


def an_old_snapshot_arrives() -> bool:
    """13: a snapshot that ends before what is committed here would undo what was applied."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 9, 1), commit=9))
    content = serialise(Snapshot(5, 1, b"", b"[]"))
    a.hear("b", piece(1, content, 5, 1))
    if a.stored:
        a.shelf.install(a.stored[0])
        a.node.snapshot_stored(a.stored[0])
    return a.log()[-1] == (9, 1)


def a_stale_rejection_arrives() -> bool:
    """2, 13: a rejection from before the match must not send the leader back to the beginning."""
    a = Solo()
    a.elect("b")
    for _ in range(5):
        a.propose()
    last = a.node.last
    a.hear("b", answer(1, last + 1))
    a.hear("b", answer(1, 2, matched=False, rejected=3))
    member = a.node.leading.members["b"]
    return member.match == last and member.next == last + 1


def catching_up_from_a_long_conflict() -> bool:
    """15, 17: a follower with a long tail of a dead leader and more missing than one append holds."""
    small = Limits(append_bytes=2000, window_bytes=4000, command_bytes=100)
    b = Solo(me="b", limits=small)
    b.hear("c", append(1, (1, 0), entries(2, 300, 1)))
    a = Solo(limits=small)
    a.hear("c", append(2, (1, 0), entries(2, 500, 2)))
    a.elect("b", "c")
    for exchanges in range(200):
        a.clock += 0.01
        a.sent.clear()
        a.node.tick()
        for peer, message in list(a.sent):
            if peer == "b":
                for to, reply in b.hear("a", dict(message)):
                    if to == "a":
                        a.node.receive("b", reply)
        if b.log() == a.log():
            return exchanges < 40
    return False


def a_question_carries_no_entries() -> bool:
    """15: while the leader looks for agreement it asks one thing at a time and sends nothing else."""
    a = Solo()
    a.hear("c", append(1, (1, 0), entries(2, 50, 1)))
    a.elect("b")
    for _ in range(5):
        a.propose()
    asked = a.hear("b", answer(a.node.term, 20, matched=False, rejected=a.node.leading.members["b"].next - 1))
    asked += a.wait(0.2)
    return [e for p, m in asked if p == "b" for e in m["entries"]] == [] and len(asked) > 1


def a_rejection_beyond_our_end() -> bool:
    """16: a follower that is longer than we are rejects; we ask from our own end."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 900, matched=False, rejected=2, round=1))
    sent = a.wait(0.1)
    asked = [m for p, m in sent if p == "b" and m["type"] == "append_entries"]
    return all(m["prevLogTerm"] is not None for m in asked) and bool(asked)


def a_cut_off_leader_gives_up() -> bool:
    """25: nobody answers; leadership ends within the lease, which is no longer than anyone's patience."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3))
    a.wait(0.4)
    return not a.leads


def a_leader_of_the_past_is_told() -> bool:
    """25: an append of an old term is answered with ours, so that its sender steps down."""
    a = Solo()
    a.hear("c", append(5, (1, 0), []))
    told = a.hear("b", append(3, (1, 0), []))
    return [(p, m["term"], m["success"]) for p, m in told] == [("b", 5, False)]


def a_read_waits_for_a_majority() -> bool:
    """26: leadership is confirmed after the question was put, and the no-op of the term is committed."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3, round=a.node.leading.round))
    read = Outcome()
    a.node.read(read)
    a.settle()
    early = read.result is not None
    a.hear("b", answer(1, 3, round=a.node.leading.round))
    return not early and read.result == 2


def a_read_waits_for_the_no_op() -> bool:
    """26: a new leader does not know what is committed before an entry of its own is."""
    a = Solo()
    a.hear("c", append(1, (1, 0), entries(2, 4, 1)))  # committed by c, but we have not heard that
    a.elect("b")
    read = Outcome()
    a.node.read(read)
    a.settle()
    a.hear("b", answer(a.node.term, 5, round=a.node.leading.round))  # has 2..4, not yet the no-op
    early = read.result is not None
    a.hear("b", answer(a.node.term, 6, round=a.node.leading.round))
    return not early and read.result == 5


def a_member_comes_back_from_a_partition() -> bool:
    """27: who hears a leader grants no pre-vote, so the one that was away deposes nobody."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 5, 1), commit=5))
    a.clock += 0.1
    granted = [m["granted"] for _, m in a.hear("c", vote_request(2, (9, 1), pre=True))]
    return granted == [False] and a.node.term == 1


def a_real_vote_is_asked_while_the_leader_lives() -> bool:
    """27: nor may a candidate that skipped the question raise our term."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 5, 1), commit=5))
    a.clock += 0.1
    a.hear("c", vote_request(7, (9, 1)))
    return a.node.term == 1


def a_follower_that_was_paused() -> bool:
    """FC14: after a pause of our own the leader's silence proves nothing: what it sent is still on its way."""
    a = Solo()
    a.hear("b", append(1, (1, 0), []))
    a.clock += 3.0
    a.sent.clear()
    a.settle()
    early = [m["type"] for _, m in a.sent]
    a.clock += 0.03
    a.hear("b", append(1, (1, 0), []))
    return early == [] and a.wait(0.2) == []


def a_leader_that_was_paused() -> bool:
    """FC14: it asks once more before it gives up; if nobody answers it does, at once."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3))
    a.clock += 0.5
    a.settle()
    a.hear("b", answer(1, 3, round=a.node.leading.round if a.leads else 0))
    a.wait(0.15)
    stayed = a.leads
    a.clock += 0.5
    a.settle()
    a.clock += 0.5
    a.settle()  # a second pause is no second excuse
    return stayed and not a.leads


def an_own_copy_counts_when_it_is_on_disk() -> bool:
    """7: the leader's disk is slow; one follower has the entry. That is one disk of three, not two."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3))
    a.store.slow = True
    a.propose()
    a.hear("b", answer(1, 4))
    early = a.node.commit
    a.store.catch_up()
    a.settle()
    return (early, a.node.commit) == (2, 3)


def an_answer_waits_for_the_disk() -> bool:
    """7: what is acknowledged is on disk; the heartbeat is answered meanwhile, up to what is."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 3, 1)))
    a.store.slow = True
    a.hear("b", append(1, (3, 1), entries(4, 6, 1)))
    a.clock += 0.05
    beats = a.hear("b", append(1, (6, 1), []))
    early = [m["next_node_idx"] for _, m in beats]
    a.store.catch_up()
    a.sent.clear()
    a.settle()
    return early == [4] and [m["next_node_idx"] for _, m in a.sent] == [7]


def a_vote_waits_for_the_disk() -> bool:
    """7: a vote that could be forgotten would elect two leaders in one term."""
    a = Solo()
    a.store.slow = True
    early = [m for _, m in a.hear("b", vote_request(1, (1, 0))) if m["granted"]]
    a.store.catch_up()
    a.sent.clear()
    a.settle()
    return not early and [(p, m["granted"]) for p, m in a.sent] == [("b", True)]


def figure_8() -> bool:
    """5.4.2: an entry of an older term on a majority is not committed by counting."""
    a = Solo(5)
    a.hear("b", append(2, (1, 0), entries(2, 2, 2)))
    a.elect("b", "c")
    for peer in ("b", "c"):
        a.hear(peer, answer(a.node.term, 3))  # entry 2 is on three disks, the no-op of our term is not
    return a.node.commit == 1


def an_unanswered_follower_costs_a_window() -> bool:
    """35: what one follower has not answered is bounded, whatever is proposed meanwhile."""
    a = Solo(limits=Limits(append_bytes=3000, window_bytes=6000, command_bytes=1000))
    a.elect("b")
    a.hear("b", answer(1, 3))
    for _ in range(100):
        a.propose(b"z" * 500)
        a.hear("c", answer(1, a.node.last + 1))
    sent = sum(len(e[0]) for p, m in a.sent if p == "b" for e in m.get("entries", ()))
    return a.node.leading.members["b"].window_bytes <= 9000 and sent <= 9000


def _no_probe(self: Member, index: int) -> None:
    self.mode, self.next = Mode.STREAM, index


def _answered_unclamped(self: Member, message: Any, last: int) -> None:
    if message["success"]:
        self._matched(message["next_node_idx"] - 1)
    else:
        self._rejected(message["rejected"], message["next_node_idx"])


def _rejected_always(self: Member, rejected: int, hint: int) -> None:
    self.match = min(self.match, hint - 1)
    self.probe(hint)


def _keep_silent(self: Following, peer: str, message: Any) -> bool:
    return bool(message["term"] >= self._core.term)


def _heartbeat_that_commits(log: Any, term: int, commit: int) -> Any:
    last = log[-1]
    return append(term, (last[1], last[2]), [], commit=last[1])


def _answer_at_once(self: Outbox, peer: str, answer: Any, now: float, *, entries: bool, urgent: bool) -> None:
    self.send(peer, answer)


def _own_copy_in_memory(self: Any) -> int:
    index = leading.agreed(self._log[-1][1], self._listed, self._config.majority)
    return index if fence.term_at(self._log, index) == self.term else 0


def _any_term(self: Any) -> int:
    return int(leading.agreed(self._log.durable_index, self._listed, self._config.majority))


def _confirmed_at_once(self: Any, handed: int) -> list[Any]:
    done = [r.waiter for r in self.reads if r.index <= handed]
    self.reads = []
    return done


def _without_no_op(self: Any, commit: int, waiter: Any) -> None:
    self.reads.append(leading.Read(self.round + 1, commit, waiter))


def _whole_log(self: Any, peer: str, member: Any, turn: Any) -> bool:
    while member.next <= self._log[-1][1]:
        taken, size = self._take(member.next, self._config.limits.append_bytes)
        self._append(peer, member, member.next - 1, taken, turn)
        member.sending(taken[-1][1], size)
    return True


HAZARDS: list[tuple[Story, Any, str, Any]] = [
    (an_old_append_arrives_again, fence, "unmatched", lambda log, new: new),
    (a_heartbeat_commits_only_what_it_verified, fence, "verified_commit", lambda c, v: 6),
    (a_snapshot_piece_commits_nothing, fence, "heartbeat", _heartbeat_that_commits),
    (an_answer_of_an_old_term_comes_late, fence, "answers_this_term", lambda m, t: True),
    (a_vote_arrives_twice, fence.Ballot, "count", lambda *a: True),
    (an_old_snapshot_arrives, fence, "snapshot_is_news", lambda *a: True),
    (a_stale_rejection_arrives, Member, "_rejected", _rejected_always),
    (catching_up_from_a_long_conflict, fence, "conflict_hint", lambda log, commit, prev: prev),
    (a_question_carries_no_entries, Member, "probe", _no_probe),
    (a_rejection_beyond_our_end, Member, "answered", _answered_unclamped),
    (a_cut_off_leader_gives_up, leading.Leading, "quorum_at", lambda self, now: now),
    (a_leader_of_the_past_is_told, Following, "_follow", _keep_silent),
    (a_read_waits_for_a_majority, leading.Leading, "confirmed", _confirmed_at_once),
    (a_read_waits_for_the_no_op, leading.Leading, "read", _without_no_op),
    (a_member_comes_back_from_a_partition, fence.Voter, "may_prevote", lambda *a: True),
    (a_real_vote_is_asked_while_the_leader_lives, fence.Voter, "may_vote", lambda *a: True),
    (a_follower_that_was_paused, Electing, "wakes", lambda self, now: None),
    (a_leader_that_was_paused, Electing, "wakes", lambda self, now: None),
    (an_own_copy_counts_when_it_is_on_disk, leading.Leading, "agreed", _own_copy_in_memory),
    (an_answer_waits_for_the_disk, Outbox, "answer", _answer_at_once),
    (a_vote_waits_for_the_disk, Outbox, "send", lambda s, p, m, bulk=False: s._transmit(p, m, bulk)),
    (figure_8, leading.Leading, "agreed", _any_term),
    (an_unanswered_follower_costs_a_window, leading.Leading, "_stream", _whole_log),
]
IDS = [f"{story.__name__} needs {rule}" for story, _, rule, _ in HAZARDS]


@pytest.mark.parametrize(("story", "owner", "rule", "instead"), HAZARDS, ids=IDS)
def test_the_hazard_is_kept_away(story: Story, owner: Any, rule: str, instead: Any) -> None:
    assert story(), story.__doc__


@pytest.mark.parametrize(("story", "owner", "rule", "instead"), HAZARDS, ids=IDS)
def test_without_its_rule_the_story_ends_badly(story: Story, owner: Any, rule: str, instead: Any) -> None:
    with mock.patch.object(owner, rule, instead):
        try:
            well = story()
        except (LawBroken, AssertionError, TypeError):
            well = False  # loud, which is better than wrong, but not well
    assert not well, f"{story.__name__} does not need {rule}"


# What needs no rule of ours any more, because the mechanism is gone.


def test_a_big_command_is_one_append() -> None:
    """19: pysyncobj cut entries into chunks and miscounted; here one entry always fits, up to the limit."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3))
    a.propose(b"z" * (1 << 20))
    whole = [m for p, m in a.sent if p == "b" and m.get("entries")]
    assert [len(m["entries"]) for m in whole] == [1]
    assert "transmission" not in whole[0]


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_command_that_begins_like_pysyncobjs_own_is_a_command(kind: int) -> None:
    """22, 24: no byte of a proposal can change the members or the code version."""
    a = Solo()
    a.elect("b")
    a.propose(bytes([kind]) + b"rest")
    a.hear("b", answer(1, a.node.last + 1))
    assert a.machine.commands[-1][1].encode() == bytes([kind]) + b"rest"
    assert {n.id for n in a.node.core.otherNodes} == {"b", "c"}


def test_a_follower_forwards_nothing() -> None:
    """23: a follower refuses at once and names the leader; there is no message that could carry a command."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 3, 1)))
    a.sent.clear()
    refused = a.propose()
    assert isinstance(refused.error, NotLeader)
    assert refused.error.leader == "b"
    assert not a.sent


def test_an_entry_that_apply_chokes_on_is_named_and_ends_the_process() -> None:
    """20: not retried for ever in silence."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3))
    a.propose(b"boom")
    with pytest.raises(Poisoned, match=f"--refuse-entry 3:{digest(b'boom')}"):
        a.hear("b", answer(1, 4))


def test_a_refused_entry_is_skipped_and_the_next_applied() -> None:
    """20: all replicas that are told so skip exactly that entry."""
    applier = Applier(
        (machine := Solo().machine),
        applied=1,
        term=0,
        refuse=(2, digest(b"boom")[:12]),
        wake=lambda: None,
        keep=lambda *a: None,
        fetch=lambda: None,
    )
    applier.put(Batch([(REGULAR + b"boom", 2, 1), (REGULAR + b"x", 3, 1)], {}))
    applier.run(lambda: False)
    assert machine.commands == [(3, "x")]


def _applier(applied: int, refuse: tuple[int, str] | None) -> tuple[Applier, Any]:
    machine = Solo().machine
    applier = Applier(
        machine,
        applied=applied,
        term=0,
        refuse=refuse,
        wake=lambda: None,
        keep=lambda *a: None,
        fetch=lambda: None,
    )
    return applier, machine


@pytest.mark.parametrize("refuse", [(3, digest(b"x")), (2, digest(b"y"))])
def test_only_the_entry_that_was_named_is_refused(refuse: tuple[int, str]) -> None:
    """20: neither another command at its index nor its command at another index."""
    applier, machine = _applier(1, refuse)
    applier.put(Batch([(REGULAR + b"x", 2, 1), (REGULAR + b"z", 3, 1)], {}))
    applier.run(lambda: False)
    assert machine.commands == [(2, "x"), (3, "z")]


def test_an_entry_that_a_snapshot_went_past_is_not_applied_again() -> None:
    """C7: and who waited for it is told that its fate is open."""
    applier, machine = _applier(3, None)
    waiting = Outcome()
    applier.put(Batch([(REGULAR + b"old", 3, 1), (REGULAR + b"new", 4, 1)], {3: waiting}))
    applier.run(lambda: False)
    assert machine.commands == [(4, "new")]
    assert isinstance(waiting.error, CommitUnknown)


def test_a_snapshot_that_is_older_than_the_state_is_not_restored() -> None:
    """13, C6: the state never goes back."""
    fetched: list[int] = []
    applier, _ = _applier(9, None)
    applier._fetch = lambda: fetched.append(1)
    applier.put(Restore(5, 1))
    applier.run(lambda: False)
    assert (applier.applied, fetched) == (9, [])


def test_a_waiter_always_hears() -> None:
    """33: whoever waits when leadership is lost is told so at once."""
    a = Solo()
    a.elect("b")
    waiting = [a.propose() for _ in range(3)]
    a.hear("c", append(9, (1, 0), []))
    assert all(isinstance(w.error, CommitUnknown) for w in waiting)


def test_nothing_is_sent_while_a_snapshot_is_being_taken() -> None:
    """34: no busy loop of empty snapshot messages: pieces come from the snapshot there is."""
    a = Solo(limits=Limits(compact_entries=40, keep_entries=4))
    a.elect("c")
    for _ in range(60):
        a.propose()
        a.hear("c", answer(a.node.term, a.node.last + 1))
    a.node.snapshot_taken(a.shelf.latest().index)
    assert a.node.journal[0][1] > 2
    a.hear("b", answer(a.node.term, 2, matched=False, rejected=a.node.leading.members["b"].next - 1))
    sent = [m["type"] for p, m in a.wait(0.2) if p == "b"]
    assert sent.count("snapshot_piece") <= 2
    assert len(sent) <= 8


def test_an_acknowledgement_beyond_our_log_ends_the_process() -> None:
    a = Solo()
    a.elect("b")
    with pytest.raises(LawBroken, match="acknowledged"):
        a.hear("b", answer(1, 99))


def test_a_leader_that_contradicts_what_is_committed_ends_the_process() -> None:
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 5, 1), commit=5))
    with pytest.raises(LawBroken, match="committed"):
        a.hear("c", append(2, (2, 1), entries(3, 4, 2)))


def test_two_leaders_of_one_term_end_the_process() -> None:
    a = Solo()
    a.hear("b", append(1, (1, 0), []))
    with pytest.raises(LawBroken, match="both lead"):
        a.hear("c", append(1, (1, 0), []))


def test_a_promise_is_for_its_own_life() -> None:
    """An empty disk earns its vote by an entry that was proposed after *this* life of it began."""
    a = Solo()
    a.node.journal.set_voter(False)
    a.hear("b", append(1, (1, 0), entries(2, 3, 1), commit=3, promote=(3, 6)))
    assert not a.node.journal.voter
    a.hear("b", append(1, (3, 1), entries(4, 4, 1), commit=3, promote=(4, 7)))
    assert not a.node.journal.voter, "not committed yet"
    a.hear("b", append(1, (4, 1), [], commit=4, promote=(4, 7)))
    assert a.node.journal.voter
    told = a.hear("b", append(1, (4, 1), [], commit=4))
    assert [m["non_voter"] for _, m in told][-1] is False


def test_an_empty_disk_neither_votes_nor_asks() -> None:
    a = Solo()
    a.node.journal.set_voter(False)
    assert not [m for _, m in a.hear("b", vote_request(3, (9, 2))) if m["granted"]]
    assert not [m for _, m in a.hear("b", vote_request(3, (9, 2), pre=True)) if m["granted"]]
    assert a.wait(3.0) == []


def test_a_reset_connection_to_the_leader_starts_a_pre_vote_at_once() -> None:
    """Not after the election timeout: within two steps of 30 ms and the tick."""
    a = Solo()
    a.hear("b", append(1, (1, 0), []))
    a.node.down("b")
    a.node.reset("b")
    asked = a.wait(0.1)
    assert {(p, m["type"], m["pre"]) for p, m in asked} == {
        ("b", "request_vote", True),
        ("c", "request_vote", True),
    }
    assert a.node.term == 1
    other = Solo(me="c")
    other.hear("b", append(1, (1, 0), []))
    assert [m["granted"] for _, m in other.hear("a", vote_request(2, (9, 1), pre=True))] == [False]
    other.node.down("b")
    other.node.reset("b")
    assert [m["granted"] for _, m in other.hear("a", vote_request(2, (9, 1), pre=True))] == [True]


def test_a_successor_that_was_asked_stands_at_once_and_is_elected_while_the_leader_lives() -> None:
    a = Solo(me="b")
    a.hear("a", append(1, (1, 0), entries(2, 3, 1), commit=3))
    asked = a.hear("a", {"type": "timeout_now", "term": 1})
    assert {(p, m["pre"], m["transfer"]) for p, m in asked} == {("a", False, True), ("c", False, True)}
    voter = Solo(me="c")
    voter.hear("a", append(1, (1, 0), entries(2, 3, 1), commit=3))
    assert [m["granted"] for _, m in voter.hear("b", vote_request(2, (3, 1), transfer=True))] == [True]
    stranger = Solo(me="b")
    stranger.hear("a", append(1, (1, 0), []))
    assert stranger.hear("c", {"type": "timeout_now", "term": 1}) == []  # not the leader


def test_the_first_entry_of_an_empty_log_is_the_same_everywhere() -> None:
    assert Solo().node.journal[0] == (NO_OP, 1, 0)
    assert REGULAR != NO_OP


def test_a_vote_of_a_previous_campaign_does_not_elect() -> None:
    a = Solo(5)
    a.elect("b")
    old = a.node.term
    a.elect("c")
    a.hear("d", vote(old))
    assert not a.leads


# Rules that stand behind another, or that chance hardly ever needs (`DIRECTED` of the ablations).


def test_a_leader_that_denies_what_is_committed_ends_the_process() -> None:
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 5, 1), commit=5))
    with pytest.raises(LawBroken, match="committed"):
        a.hear("c", append(2, (4, 2), entries(5, 5, 2)))


def test_an_old_snapshot_is_answered_and_not_taken() -> None:
    """13: nothing of it is kept, and the leader is told at once that it need not go on."""
    a = Solo()
    a.hear("b", append(1, (1, 0), entries(2, 9, 1), commit=9))
    told = a.hear("b", piece(1, serialise(Snapshot(5, 1, b"", b"[]")), 5, 1))
    assert [(m["type"], m["success"], m["next_node_idx"]) for _, m in told] == [("next_node_idx", True, 6)]
    assert a.stored == []


def _snapshot_on_its_way(a: Solo, index: int, entry_term: int) -> tuple[int, int, int, bytes]:
    content = serialise(Snapshot(index, entry_term, b"", b"[]"))
    a.hear("b", piece(entry_term, content, index, entry_term))
    (meta,) = a.stored
    a.shelf.install(meta)
    return (index, entry_term, len(content), content[-32:])


def test_a_snapshot_that_the_log_overtook_on_its_way_is_not_installed() -> None:
    """13: between the last piece and the disk the log caught up by entries, and acknowledged them."""
    a = Solo()
    meta = _snapshot_on_its_way(a, 5, 1)
    a.hear("b", append(1, (1, 0), entries(2, 9, 1), commit=9))
    a.node.snapshot_stored(meta)
    a.settle()
    assert (a.log()[-1], a.node.commit) == ((9, 1), 9)


def test_a_snapshot_that_the_log_holds_already_is_not_installed() -> None:
    """13: what comes after its end was acknowledged, committed or not."""
    a = Solo()
    meta = _snapshot_on_its_way(a, 5, 1)
    a.hear("b", append(1, (1, 0), entries(2, 9, 1)))
    a.node.snapshot_stored(meta)
    a.settle()
    assert a.log()[-1] == (9, 1)


def test_an_installed_snapshot_is_committed() -> None:
    a = Solo()
    a.node.snapshot_stored(_snapshot_on_its_way(a, 5, 1))
    a.settle()
    assert (a.log(), a.node.commit) == ([(5, 1)], 5)


def test_an_answer_that_waited_for_the_disk_is_for_its_own_term() -> None:
    """9: the entries are on disk at last, but their leader is not any more."""
    a = Solo()
    a.hear("b", append(1, (1, 0), []))
    a.store.slow = True
    a.hear("b", append(1, (1, 0), entries(2, 4, 1)))
    a.hear("b", answer(2, 1))  # somebody is in term 2
    a.sent.clear()
    a.store.catch_up()
    a.settle()
    assert [
        m for _, m in a.sent if m["type"] == "next_node_idx" and m["term"] == 1 and m["next_node_idx"] > 2
    ] == []


def test_an_old_acknowledgement_takes_nothing_back() -> None:
    """2: answers may come in any order."""
    a = Solo()
    a.elect("b")
    for _ in range(5):
        a.propose()
    last = a.node.last
    a.hear("b", answer(1, last + 1))
    a.hear("b", answer(1, 3))
    member = a.node.leading.members["b"]
    assert (member.match, member.next) == (last, last + 1)


def test_an_old_rejection_starts_no_search() -> None:
    """2, 13: the member has since said that it has what it once lacked."""
    a = Solo()
    a.elect("b")
    for _ in range(5):
        a.propose()
    a.hear("b", answer(1, a.node.last + 1))
    a.hear("b", answer(1, 2, matched=False, rejected=3))
    assert a.node.leading.members["b"].mode is Mode.STREAM


def test_only_who_has_everything_is_told_to_take_over() -> None:
    """A successor that lacks an entry would not be elected, and all would wait meanwhile."""
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, 3))
    a.propose()
    told = a.hear("c", answer(1, 3))
    assert told is not None
    a.sent.clear()
    a.node.transfer("b", 5.0, Outcome())
    a.settle()
    assert [p for p, m in a.sent if m["type"] == "timeout_now"] == []
    told = a.hear("b", answer(1, a.node.last + 1))
    assert [p for p, m in told if m["type"] == "timeout_now"] == ["b"]


def test_a_pre_vote_of_an_earlier_question_starts_no_campaign() -> None:
    """27: it was granted for a term that somebody has led since."""
    a = Solo(5)
    while not a._asks():
        a.clock += 0.04
        a.settle()
    asked = a.node.term + 1
    a.hear("b", vote(asked, pre=True))
    a.hear("c", append(asked, (1, 0), []))
    while not a._asks():
        a.clock += 0.04
        a.settle()
    a.hear("d", vote(asked, pre=True))
    a.hear("e", vote(asked, pre=True))
    assert a.node.term == asked


def test_a_majority_is_asked_before_a_member_stands() -> None:
    """27, five members: one that is as lonely as we are is not enough."""
    a = Solo(5)
    while not a._asks():
        a.clock += 0.04
        a.settle()
    a.hear("b", vote(a.node.term + 1, pre=True))
    assert a.node.term == 0


def test_a_higher_term_in_an_answer_deposes() -> None:
    """5.1: a leader of the past learns it from whoever answers."""
    a = Solo()
    a.elect("b")
    a.hear("c", answer(a.node.term + 3, 1, matched=False))
    assert (a.leads, a.node.term) == (False, 4)


def test_a_candidate_of_the_past_is_told() -> None:
    a = Solo()
    a.hear("b", append(5, (1, 0), []))
    a.wait(0.7)
    told = a.hear("c", vote_request(3, (9, 3)))
    assert [(p, m["term"], m["granted"]) for p, m in told if m["type"] == "response_vote"] == [
        ("c", 5, False)
    ]


def test_an_answer_of_a_life_that_has_ended_is_not_counted() -> None:
    """An empty disk under an old id: b came back with nothing, and what it said before arrives after that."""
    a = Solo()
    a.elect("b")
    a.propose()
    a.hear("b", answer(1, 2, matched=False, rejected=a.node.last, incarnation=5, non_voter=True))
    a.hear("b", answer(1, a.node.last + 1, incarnation=4))
    assert not a.node.leading.members["b"].voter
    assert a.node.commit == 1


def test_what_was_cut_before_it_was_written_is_not_written() -> None:
    """6: one batch that brings entries and takes them back leaves none of them."""
    a = Solo()
    for index in (2, 3, 4):
        a.node.journal.add(REGULAR + b"x", index, 1)
    a.node.journal.deleteEntriesFrom(2)
    a.node.journal.sync()
    assert [index for _, index, _ in Journal(a.store)[:]] == [1, 2]


def test_what_a_lost_disk_had_is_forgotten() -> None:
    a = Solo()
    a.elect("b")
    a.hear("b", answer(1, a.node.last + 1))
    had = a.node.leading.members["b"].match
    a.hear("b", answer(1, 2, matched=False, rejected=had, incarnation=5, non_voter=True))
    assert (had, a.node.leading.members["b"].match) == (2, 0)


# What the simulation found in our own code, in a few lines.


def test_a_lost_snapshot_piece_is_sent_again_from_where_the_member_is() -> None:
    """Seeds 4 and 60, once: the repeat began where the last piece would, and never fitted."""
    a = Solo(limits=Limits(compact_entries=40, keep_entries=4, piece_bytes=300, window_pieces=2))
    a.elect("c")
    for _ in range(60):
        a.propose()
        a.hear("c", answer(a.node.term, a.node.last + 1))
    latest = a.shelf.latest()
    assert latest is not None
    a.node.snapshot_taken(latest.index)
    term, member = a.node.term, a.node.leading.members["b"]
    a.hear("b", answer(term, 2, matched=False, rejected=member.next - 1))
    held = 300  # of two pieces under way the second is lost
    a.hear(
        "b",
        {"type": "snapshot_answer", "term": term, "snapshot": (latest.index, term), "held": held, "round": 1},
    )
    a.wait(0.1)
    again = []
    for _ in range(4):  # nothing is answered for longer than a repeat takes
        a.hear("c", answer(term, a.node.last + 1, round=a.node.leading.round))
        again += [m["offset"] for p, m in a.wait(0.1) if p == "b" and m["type"] == "snapshot_piece"]
    assert again[0] == held


def test_an_empty_disk_votes_again_when_a_snapshot_brought_its_entry() -> None:
    """Seed 33801, once: the entry that earns the vote lay before the beginning of its log."""
    a = Solo()
    a.node.journal.set_voter(False)
    content = serialise(Snapshot(50, 4, b"", b"[]"))
    a.hear("c", piece(5, content, 50, 4))
    assert a.stored == [(50, 4, len(content), content[-32:])]
    a.shelf.install(a.stored[0])
    a.node.snapshot_stored(a.stored[0])
    a.settle()
    a.hear("c", append(5, (50, 4), [], commit=50, promote=(45, 7)))
    assert a.node.journal.voter


def test_every_bit_of_a_record_and_of_a_vote_is_covered_by_its_checksum() -> None:
    """Seed 1228, once: the upper half of a term was not (FC19)."""
    from consensus import records
    from consensus.journal import Hard

    key, value = records.pack_entry((b"\x00command", 7, 3))
    hard = records.pack_hard(Hard(4, "b", 9, True))
    for whole, read in ((value, lambda v: records.read_entry(key, v)), (hard, records.read_hard)):
        read(whole)
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ValueError, match=r".*"):
                read(bytes(flipped))
