"""Opens what a replica stands on: its log, its snapshots, its link to the others. Decides nothing."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import grpc

from consensus.config import ReplicaConfig
from consensus.core import NO_OP
from consensus.datadir import DataDir
from consensus.founding import Join, Stop, Wait, decide, identification
from consensus.journal import Journal, align, damaged
from consensus.patience import Patience
from consensus.replica import RefusedToStart
from consensus.rpc import raft_pb2 as pb
from consensus.shelf import Shelf
from consensus.transport import GrpcLink, Link

_ASK_AGAIN_S = 0.2


@dataclass(slots=True)
class Parts:
    """What was opened. The journal agrees with the newest snapshot; frames flow from `start` on."""

    journal: Journal
    snapshots: Shelf
    link: Link
    cluster_id: str
    start: Callable[[], None]
    close: Callable[[], None]


def open_parts(config: ReplicaConfig, say: Callable[[str], None], stopping: threading.Event) -> Parts:
    """Takes the directory's lock, checks who lived in it, opens log and snapshots; founds the cluster or
    joins it.

    `say` is told what it waits for. Raises RefusedToStart; also when `stopping` is set meanwhile.
    """

    def wait(reason: str) -> None:
        say(reason)
        if stopping.wait(_ASK_AGAIN_S):
            raise RefusedToStart(f"stopped while {reason}")

    with ExitStack() as undo:
        directory = DataDir(config.data_dir, config.id, tuple(sorted(config.peers)))
        undo.callback(directory.close)
        journal = directory.open_log()
        undo.callback(journal._destroy)
        shelf = Shelf(directory.open_snapshots())
        undo.callback(shelf.close)
        link = GrpcLink(config, lambda _: identification(directory.identity), directory.meet)
        undo.callback(link.close)
        _agree(journal, shelf)
        if not directory.identity.cluster_id:
            if journal.getCurrentTerm() or journal[-1][1] > 1:
                raise damaged("identity", "it names no cluster, but the log is not empty")
            _found_or_join(config, directory, journal, link, wait)
        journal.sync()
        close = undo.pop_all().close
    cluster_id, disk = directory.identity.cluster_id, directory.identity.disk
    return Parts(journal, shelf, link, cluster_id, lambda: link.open(cluster_id, disk), close)


def _agree(journal: Journal, shelf: Shelf) -> None:
    """The log continues the newest snapshot, whatever a crash left of the change from one to the other."""
    newest = shelf.latest()
    if newest is None and len(journal) and journal[0][1:] != (1, 0):
        raise damaged("snapshot", f"the log begins at entry {journal[0][1]}, and there is no snapshot")
    index, term = (newest.index, newest.term) if newest else (1, 0)
    if not align(journal, index, term):
        journal.add(NO_OP, index, term)
    journal.setRaftCommitIndex(max(index, journal.getRaftCommitIndex()))


def _found_or_join(
    config: ReplicaConfig, directory: DataDir, journal: Journal, link: GrpcLink, wait: Callable[[str], None]
) -> None:
    """Asks the peers until it is clear which cluster this empty member is of."""
    mine = identification(directory.identity)
    patience = {peer: Patience() for peer in config.others}
    with ThreadPoolExecutor(max(1, len(config.others)), thread_name_prefix="founding") as pool:
        while not directory.identity.cluster_id:
            asked = {peer: pool.submit(_ask, link, peer, mine, patience[peer]) for peer in config.others}
            answers = {peer: answer for peer, future in asked.items() if (answer := future.result())}
            match decide(directory.identity, answers, replacing=config.replace, new_id=secrets.token_hex(8)):
                case Join(identity, voter):
                    if not voter:
                        journal.set_voter(False)
                        journal.sync()
                    directory.become(identity)
                case Stop(reason):
                    raise RefusedToStart(reason)
                case Wait(reason):
                    wait(reason)


def _ask(link: GrpcLink, peer: str, mine: pb.Identification, patience: Patience) -> pb.Identification | None:
    began, answer = time.monotonic(), None
    with suppress(grpc.RpcError):
        answer = link.ask(peer, mine, timeout_s=patience.seconds)
    patience.ended(time.monotonic() - began, met=answer is not None)
    return answer
