"""After a majority was lost for good: a new cluster that begins with what one member still has.

This gives up what consensus promises: what only the lost members had is lost, and what this one had without
knowing that it was committed becomes committed. So nothing here happens by itself. The source is only read;
every member of the new cluster is made from the *same* source, so that all begin with equal logs, and the new
cluster's id keeps members of the old one out. It is also how the set of members is changed: with all masters
stopped, from any one that was leading.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from consensus.datadir import DataDir, read_identity
from consensus.journal import Journal
from consensus.replica import RefusedToStart
from consensus.snapshots import SnapshotFile


def recover(source: Path, target: Path, member: str, members: tuple[str, ...]) -> str:
    """Makes `target` the directory of `member` in a new cluster of `members`, from the stopped member in
    `source`.

    Returns what was recovered and what may be lost. Raises RefusedToStart.
    """
    if member not in members:
        raise RefusedToStart(f"{member} is not among the members {', '.join(members)}")
    with ExitStack() as closing:
        old = read_identity(source)
        origin = DataDir(source, old.member, old.members)
        closing.callback(origin.close)
        log = origin.open_log()
        closing.callback(log._destroy)
        snapshot = origin.open_snapshots().latest()
        if not old.cluster_id or not len(log):
            raise RefusedToStart(f"{source} has never been part of a cluster: there is nothing to recover")
        last_index, last_term = log[-1][1], log[-1][2]
        cluster_id = _new_cluster(old.cluster_id, last_index, last_term, members)
        made = DataDir(target, member, tuple(sorted(members)))
        closing.callback(made.close)
        if made.identity.cluster_id:
            raise RefusedToStart(
                f"{target} belongs to cluster {made.identity.cluster_id} already: give an empty one"
            )
        _copy(log, snapshot, made)
        made.become(replace(made.identity, cluster_id=cluster_id))
        return _report(log, snapshot, cluster_id, origin)


def _new_cluster(old: str, index: int, term: int, members: tuple[str, ...]) -> str:
    """Equal for all members that are made from one source, and for no others."""
    text = "\0".join((old, str(index), str(term), *sorted(members)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _copy(log: Journal, snapshot: SnapshotFile | None, made: DataDir) -> None:
    if snapshot is not None:
        made.open_snapshots().write(snapshot.load()).close()
        snapshot.close()
    copy = made.open_log()
    try:
        copy.clear()
        for entry in log[:]:
            copy.add(*entry)
        copy.setCurrentTerm(log.getCurrentTerm(), None)
        copy.setRaftCommitIndex(log[-1][1])
        copy.set_voter(True)
        copy.sync()
    finally:
        copy._destroy()


def _report(log: Journal, snapshot: SnapshotFile | None, cluster_id: str, origin: DataDir) -> str:
    last, commit = log[-1][1], log.getRaftCommitIndex()
    lines = [
        f"recovered from {origin.path} (master {origin.identity.member} of cluster {origin.identity.cluster_id})"
        f" into new cluster {cluster_id}:",
        f"  a snapshot up to entry {snapshot.index}" if snapshot else "  no snapshot",
        f"  the log up to entry {last} of term {log[-1][2]}",
        f"may be lost: whatever the other masters acknowledged after entry {last}",
    ]
    if commit < last:
        lines.append(f"not known here to be committed, and committed now: entries {commit + 1} to {last}")
    if not log.voter:
        lines.append("WARNING: this master was still being brought up to date; another one may have more")
    lines.append("make the directories of all members from this same source before you start any of them")
    return "\n".join(lines)
