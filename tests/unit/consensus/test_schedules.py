"""Directed schedules of several real nodes: rules that random histories hardly ever need, but a cluster does.

The test is the network: it decides which message arrives, which is lost, and which comes years later. Each schedule
ends in a promise of Raft, kept with the rule and broken without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from consensus import fence, leading
from consensus.config import Limits
from consensus.fence import LawBroken
from consensus.following import Following
from consensus.journal import Journal
from consensus.outbox import Outbox
from consensus.progress import Member
from tests.unit.consensus.solo import Outcome, Solo, vote, vote_request

Mail = tuple[str, str, dict[str, Any]]


class Table:
    """Nodes a, b, c, ... and what is on its way between them."""

    def __init__(self, n: int, limits: Limits | None = None) -> None:
        self.nodes = {m: Solo(n, me=m, limits=limits) for m in "abcde"[:n]}
        self.limbo: list[Mail] = []
        self.n = n

    def talk(self, *members: str, keep: Callable[[Mail], bool] = lambda m: False, beats: int = 4) -> None:
        """Lets these members exchange messages over some heartbeats; what others would hear is lost, and what `keep`
        names stays in limbo."""
        for _ in range(beats):
            for m in members:
                self.nodes[m].clock += 0.051
                self.nodes[m].settle()
            while mails := [(m, to, msg) for m in members for to, msg in self._taken(m)]:
                for mail in mails:
                    if keep(mail):
                        self.limbo.append(mail)
                    elif mail[1] in members:
                        self.nodes[mail[1]].node.receive(mail[0], dict(mail[2]))
                for m in members:
                    self.nodes[m].settle()

    def _taken(self, member: str) -> list[tuple[str, dict[str, Any]]]:
        sent, self.nodes[member].sent = self.nodes[member].sent, []
        return sent

    def arrive(self, *, at: str) -> None:
        """What has been in limbo for `at` comes now."""
        for sender, to, message in self.limbo:
            if to == at:
                self.nodes[to].node.receive(sender, dict(message))
        self.nodes[at].settle()

    def elect(self, who: str, *voters: str, keep: Callable[[Mail], bool] = lambda m: False) -> None:
        """`who` stands, and these hear it; a transfer, so that they need not have lost anyone. In a term that none of
        them has seen, as after some failed attempts."""
        terms = [self.nodes[m].node.term for m in (who, *voters)]
        while self.nodes[who].node.term < max(terms):
            self.nodes[who].node._campaign(transfer=True)
            self.nodes[who].settle()
            self._taken(who)
        self.nodes[who].node._campaign(transfer=True)
        self.talk(who, *voters, keep=keep)

    def lose_disk(self, who: str) -> None:
        """Another life with an empty disk and no vote."""
        fresh = Solo(self.n, me=who)
        fresh.node.journal.set_voter(False)
        fresh.node._following._incarnation = self.nodes[who].node._following._incarnation + 1
        fresh.settle()
        self.nodes[who] = fresh
        for m, solo in self.nodes.items():
            if m != who:
                solo.node.up(who)

    def leaders(self) -> list[tuple[int, str]]:
        return sorted((s.node.term, m) for m, s in self.nodes.items() if s.leads)

    def committed(self, who: str) -> list[tuple[bytes, int, int]]:
        node = self.nodes[who].node
        return list(node.journal[: node.commit])

    def agree(self) -> bool:
        """C5: of any two, one's committed entries are a prefix of the other's; C1: one leader a term."""
        logs = [self.committed(m) for m in self.nodes]
        terms = [t for t, _ in self.leaders()]
        prefixes = all(a[: len(b)] == b[: len(a)] for a in logs for b in logs)
        return prefixes and len(terms) == len(set(terms))


def acknowledgements_of_an_old_term() -> bool:
    """9, five members: b's answers of term 1 come when a leads term 3, whose entries b has never seen. Counted, they
    commit what is on two disks of five, and the next leader does not have it."""
    t = Table(5)
    t.elect("a", "b", "c", "d", "e")
    for i in range(3):
        t.nodes["a"].propose(b"one%d" % i)
    t.talk("a", "b", keep=lambda mail: mail[:2] == ("b", "a"))  # b has them; its answers hang in the network
    t.elect("d", "c", "e")
    t.talk("d", "c", "e", "a")  # a follows d: what it had of term 1 is gone
    t.elect("a", "d", "c")
    t.nodes["a"].propose(b"three")
    t.talk("a", "c", keep=lambda mail: False)  # on a and c: two of five
    t.arrive(at="a")
    t.talk("a", "c")
    t.elect("e", "b", "d")
    t.nodes["e"].propose(b"four")
    t.talk("e", "b", "d")
    t.talk("e", "b", "d")
    return t.agree()


def one_vote_that_comes_twice() -> bool:
    """10, five members: a has b's vote twice, c has d's and e's: two leaders of one term."""
    t = Table(5)
    t.nodes["a"].node._campaign(transfer=True)
    t.nodes["a"].settle()
    t.nodes["c"].node._campaign(transfer=True)
    t.nodes["c"].settle()
    for m in "abc":
        t._taken(m)
    for _ in range(2):
        t.nodes["a"].hear("b", vote(1))
    for voter in "de":
        t.nodes["c"].hear(voter, vote(1))
    return t.agree()


