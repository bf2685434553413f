"""What a follower does with its leader's words: takes entries, answers, takes a snapshot, earns its vote back.

Every append passes `fence.judge_append` first; what is left of it goes to pysyncobj, which appends and learns term and
leader. The answer is ours, because pysyncobj's carries neither a term nor what the disk has (hazards 9, 12).
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from consensus import fence
from consensus.compacting import Compacting
from consensus.core import NO_OP, Core
from consensus.electing import Electing
from consensus.fence import LawBroken, term_at
from consensus.outbox import Outbox
from consensus.wire import ANSWER, PIECE_ANSWER, Message


class Following:
    """Of one member, in whatever term. `incarnation` names this life of it."""

    def __init__(
        self,
        core: Core,
        journal: Any,
        *,
        outbox: Outbox,
        electing: Electing,
        compacting: Compacting,
        incarnation: int,
        strangers: Set[str],
    ) -> None:
        self._core, self._journal, self._outbox = core, journal, outbox
        self._electing, self._compacting, self._incarnation = electing, compacting, incarnation
        self._strangers = strangers  # other members that have not let this life of ours in yet

    def on_append(self, peer: str, message: Message, now: float) -> None:
        """Entries, or a heartbeat. Raises LawBroken."""
        if not self._follow(peer, message):
            return
        verdict = fence.judge_append(self._journal, self._core.commit, message)
        self._core.deliver(peer, verdict.message)
        self._electing.heard(now)
        self._answer(peer, message, verdict.matched, verdict.next_index, now)
        self._claim_vote(message["promote"])

    def _follow(self, peer: str, message: Message) -> bool:
        """Is this the leader's word? An older term is answered with ours, so that its sender steps down."""
        core = self._core
        if message["term"] < core.term:
            self._outbox.send(peer, self._answer_message(False, 0, 0, 0))
            return False
        if message["term"] == core.term and core.leader not in (None, peer):
            raise LawBroken(f"{peer} and {core.leader} both lead term {core.term}")
        return True

    def _answer(self, peer: str, message: Message, matched: bool, next_index: int, now: float) -> None:
        answer = self._answer_message(matched, next_index, message.get("prevLogIdx", 0), message["round"])
        entries, urgent = bool(message.get("entries")), bool(message.get("urgent"))
        self._outbox.answer(peer, answer, now, entries=entries, urgent=urgent)

    def _answer_message(self, matched: bool, next_index: int, rejected: int, round_: int) -> Message:
        return {
            "type": ANSWER,
            "term": self._core.term,
            "success": matched,
            "reset": not matched,
            "next_node_idx": next_index,
            "rejected": rejected,
            "round": round_,
            "non_voter": not self._journal.voter,
            "incarnation": self._incarnation,
        }

    def _claim_vote(self, promote: tuple[int, int]) -> None:
        """An empty disk that came back votes again once it has an entry that its leader proposed in this term after
        it came back, and that a majority without it committed: whoever its forgotten promises helped, that majority
        outvotes. The leader names the entry; that it is committed is known here when it is here. Nor does it vote
        while anybody might still listen to the disk that it replaces, should that come back."""
        index, incarnation = promote
        if (
            not self._journal.voter
            and not self._strangers
            and index
            and incarnation == self._incarnation
            and self._core.commit >= index
        ):
            self._journal.set_voter(True)
            self._outbox.rest_on_what_was_written()

    def on_piece(self, peer: str, message: Message, now: float) -> bool:
        """A piece of a snapshot. True when that made it complete: it is to be verified and stored. No piece says
        anything about what is committed (hazard 1)."""
        if not self._follow(peer, message):
            return False
        core, journal = self._core, self._journal
        core.deliver(peer, fence.heartbeat(journal, message["term"], core.commit))
        self._electing.heard(now)
        index, entry_term, _, _ = message["snapshot"]
        if not fence.snapshot_is_news(journal, core.commit, index, entry_term):
            known = index if term_at(journal, index) == entry_term else core.commit
            self._answer(peer, message, True, known + 1, now)
            return False
        held, complete = self._compacting.take_piece(message)
        answer = {"type": PIECE_ANSWER, "term": core.term, "snapshot": (index, entry_term), "held": held}
        self._outbox.send(peer, answer | {"round": message["round"]})
        return complete

    def install(self, index: int, entry_term: int) -> bool:
        """A received snapshot is verified and durable: it takes the place of the log, unless that has caught up
        meanwhile (False)."""
        core, journal = self._core, self._journal
        self._compacting.arrived()
        if not fence.snapshot_is_news(journal, core.commit, index, entry_term):
            return False
        journal.clear()
        journal.add(NO_OP, index, entry_term)
        core.advance(index)
        if core.leader is not None:
            self._outbox.owe(core.leader, self._answer_message(True, index + 1, 0, 0))
        return True
