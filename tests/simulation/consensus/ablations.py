"""The consensus layer with one rule taken out: a history must break a promise, or the simulation proves nothing.

`SEEDED`: within so many seeds of a theme the simulation finds it (`make sim THEME=votes SEEDS=200` plays the same
histories with every rule in place). `SYNCS`: without one sync of the disk, so many histories of power cuts. `DIRECTED`:
what chance hardly ever needs, or what a second rule stands behind; each names the story that ends badly without it.

What is taken out is named by its text in the code (`Cut`), so the list cannot outlive what it speaks of. `within` is
several times what was measured. `first` only says where to begin.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.consensus.cuts import Cut

_SIM = "tests.simulation.consensus"
_FENCE = "consensus.fence"
_LEADING = "consensus.leading.Leading"
_NODE = "consensus.node.Node"
_OUTBOX = "consensus.outbox.Outbox"
_FOLLOWING = "consensus.following.Following"
_JOURNAL = "consensus.journal.Journal"
_CORE = "consensus.core.Core"
_PROGRESS = "consensus.progress"


@dataclass(frozen=True, slots=True)
class Ablation:
    """A rule that is missing. `hazard`: of the evidence file, or the part of Raft."""

    rule: str
    hazard: str
    theme: str
    within: int
    cuts: tuple[Cut, ...]
    first: int = 0


@dataclass(frozen=True, slots=True)
class Directed:
    """A rule that is missing, and the test that notices: module.function of tests/unit/consensus."""

    rule: str
    hazard: str
    story: str
    cuts: tuple[Cut, ...]


def _cut(where: str, old: str, new: str) -> tuple[Cut, ...]:
    return (Cut(where, old, new),)


SEEDED = [
    # The log
    Ablation(
        "an append must fit what is there",
        "5.3",
        "plain",
        100,
        _cut(
            f"{_FENCE}.judge_append", "if term_at(log, prev) != prev_term:", "if term_at(log, prev) is None:"
        ),
    ),
    Ablation(
        "a late append truncates nothing",
        "2, 6",
        "plain",
        60,
        _cut(f"{_FENCE}.unmatched", "if term_at(log, entry[1]) != entry[2]:", "if True:"),
    ),
    Ablation(
        "only what was verified is committed",
        "1, 18",
        "plain",
        150,
        _cut(f"{_FENCE}.verified_commit", "min(leader_commit, verified)", "leader_commit"),
    ),
    Ablation(
        "a heartbeat says nothing of our own tail",
        "1",
        "plain",
        20,
        _cut(f"{_FENCE}.heartbeat", "min(commit, last)", "last"),
    ),
    Ablation(
        "who led an old term is not followed",
        "25",
        "plain",
        150,
        _cut(f"{_FOLLOWING}._follow", 'if message["term"] < core.term:', "if False:"),
    ),
    Ablation(
        "only what is committed is applied",
        "5.3",
        "plain",
        60,
        _cut(f"{_NODE}._hand_over", "min(self.commit, self", "min(self.last, self"),
    ),
    Ablation(
        "who loses office is in doubt, and no more",
        "33",
        "plain",
        60,
        _cut(
            f"{_NODE}.on_deposed",
            'CommitUnknown("leadership was lost before the entry was committed")',
            "NotLeader(None)",
        ),
    ),
    Ablation(
        "who loses office forgets who waits",
        "33",
        "plain",
        100,
        _cut(f"{_NODE}.on_deposed", "self.proposals.forget()", "[]"),
    ),
    Ablation(
        "a leader that steps down is a follower",
        "5.1",
        "plain",
        20,
        _cut(f"{_CORE}.step_down", "self._SyncObj__setState(FOLLOWER)", "pass"),
    ),
    # Counting
    Ablation(
        "the leader commits entries of its own term only",
        "5.4.2, Figure 8",
        "figure 8",
        120,
        _cut(f"{_LEADING}.agreed", "if term_at(self._log, index) == self.term else 0", ""),
    ),
    Ablation(
        "a term begins with a no-op",
        "5.4.2",
        "figure 8",
        20,
        _cut(
            f"{_CORE}._SyncObj__onBecomeLeader",
            "super()._SyncObj__onBecomeLeader()",
            "super()._SyncObj__onBecomeLeader(); self._journal.deleteEntriesFrom(len(self._journal) - 1)",
        ),
    ),
    Ablation(
        "an acknowledgement counts in its own term",
        "9",
        "late answers",
        600,
        _cut(f"{_FENCE}.answers_this_term", 'message["term"] == term', "True"),
    ),
    # Elections
    Ablation(
        "voters are counted, not votes",
        "10",
        "votes",
        60,
        _cut(f"{_FENCE}.Ballot.count", "or voter in self.voters", ""),
    ),
    Ablation(
        "a vote is remembered",
        "7, 36",
        "votes",
        60,
        _cut(f"{_JOURNAL}.setCurrentTerm", "= term, voted_for", "= term, None"),
    ),
    Ablation(
        "a vote is found again",
        "7, 36",
        "votes",
        60,
        _cut(f"{_CORE}.__init__", "= journal.getVotedForNodeId()", "= None"),
    ),
    Ablation(
        "a candidate votes for itself",
        "5.2",
        "votes",
        20,
        _cut(f"{_CORE}.stand", "self.term + 1, self.selfNode.id", "self.term + 1, None"),
    ),
    Ablation(
        "who is helped has a complete log",
        "5.4.1",
        "votes",
        20,
        (
            Cut(f"{_FENCE}.up_to_date", ">= (last_term, last)", ">= (0, 0)"),
            Cut(
                f"{_NODE}._on_vote",
                "self.core.deliver(peer, message)",
                "self.core.deliver(peer, message | {'last_log_term': 1 << 40})",
            ),
        ),
    ),
    Ablation(
        "who hears a leader grants no pre-vote",
        "27",
        "returning",
        60,
        _cut(f"{_FENCE}.Voter.may_prevote", "or self.leader_alive", ""),
    ),
    Ablation(
        "a member asks before it stands",
        "27",
        "returning",
        20,
        _cut(f"{_NODE}._stand", "if self._electing.ask(now):", "if True:"),
    ),
    # Reads and leases
    Ablation(
        "a leader that nobody answers gives up",
        "25",
        "reads",
        20,
        _cut(
            f"{_LEADING}.quorum_at",
            "return last_quorum(now, self._listed, self._config.majority)",
            "return now",
        ),
    ),
    Ablation(
        "a read is confirmed by a majority",
        "26",
        "reads",
        60,
        _cut(f"{_LEADING}.confirmed", "if r.round <= known and r.index <= handed]", "if r.index <= handed]"),
    ),
    Ablation(
        "a read takes a round that begins after it",
        "26",
        "reads",
        400,
        _cut(f"{_LEADING}.read", "self.round + 1", "self.round"),
    ),
    Ablation(
        "a read waits for the no-op",
        "26",
        "reads",
        100,
        _cut(f"{_LEADING}.read", "max(commit, self.noop)", "commit"),
    ),
    Ablation(
        "a read waits until its entries are applied",
        "26",
        "reads",
        100,
        _cut(f"{_LEADING}.confirmed", "if r.round <= known and r.index <= handed]", "if r.round <= known]"),
    ),
    # Snapshots
    Ablation(
        "an old snapshot is no news",
        "13",
        "snapshots",
        400,
        _cut(
            f"{_FENCE}.snapshot_is_news",
            "index > commit and term_at(log, index) != entry_term",
            "term_at(log, index) != entry_term",
        ),
    ),
    Ablation(
        "a received snapshot takes the place of the log",
        "12",
        "snapshots",
        20,
        _cut(f"{_FOLLOWING}.install", "journal.clear()", "pass"),
    ),
    Ablation(
        "snapshot pieces have offsets",
        "14",
        "snapshots",
        80,
        _cut(f"{_SIM}.disk.SimShelf.put", "if offset == len(buffer):", "if True:"),
    ),
    Ablation(
        "the log outlives its snapshot's way to the disk",
        "3, 7",
        "power",
        60,
        _cut(
            f"{_SIM}.member.Member._keep",
            "self.shelf.write(index, term, serialise())",
            "self.world.at(0.05, self.in_this_life(lambda: self.shelf.write(index, term, serialise())))",
        ),
    ),
    # The disk
    Ablation(
        "an answer waits for its entries",
        "7",
        "power",
        20,
        _cut(f"{_OUTBOX}.answer", 'elif answer["next_node_idx"] - 1 > durable:', "elif False:"),
    ),
    Ablation(
        "an answer that waits is held until it is true",
        "7",
        "power",
        20,
        _cut(
            f"{_OUTBOX}.release",
            'if self._owed is not None and self._owed[1]["next_node_idx"] - 1 <= self._journal.durable_index:',
            "if self._owed is not None:",
        ),
    ),
    Ablation(
        "what is said waits for term and vote",
        "7",
        "power",
        80,
        _cut(f"{_OUTBOX}.send", "if self._held or self._journal.durable < self._rests_on:", "if False:"),
    ),
    Ablation(
        "what was held is let go when the disk has it",
        "7",
        "power",
        60,
        _cut(
            f"{_OUTBOX}.release",
            "while self._held and self._held[0][0] <= self._journal.durable:",
            "while self._held:",
        ),
    ),
    Ablation(
        "everything rests on a new term or vote",
        "7",
        "power",
        80,
        _cut(f"{_NODE}.on_term", "self._outbox.rest_on_what_was_written()", "pass"),
    ),
    Ablation(
        "term and vote are written",
        "7, 36",
        "power",
        100,
        _cut(f"{_JOURNAL}.setCurrentTerm", "self._write_hard()", "pass"),
    ),
    Ablation(
        "the leader counts its own disk, not its memory",
        "7",
        "power",
        100,
        _cut(f"{_LEADING}.agreed", "self._log.durable_index", "self._log[-1][1]"),
    ),
    Ablation(
        "what is cut is no longer durable",
        "7",
        "power",
        400,
        _cut(f"{_JOURNAL}._cut_to", "self._durable_index = min(self.durable_index, last)", "pass"),
    ),
    Ablation(
        "what is cut is cut on the disk",
        "6",
        "power",
        60,
        _cut(f"{_JOURNAL}._cut_to", "last if batch.keep_to is None else min(last, batch.keep_to)", "None"),
    ),
    # An empty disk under an old id
    Ablation(
        "an empty disk comes back without a vote",
        "empty disk",
        "disks",
        20,
        _cut(f"{_SIM}.disk.SimStore.lose", "Hard(voter=False)", "Hard(voter=True)"),
    ),
    Ablation(
        "an empty disk is no second copy",
        "empty disk",
        "lost voters",
        60,
        _cut(f"{_PROGRESS}.agreed", "if m.voter", ""),
    ),
    Ablation(
        "the entry that earns a vote was proposed after the return",
        "empty disk",
        "lost voters",
        150,
        _cut(f"{_FOLLOWING}._claim_vote", "self._core.commit >= index", "self._core.commit > 1"),
    ),
    Ablation(
        "who has no vote helps nobody",
        "empty disk",
        "lost voters",
        60,
        (
            Cut(f"{_FENCE}.Voter.may_vote", "if not self.votes:", "if False:"),
            Cut(f"{_FENCE}.Voter.may_prevote", "not self.votes or", ""),
        ),
    ),
    Ablation(
        "who has no vote does not stand",
        "empty disk",
        "disks",
        80,
        _cut(f"{_NODE}._stand", "or not self.journal.voter", ""),
    ),
    Ablation(
        "a lost disk's acknowledgements are forgotten",
        "empty disk",
        "disks",
        20,
        _cut(f"{_LEADING}.answered", "reborn = message", "reborn = False and message"),
    ),
]

SYNCS = [
    Ablation(
        "a batch of the log, with term and vote, is synced",
        "7",
        "power cuts",
        30,
        _cut("consensus.rocks.RocksStore._commit", "self._db.flush_wal(True)", "self._db.flush_wal(False)"),
    ),
    Ablation(
        "the watermark is synced with every write",
        "design 10",
        "power cuts",
        30,
        _cut("consensus.watermark.Watermark.__init__", "| os.O_DSYNC", ""),
    ),
    Ablation(
        "the watermark is lowered before the log is cut",
        "design 10",
        "power cuts",
        500,
        _cut("consensus.watermark.Watermark.lower", "self.write()", "pass"),
        12,
    ),
    Ablation(
        "a new watermark has its content before its name",
        "design 10",
        "power cuts",
        30,
        _cut("consensus.watermark.Watermark.__init__", 'aside = path.with_suffix(".new")', "aside = path"),
    ),
    Ablation(
        "a snapshot is synced before it has its name",
        "7",
        "power cuts",
        80,
        _cut("consensus.snapshots.SnapshotStore.write", "os.fsync(file.fileno())", "pass"),
    ),
    Ablation(
        "a received snapshot is synced before it has its name",
        "7, 12",
        "power cuts",
        30,
        _cut("consensus.snapshots.Receiver.install", "os.fsync(self._file)", "pass"),
    ),
    Ablation(
        "a snapshot's name is synced before the log is trimmed",
        "3, 7",
        "power cuts",
        30,
        _cut("consensus.snapshots.SnapshotStore._install", "sync_directory(self._directory)", "pass"),
    ),
    Ablation(
        "the identity is synced before it has its name",
        "founding",
        "power cuts",
        20,
        _cut("consensus.datadir._write_identity", "os.fsync(file.fileno())", "pass"),
    ),
    Ablation(
        "the identity's name is synced",
        "founding",
        "power cuts",
        30,
        _cut("consensus.datadir._write_identity", "sync_directory(path)", "pass"),
    ),
    Ablation(
        "the names of log and directory are synced",
        "founding",
        "power cuts",
        20,
        _cut("consensus.datadir.DataDir._make", "sync_directory(directory)", "pass"),
    ),
    Ablation(
        "that a disk has no vote is synced before it joins",
        "empty disk",
        "power cuts",
        300,
        _cut("consensus.opening._found_or_join", "journal.sync()", "pass"),
        32,
    ),
]


DIRECTED = [
    # What a follower does
    Directed(
        "a log that ends too early says so",
        "15, 17",
        "test_hazards.catching_up_from_a_long_conflict",
        _cut(f"{_FENCE}.conflict_hint", "return log[-1][1] + 1", "return prev"),
    ),
    Directed(
        "a whole conflicting term is skipped at once",
        "17",
        "test_hazards.catching_up_from_a_long_conflict",
        _cut(f"{_FENCE}.conflict_hint", "return index", "return prev"),
    ),
    Directed(
        "a committed entry is never overwritten",
        "5.4.3",
        "test_hazards.test_a_leader_that_contradicts_what_is_committed_ends_the_process",
        _cut(f"{_FENCE}.forbid_overwrite", "if entry[1] <= commit:", "if False:"),
    ),
    Directed(
        "a leader that denies what is committed is not believed",
        "5.4.3",
        "test_hazards.test_a_leader_that_denies_what_is_committed_ends_the_process",
        _cut(f"{_FENCE}.conflict_hint", "if prev <= commit:", "if False:"),
    ),
    Directed(
        "two leaders of one term end the process",
        "5.2",
        "test_hazards.test_two_leaders_of_one_term_end_the_process",
        _cut(
            f"{_FOLLOWING}._follow",
            'if message["term"] == core.term and core.leader not in (None, peer):',
            "if False:",
        ),
    ),
    Directed(
        "a leader of the past is told the term",
        "25",
        "test_hazards.a_leader_of_the_past_is_told",
        _cut(
            f"{_FOLLOWING}._follow", "self._outbox.send(peer, self._answer_message(False, 0, 0, 0))", "pass"
        ),
    ),
    Directed(
        "pieces of an old snapshot are not kept",
        "13",
        "test_hazards.test_an_old_snapshot_is_answered_and_not_taken",
        _cut(
            f"{_FOLLOWING}.on_piece",
            "if not fence.snapshot_is_news(journal, core.commit, index, entry_term):",
            "if False:",
        ),
    ),
    Directed(
        "a snapshot that the log has overtaken is not installed",
        "13",
        "test_hazards.test_a_snapshot_that_the_log_overtook_on_its_way_is_not_installed",
        _cut(
            f"{_FOLLOWING}.install",
            "if not fence.snapshot_is_news(journal, core.commit, index, entry_term):",
            "if False:",
        ),
    ),
    Directed(
        "a snapshot that the log holds already undoes nothing after it",
        "13",
        "test_hazards.test_a_snapshot_that_the_log_holds_already_is_not_installed",
        _cut(
            f"{_FENCE}.snapshot_is_news",
            "index > commit and term_at(log, index) != entry_term",
            "index > commit",
        ),
    ),
    Directed(
        "an installed snapshot is committed",
        "7",
        "test_hazards.test_an_installed_snapshot_is_committed",
        _cut(f"{_FOLLOWING}.install", "core.advance(index)", "pass"),
    ),
    Directed(
        "an answer that waited is not given in another term",
        "9",
        "test_hazards.test_an_answer_that_waited_for_the_disk_is_for_its_own_term",
        _cut(f"{_OUTBOX}.release", 'if answer["term"] == term:', "if True:"),
    ),
    # What a leader counts and sends
    Directed(
        "an acknowledgement beyond our log ends the process",
        "9",
        "test_hazards.test_an_acknowledgement_beyond_our_log_ends_the_process",
        _cut(
            f"{_LEADING}.answered",
            'if message["success"] and message["next_node_idx"] > last + 1:',
            "if False:",
        ),
    ),
    Directed(
        "what a member has does not shrink by an old answer",
        "2",
        "test_hazards.test_an_old_acknowledgement_takes_nothing_back",
        _cut(f"{_PROGRESS}.Member._matched", "max(self.match, index)", "index"),
    ),
    Directed(
        "an old rejection starts no search",
        "2, 13",
        "test_hazards.test_an_old_rejection_starts_no_search",
        _cut(f"{_PROGRESS}.Member._rejected", "or rejected <= self.match", ""),
    ),
    Directed(
        "a leader asks one thing at a time",
        "15",
        "test_hazards.a_question_carries_no_entries",
        _cut(f"{_PROGRESS}.Member.probe", "Mode.PROBE, index", "Mode.STREAM, index"),
    ),
    Directed(
        "a leader asks no further than its own end",
        "16",
        "test_hazards.a_rejection_beyond_our_end",
        _cut(
            f"{_PROGRESS}.Member.answered",
            'min(message["next_node_idx"], last + 1)',
            'message["next_node_idx"]',
        ),
    ),
    Directed(
        "what is under way to a member is bounded",
        "35",
        "test_hazards.an_unanswered_follower_costs_a_window",
        _cut(f"{_LEADING}._stream", "and member.window_bytes < limits.window_bytes", ""),
    ),
    Directed(
        "only who has everything takes over",
        "transfer",
        "test_hazards.test_only_who_has_everything_is_told_to_take_over",
        _cut(f"{_LEADING}._hand_over", "if self.members[transfer.to].match == self._log[-1][1]:", "if True:"),
    ),
    Directed(
        "the rounds of members without a vote confirm nothing",
        "empty disk",
        "test_fence.test_a_round_and_a_time_are_a_majoritys",
        _cut(f"{_PROGRESS}.confirmed_round", "if m.voter", ""),
    ),
    Directed(
        "members without a vote extend no lease",
        "empty disk",
        "test_fence.test_a_round_and_a_time_are_a_majoritys",
        _cut(f"{_PROGRESS}.last_quorum", "if m.voter", ""),
    ),
    # Elections
    Directed(
        "who leads grants no pre-vote",
        "27",
        "test_fence.test_who_gets_a_vote",
        _cut(f"{_FENCE}.Voter.may_prevote", "or self.leads", ""),
    ),
    Directed(
        "who hears a leader votes for nobody",
        "27",
        "test_hazards.a_real_vote_is_asked_while_the_leader_lives",
        _cut(f"{_FENCE}.Voter.may_vote", "or not (self.leads or self.leader_alive)", "or True"),
    ),
    Directed(
        "a pre-vote is for a term to come",
        "27",
        "test_fence.test_who_gets_a_vote",
        _cut(f"{_FENCE}.Voter.may_prevote", 'message["term"] > self.term', "True"),
    ),
    Directed(
        "a pre-vote is for a log that is complete",
        "27",
        "test_fence.test_who_gets_a_vote",
        _cut(f"{_FENCE}.up_to_date", ">= (last_term, last)", ">= (0, 0)"),
    ),
    Directed(
        "a vote counts in the term it was given in",
        "10",
        "test_fence.test_voters_are_counted_once_a_term",
        _cut(f"{_FENCE}.Ballot.count", "term < self.term or", ""),
    ),
    Directed(
        "a pre-vote counts for the campaign that asked for it",
        "27",
        "test_hazards.test_a_pre_vote_of_an_earlier_question_starts_no_campaign",
        _cut(f"{_NODE}._on_voted", 'message["term"] == self.term + 1 and self.state != LEADER', "True"),
    ),
    Directed(
        "a majority is asked before a member stands",
        "27",
        "test_hazards.test_a_majority_is_asked_before_a_member_stands",
        _cut("consensus.electing.Electing.would_vote", ">= self._config.majority", "> 1"),
    ),
    Directed(
        "a higher term makes a follower",
        "5.1",
        "test_hazards.test_a_higher_term_in_an_answer_deposes",
        _cut(f"{_NODE}._outranked", 'if message["term"] <= self.term:', "if True:"),
    ),
    Directed(
        "who asks for a vote of an old term is told the term",
        "5.1",
        "test_hazards.test_a_candidate_of_the_past_is_told",
        _cut(f"{_NODE}._on_vote", 'message["term"] < self.term', "False"),
    ),
    Directed(
        "a reset connection starts a pre-vote at once",
        "C14",
        "test_hazards.test_a_reset_connection_to_the_leader_starts_a_pre_vote_at_once",
        _cut(f"{_NODE}.reset", "self._electing.cut(peer, self.shell.now())", "pass"),
    ),
    Directed(
        "after a pause of its own a member waits before it stands",
        "FC14",
        "test_hazards.a_follower_that_was_paused",
        _cut("consensus.electing.Electing.wakes", "if now - self._planned > beat:", "if False:"),
    ),
    Directed(
        "only the leader may say who follows it",
        "transfer",
        "test_hazards.test_a_successor_that_was_asked_stands_at_once_and_is_elected_while_the_leader_lives",
        _cut(
            f"{_NODE}.receive",
            'message["term"] == self.term and peer == self.leader and self.journal.voter',
            "True",
        ),
    ),
    # An empty disk under an old id
    Directed(
        "who has no vote grants none",
        "empty disk",
        "test_fence.test_who_gets_a_vote",
        _cut(f"{_FENCE}.Voter.may_vote", "if not self.votes:", "if False:"),
    ),
    Directed(
        "who has no vote grants no pre-vote",
        "empty disk",
        "test_fence.test_who_gets_a_vote",
        _cut(f"{_FENCE}.Voter.may_prevote", "not self.votes or", ""),
    ),
    Directed(
        "an empty disk is no second copy, step by step",
        "empty disk",
        "test_schedules.an_empty_disk_is_not_a_second_copy",
        _cut(f"{_PROGRESS}.agreed", "if m.voter", ""),
    ),
    Directed(
        "the entry that earns a vote was proposed after the return, step by step",
        "empty disk",
        "test_schedules.an_empty_disk_that_forgot_its_vote",
        _cut(f"{_FOLLOWING}._claim_vote", "self._core.commit >= index", "self._core.commit > 1"),
    ),
    Directed(
        "the entry that earns a vote is for this life",
        "empty disk",
        "test_hazards.test_a_promise_is_for_its_own_life",
        _cut(f"{_FOLLOWING}._claim_vote", "and incarnation == self._incarnation", ""),
    ),
    Directed(
        "answers of a life that has ended do not count",
        "empty disk",
        "test_hazards.test_an_answer_of_a_life_that_has_ended_is_not_counted",
        _cut(f"{_LEADING}.answered", 'if message["incarnation"] < member.incarnation:', "if False:"),
    ),
    Directed(
        "what a lost disk had is forgotten",
        "empty disk",
        "test_hazards.test_what_a_lost_disk_had_is_forgotten",
        _cut(f"{_PROGRESS}.Member.reborn", "False, 0, 0", "False, self.match, 0"),
    ),
    # The journal
    Directed(
        "the commit index ends with the log",
        "8",
        "test_journal.test_the_commit_index_is_clamped_to_the_log",
        _cut(
            f"{_JOURNAL}.__init__",
            "max(1, min(self._hard.commit, self._last()))",
            "max(1, self._hard.commit)",
        ),
    ),
    Directed(
        "a batch under way does not vouch for what was cut since",
        "6",
        "test_journal.test_a_batch_under_way_does_not_vouch_for_what_was_cut_since",
        _cut(f"{_JOURNAL}._cut_to", "flight[1] = min(flight[1], last)", "pass"),
    ),
    Directed(
        "what was cut before it was written is not written",
        "6",
        "test_hazards.test_what_was_cut_before_it_was_written_is_not_written",
        _cut(
            f"{_JOURNAL}._cut_to",
            "batch.entries = [entry for entry in batch.entries if entry[1] <= last]",
            "pass",
        ),
    ),
    Directed(
        "a gap between snapshot and log is damage",
        "3",
        "test_journal.test_a_gap_between_snapshot_and_log_is_damage",
        _cut("consensus.journal.align", "if first > index:", "if False:"),
    ),
    Directed(
        "a tail that lost against the snapshot goes",
        "3",
        "test_journal.test_align_makes_the_log_continue_the_snapshot",
        _cut("consensus.journal.align", "journal[position][2] == term", "True"),
    ),
    Directed(
        "every bit of a record is covered by its checksum",
        "FC19",
        "test_hazards.test_every_bit_of_a_record_and_of_a_vote_is_covered_by_its_checksum",
        _cut(
            "consensus.records.read_entry",
            "if zlib.crc32(memoryview(value)[4:], zlib.crc32(key)) != checksum:",
            "if False:",
        ),
    ),
    Directed(
        "every bit of a term and of a vote is covered by a checksum",
        "FC19",
        "test_hazards.test_every_bit_of_a_record_and_of_a_vote_is_covered_by_its_checksum",
        _cut("consensus.records.read_hard", "if zlib.crc32(value[4:]) != checksum:", "if False:"),
    ),
    # Files, and the beginning of a cluster
    Directed(
        "one process uses a directory",
        "FC25",
        "test_datadir.test_a_second_process_is_refused",
        _cut("consensus.datadir._take_lock", "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
    ),
    Directed(
        "a directory is private",
        "S5",
        "test_datadir.test_a_directory_that_was_tampered_with_is_refused",
        _cut("consensus.datadir._own", "if stat.S_IMODE(found.st_mode) & 0o077:", "if False:"),
    ),
    Directed(
        "an identity has a checksum",
        "FC19",
        "test_refusals.test_an_identity_with_another_word_is_damage",
        _cut(
            "consensus.datadir.read_identity",
            "if int(checksum, 16) != zlib.crc32(text.encode()):",
            "if False:",
        ),
    ),
    Directed(
        "a newer format is not read",
        "FC28",
        "test_datadir.test_a_directory_that_was_tampered_with_is_refused",
        _cut("consensus.datadir.read_identity", 'if fields["format"] > FORMAT:', "if False:"),
    ),
    Directed(
        "a directory is of one member",
        "FC20",
        "test_datadir.test_somebody_elses_directory_is_refused",
        _cut("consensus.datadir.DataDir._open", "if found.member != new.member:", "if False:"),
    ),
    Directed(
        "a directory is of one cluster",
        "FC20",
        "test_datadir.test_somebody_elses_directory_is_refused",
        _cut("consensus.datadir.DataDir._open", "if found.members != new.members:", "if False:"),
    ),
    Directed(
        "a log that is gone is damage",
        "FC20",
        "test_datadir.test_a_directory_that_was_tampered_with_is_refused",
        _cut("consensus.datadir.DataDir._open", "if not (self.path / part).is_dir():", "if False:"),
    ),
    Directed(
        "a log without an identity is damage",
        "FC20",
        "test_datadir.test_a_directory_that_was_tampered_with_is_refused",
        _cut("consensus.datadir.DataDir._check_blank", "if loaded.entries or loaded.hard.term:", "if False:"),
    ),
    Directed(
        "a snapshot has a checksum",
        "FC19",
        "test_snapshots.test_a_damaged_snapshot_refuses_to_start",
        _cut("consensus.snapshots._verify", "if digest.digest() != checksum:", "if False:"),
    ),
    Directed(
        "a snapshot has a length",
        "FC20",
        "test_refusals.test_a_snapshot_says_that_its_length_is_wrong",
        _cut("consensus.snapshots._read_header", "if size != expected:", "if False:"),
    ),
    Directed(
        "a damaged snapshot is not passed over",
        "FC19",
        "test_snapshots.test_a_damaged_snapshot_refuses_to_start",
        _cut(
            "consensus.snapshots.SnapshotStore.latest",
            'raise damaged("snapshot", f"{newest}: {error}") from error',
            "return None",
        ),
    ),
    Directed(
        "a received snapshot is the one that was offered",
        "12",
        "test_snapshots.test_a_bad_transfer_installs_nothing_and_starts_again",
        _cut(
            "consensus.snapshots.Receiver.install",
            "if (index, term, checksum) != (self.offer.index, self.offer.term, self.offer.checksum):",
            "if False:",
        ),
    ),
    Directed(
        "a piece does not go beyond the end",
        "FC23",
        "test_refusals.test_a_piece_that_goes_beyond_the_end_is_not_taken",
        _cut("consensus.snapshots.Receiver.write", "and offset + len(data) <= self.offer.size", ""),
    ),
    Directed(
        "an older snapshot replaces no newer one",
        "13",
        "test_snapshots.test_an_older_one_never_replaces_a_newer",
        _cut(
            "consensus.snapshots.SnapshotStore._install",
            "newest is not None and int(newest.name[9:29]) >= file.index",
            "False",
        ),
    ),
    Directed(
        "a log is made once",
        "FC20",
        "test_refusals.test_a_log_is_never_made_anew_in_the_place_of_one",
        _cut(
            "consensus.rocks.RocksStore._open",
            "options.create_if_missing(create)",
            "options.create_if_missing(True)",
        ),
    ),
    Directed(
        "a log has no holes",
        "FC20",
        "test_refusals.test_a_hole_in_the_log_is_damage",
        _cut(
            "consensus.rocks.RocksStore._read", "if entries and entry[1] != entries[-1][1] + 1:", "if False:"
        ),
    ),
    Directed(
        "a vote that was set back is damage",
        "FC20",
        "test_refusals.test_a_vote_that_was_set_back_is_damage",
        _cut("consensus.watermark.Watermark.check", "if hard.term < self._term:", "if False:"),
    ),
    Directed(
        "a log that was cut is damage",
        "FC20",
        "test_journal.test_damage_is_found_before_the_first_vote",
        _cut("consensus.watermark.Watermark.check", "if last < self._last:", "if False:"),
    ),
    Directed(
        "an entry of another term is damage",
        "FC20",
        "test_refusals.test_an_entry_of_another_term_is_damage",
        _cut("consensus.watermark.Watermark.check", "if term != self._last_term:", "if False:"),
    ),
    Directed(
        "a disk that failed has failed for ever",
        "FC17",
        "test_refusals.test_a_disk_that_failed_once_has_failed_for_ever",
        _cut("consensus.rocks.RocksStore._guarded", "self.failed = disk_failed(error)", "pass"),
    ),
    Directed(
        "a log that was trimmed needs its snapshot",
        "3",
        "test_opening.test_a_gap_between_snapshot_and_log_is_refused",
        _cut(
            "consensus.opening._agree",
            "if newest is None and len(journal) and journal[0][1:] != (1, 0):",
            "if False:",
        ),
    ),
    Directed(
        "nobody founds while one is missing",
        "founding",
        "test_founding.test_until_all_are_there_nobody_founds",
        _cut("consensus.founding.decide", "if missing:", "if False:"),
    ),
    Directed(
        "one founds",
        "founding",
        "test_founding.test_until_all_are_there_nobody_founds",
        _cut("consensus.founding.decide", "if mine.member != founder:", "if False:"),
    ),
    Directed(
        "a replacement never founds",
        "founding",
        "test_founding.test_a_replacement_never_founds",
        _cut("consensus.founding.decide", "if replacing:", "if False:"),
    ),
    Directed(
        "two clusters are never mixed",
        "founding",
        "test_founding.test_two_clusters_are_never_mixed",
        _cut("consensus.founding._join", "if len(clusters) > 1:", "if False:"),
    ),
    Directed(
        "a lost disk does not join by itself",
        "founding",
        "test_founding.test_a_lost_disk_stops_and_names_the_command",
        _cut("consensus.founding._join", "if before == mine.disk:", "if True:"),
    ),
    Directed(
        "a lost disk joins without a vote",
        "founding",
        "test_founding.test_a_lost_disk_comes_back_as_a_non_voter_when_told_to",
        _cut("consensus.founding._join", "voter=False", "voter=True"),
    ),
    # Sessions
    Directed(
        "the newest stream of a peer counts",
        "11",
        "test_old_streams.test_a_frame_of_a_stream_that_was_replaced_is_dropped",
        _cut("consensus.transport.GrpcLink._frame", "self._inbound.get(inbound.peer) is inbound and", ""),
    ),
    Directed(
        "a late stream replaces no newer one",
        "11",
        "test_old_streams.test_a_stream_that_comes_late_does_not_replace_a_newer_one",
        _cut(
            "consensus.transport.GrpcLink._admit",
            "if older is not None and older.hello.life == hello.life and older.hello.session > hello.session:",
            "if False:",
        ),
    ),
    Directed(
        "a stream that was replaced is over",
        "11",
        "test_old_streams.test_a_stream_that_comes_late_does_not_replace_a_newer_one",
        _cut("consensus.transport.GrpcLink._admit", "older.over = True", "pass"),
    ),
    Directed(
        "a frame that is none ends its stream",
        "28",
        "test_old_streams.test_a_frame_that_is_none_ends_its_stream",
        _cut("consensus.transport.GrpcLink._take", "return False", "return True"),
    ),
    Directed(
        "the inbox is bounded",
        "35",
        "test_old_streams.test_a_full_inbox_holds_the_sender",
        _cut(
            "consensus.transport.GrpcLink._take",
            "inbound.put - inbound.taken > _INBOX_BYTES and not inbound.over",
            "False",
        ),
    ),
    # Bounds
    Directed(
        "what is not committed is bounded",
        "35",
        "test_bounds.test_uncommitted_entries_are_bounded",
        _cut(
            "consensus.proposing.Proposals.take",
            "if index - commit >= limits.uncommitted_entries:",
            "if False:",
        ),
    ),
    Directed(
        "so are its bytes",
        "35",
        "test_bounds.test_uncommitted_bytes_are_bounded",
        _cut("consensus.proposing.Proposals.take", "and self._open_bytes < limits.uncommitted_bytes", ""),
    ),
    Directed(
        "what is ahead of the state machine is bounded",
        "35",
        "test_bounds.test_what_is_ahead_of_the_state_machine_is_bounded",
        _cut(
            "consensus.node.Node._hand_over",
            "min(self.commit, self.shell.applied() + self.config.limits.apply_lag_entries)",
            "self.commit",
        ),
    ),
    Directed(
        "a waiter is bound to index and term",
        "33",
        "test_bounds.test_a_waiter_is_bound_to_index_and_term",
        _cut("consensus.proposing.Proposals.claim", "assert expected[0] == term", "assert True"),
    ),
    Directed(
        "an entry is applied once",
        "C7",
        "test_hazards.test_an_entry_that_a_snapshot_went_past_is_not_applied_again",
        _cut("consensus.applying.Applier._apply", "if index <= self.applied:", "if False:"),
    ),
    Directed(
        "the state never goes back",
        "13",
        "test_hazards.test_a_snapshot_that_is_older_than_the_state_is_not_restored",
        _cut("consensus.applying.Applier._take", "if index > self.applied:", "if True:"),
    ),
    Directed(
        "a refused entry is refused by its index",
        "20",
        "test_hazards.test_only_the_entry_that_was_named_is_refused",
        _cut("consensus.applying.Applier._refused", "self._refuse[0] == index and", ""),
    ),
    Directed(
        "a refused entry is refused by its content",
        "20",
        "test_hazards.test_only_the_entry_that_was_named_is_refused",
        _cut("consensus.applying.Applier._refused", "and digest(body).startswith(self._refuse[1])", ""),
    ),
    # Handing over
    Directed(
        "nothing is proposed during a hand-over",
        "transfer",
        "test_handover.test_nothing_is_proposed_while_leadership_is_handed_over",
        _cut("consensus.node.Node._govern", "if leading.transfer is None:", "if True:"),
    ),
    Directed(
        "an empty disk is no successor",
        "empty disk",
        "test_handover.test_an_empty_disk_is_no_successor",
        _cut("consensus.node.Node.transfer", "or not self.leading.members[to].voter", ""),
    ),
    Directed(
        "the best successor is a voter",
        "empty disk",
        "test_handover.test_the_successor_is_a_voter_also_when_another_has_more",
        _cut(
            "consensus.leading.Leading.best_successor", "if m.voter and p in connected", "if p in connected"
        ),
    ),
    Directed(
        "who waits when a member is stopped is told",
        "33",
        "test_handover.test_who_waits_when_a_member_is_stopped_is_told",
        _cut("consensus.node.Node.abandon", "self.proposals.forget()", "[]"),
    ),
    Directed(
        "a replacement votes when all have met it",
        "empty disk",
        "test_replaced_disks.test_it_votes_only_once_every_other_member_has_let_it_in",
        _cut("consensus.following.Following._claim_vote", "and not self._strangers", ""),
    ),
    # Snapshots
    Directed(
        "one received snapshot at a time",
        "12",
        "test_compacting.test_while_a_snapshot_goes_to_the_disk_no_other_is_begun",
        _cut("consensus.compacting.Compacting.take_piece", "if self._arriving is not None:", "if False:"),
    ),
    Directed(
        "no own snapshot while one arrives",
        "12",
        "test_compacting.test_no_own_snapshot_is_begun_while_one_arrives",
        _cut("consensus.compacting.Compacting.due", "or self._arriving is not None", ""),
    ),
    Directed(
        "only what a snapshot covers is trimmed",
        "3",
        "test_compacting.test_a_snapshot_that_ends_where_the_log_is_not_trims_nothing",
        _cut("consensus.compacting.Compacting.taken", "if first < index - keep <= last:", "if True:"),
    ),
    Directed(
        "a member ends with its disk",
        "FC17",
        "test_compacting.test_a_disk_that_failed_ends_the_turn",
        _cut("consensus.node.Node.tick", "if self.journal.failed is not None:", "if False:"),
    ),
    # One line each
    Directed(
        "only rounds that were begun are answered",
        "26",
        "test_small_rules.test_only_rounds_that_were_begun_are_answered",
        _cut("consensus.leading.Leading._heard", "if member.round < round_ <= self.round:", "if True:"),
    ),
    Directed(
        "a read waits for all that was committed",
        "26",
        "test_small_rules.test_a_read_waits_for_all_that_was_committed_when_it_was_asked",
        _cut("consensus.leading.Leading.read", "max(commit, self.noop)", "self.noop"),
    ),
    Directed(
        "a new session begins with a question",
        "15",
        "test_small_rules.test_a_new_session_begins_with_a_question",
        _cut("consensus.leading.Leading.up", "self.members[peer].disconnected()", "pass"),
    ),
    Directed(
        "a new session may be of an earlier time",
        "empty disk",
        "test_small_rules.test_a_new_session_may_be_of_a_life_that_says_an_earlier_time",
        _cut("consensus.leading.Leading.up", "self.members[peer].incarnation = 0", "pass"),
    ),
    Directed(
        "a candidate waits for its own disk",
        "FC16",
        "test_small_rules.test_a_candidate_waits_for_its_own_disk",
        _cut("consensus.node.Node._stand", "if self.state == CANDIDATE and self._outbox.holds:", "if False:"),
    ),
    Directed(
        "the term is never below the log's",
        "C2",
        "test_small_rules.test_the_term_is_never_below_the_logs",
        _cut(
            "consensus.core.Core.__init__",
            "max(journal.getCurrentTerm(), journal[-1][2])",
            "journal.getCurrentTerm()",
        ),
    ),
    Directed(
        "the commit index is never beyond the log",
        "8",
        "test_small_rules.test_the_commit_index_is_never_beyond_the_log",
        _cut(
            "consensus.core.Core.__init__",
            "min(journal.getRaftCommitIndex(), journal[-1][1])",
            "journal.getRaftCommitIndex()",
        ),
    ),
    Directed(
        "the commit index does not go back",
        "C5",
        "test_small_rules.test_the_commit_index_does_not_go_back",
        _cut("consensus.core.Core.advance", "if commit > self.commit:", "if True:"),
    ),
    Directed(
        "a rejection takes back what was to be answered",
        "9",
        "test_small_rules.test_a_rejection_takes_back_what_was_to_be_answered",
        _cut("consensus.outbox.Outbox.answer", "self._owed = None", "pass"),
    ),
]