def an_old_entry_on_a_majority() -> bool:
    """Figure 8 of the paper, five members: an entry of term 1, spread by the leader of term 3 and on three disks, is
    still overwritten by the leader of term 2's entry; so it must not have been committed by counting."""
    t = Table(5, Limits(command_bytes=59, append_bytes=60, window_bytes=120))  # one entry an append
    t.elect("a", "b", "c", "d", "e")
    t.nodes["a"].propose(b"old" * 19 + b"!!")
    t.talk("a", "b")
    t.elect("e", "c", "d", keep=lambda mail: mail[0] == "e" and bool(mail[2].get("entries")))
    t.nodes["e"].propose(b"lost")  # e alone has entries of term 2

    def newest(mail: Mail) -> bool:
        return any(term >= 3 for _, _, term in mail[2].get("entries", ()))

    t.elect("a", "b", "c", keep=newest)
    assert t.leaders()[-1] == (3, "a")
    assert [t.nodes[m].log()[-1] for m in "bc"] == [(3, 1), (3, 1)]  # "old" is on three disks
    t.elect("e", "b", "c", "d")
    t.talk("e", "b", "c", "d")
    assert (4, "e") in t.leaders()
    return t.agree()


def an_empty_disk_is_asked_for_its_vote() -> bool:
    """Three members: an entry is committed by a and c; c loses its disk, a is away. b, which never had the entry,
    must not be elected by c."""
    t = Table(3)
    t.elect("a", "b", "c")
    t.nodes["a"].propose(b"precious")
    t.talk("a", "c")
    t.talk("a", "c")
    t.lose_disk("c")
    t.elect("b", "c")
    t.nodes["b"].propose(b"other")
    t.talk("b", "c")
    return t.agree()


def _cut_short(t: Table) -> None:
    """b leads term 1; c votes for a in term 2, the vote hangs in the network, and c loses its disk."""
    t.elect("b", "a", "c")
    t.talk("b", "a", "c")
    t.elect("a", "c", keep=lambda mail: mail[:2] == ("c", "a"))
    t.lose_disk("c")


def an_empty_disk_that_forgot_its_vote() -> bool:
    """Three members: c forgot that it voted for a in term 2. b, still leader of term 1, brings it everything that is
    committed; that must not be enough to vote again, for b in term 2 as well."""
    t = Table(3)
    _cut_short(t)
    t.talk("b", "c")
    t.elect("b", "c")
    t.arrive(at="a")
    return t.agree()


