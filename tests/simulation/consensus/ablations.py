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
        "who has no vote helps nobody",
        "empty disk",
        "disks",
        300,
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
        250,
        _cut("consensus.watermark.Watermark.lower", "self.write()", "pass"),
        8,
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
    ),
]
