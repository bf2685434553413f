"""What we use of pysyncobj that it does not promise: checked at start, so that another version refuses to
run.

The adapter reaches into private names of pysyncobj 0.3.17. A release that renames one, or gives it another
meaning, would not fail but corrupt: so exactly this version starts, and only with every name below.
"""

from __future__ import annotations

from importlib.metadata import version

from pysyncobj import SyncObj

from consensus.replica import RefusedToStart

VERSION = "0.3.17"
PREFIX = "_SyncObj__"

METHODS = (  # called, or overridden (*)
    "onMessageReceived",
    "onNodeConnected",
    "onNodeDisconnected",
    "onBecomeLeader",  # *
    "sendAppendEntries",  # *
    "setState",  # *
    "setCurrentTerm",  # *
    "sendNextNodeIdx",
    "generateRaftTimeout",
    "getCurrentLogIndex",
    "getCurrentLogTerm",
    "getEntries",
    "deleteEntriesFrom",
)
ATTRIBUTES = (
    "raftLog",
    "raftCurrentTerm",
    "votedForNodeId",
    "raftState",
    "raftLeader",
    "raftCommitIndex",
    "raftLastApplied",
    "votesCount",
    "transport",
    "connectedNodes",
)


def check_library() -> None:
    """Refuses any pysyncobj but the one whose every line was read. Raises RefusedToStart."""
    found = version("pysyncobj")
    missing = [name for name in METHODS if not callable(getattr(SyncObj, PREFIX + name, None))]
    if found != VERSION or missing:
        lacks = f" (it lacks {', '.join(missing)})" if missing else ""
        raise RefusedToStart(
            f"pysyncobj {found} is installed{lacks}; mapraft needs exactly {VERSION}: "
            f"pip install pysyncobj=={VERSION}"
        )


def check_instance(node: SyncObj) -> None:
    """The same for what only an instance has. Raises RefusedToStart."""
    missing = [name for name in ATTRIBUTES if not hasattr(node, PREFIX + name)]
    if missing:
        raise RefusedToStart(
            f"pysyncobj's SyncObj lacks {', '.join(missing)}; mapraft needs exactly {VERSION}"
        )