def an_empty_disk_is_not_a_second_copy() -> bool:
    """Three members, the same forgotten vote: what b commits with c alone would be unknown to a, whom c's old vote
    still elects."""
    t = Table(3)
    _cut_short(t)
    t.nodes["b"].propose(b"precious")
    t.talk("b", "c")
    t.talk("b", "c")
    t.arrive(at="a")
    t.nodes["a"].propose(b"other")
    t.talk("a", "c")
    t.talk("a", "c")
    return t.agree()


def a_leader_that_does_not_know_it_is_one_no_more() -> bool:
    """26: within its lease, the old leader is asked for a read while a new one has committed a write. Nothing may
    rest on the lease alone."""
    t = Table(3)
    t.elect("a", "b", "c")
    t.nodes["a"].propose(b"one")
    t.talk("a", "b", "c")
    t.elect("b", "c")
    t.nodes["b"].propose(b"two")
    t.talk("b", "c", beats=2)
    assert t.nodes["b"].machine.commands[-1][1] == "two"
    read = Outcome()
    a = t.nodes["a"]
    assert a.leads
    a.node.read(read)
    a.settle()
    return read.result is None


def a_vote_that_is_forgotten() -> bool:
    """7: a vote leaves, the power goes, the vote is gone: whoever asks next in that term must not get another."""
    first = Solo(3, me="c")
    first.store.slow = True
    given = [m for _, m in first.hear("a", vote_request(1, (1, 0))) if m["granted"]]
    second = Solo(3, me="c", store=first.store)  # what was not synced is lost
    first.store.waiting, first.store.slow = [], False
    again = [m for _, m in second.hear("b", vote_request(1, (1, 0))) if m["granted"]]
    return len(given) + len(again) <= 1


def _counted_by_all(own: int, members: list[Member], majority: int) -> int:
    return sorted([own, *(m.match for m in members)], reverse=True)[majority - 1]


def _any_term(self: Any) -> int:
    return int(leading.agreed(self._log.durable_index, self._listed, self._config.majority))


def _vote_at_once(self: Following, promote: tuple[int, int]) -> None:
    if not self._journal.voter and self._core.commit > 1:
        self._journal.set_voter(True)


def _read_at_once(self: Any, handed: int) -> list[Any]:
    done = [r.waiter for r in self.reads if r.index <= handed]
    self.reads = []
    return done


SCHEDULES: list[tuple[Callable[[], bool], Any, str, Any]] = [
    (acknowledgements_of_an_old_term, fence, "answers_this_term", lambda m, term: True),
    (one_vote_that_comes_twice, fence.Ballot, "count", lambda *a: True),
    (an_old_entry_on_a_majority, leading.Leading, "agreed", _any_term),
    (an_empty_disk_is_asked_for_its_vote, Journal, "voter", property(lambda self: True)),
    (an_empty_disk_that_forgot_its_vote, Following, "_claim_vote", _vote_at_once),
    (an_empty_disk_is_not_a_second_copy, leading, "agreed", _counted_by_all),
    (a_leader_that_does_not_know_it_is_one_no_more, leading.Leading, "confirmed", _read_at_once),
    (a_vote_that_is_forgotten, Outbox, "send", lambda s, p, m, bulk=False: s._transmit(p, m, bulk)),
]
IDS = [f"{schedule.__name__} needs {rule}" for schedule, _, rule, _ in SCHEDULES]


@pytest.mark.parametrize(("schedule", "owner", "rule", "instead"), SCHEDULES, ids=IDS)
def test_the_promise_is_kept(schedule: Callable[[], bool], owner: Any, rule: str, instead: Any) -> None:
    assert schedule(), schedule.__doc__


@pytest.mark.parametrize(("schedule", "owner", "rule", "instead"), SCHEDULES, ids=IDS)
def test_without_the_rule_it_is_broken(
    schedule: Callable[[], bool], owner: Any, rule: str, instead: Any
) -> None:
    with mock.patch.object(owner, rule, instead):
        try:
            kept = schedule()
        except LawBroken:
            kept = False
    assert not kept, f"{schedule.__name__} does not need {rule}"
