"""Which commands may take effect: the cluster's version, a log entry (design.md, section 10).

The law: a kind of command changes the table only from the entry on that raised the cluster's version to the one it
came with; and that entry is proposed only when every master has said that it knows that version. So during a rolling
upgrade, and back, all tables stay equal (C6, FC28), whoever leads. A master that meets a version it does not know
(it was put back to an older release too late) stops at once: what it would make of the log is not what the others do.

Pure; `master/upgrading.py` asks and proposes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from consensus.replica import RefusedToStart

KNOWN = 1
"""The newest version of the commands that this release applies. One more whenever `SINCE` gets an entry."""
SINCE: Mapping[str, int] = {}
"""Kinds of `table_pb2.Command` that came with a later version than the first."""


class TooNew(RefusedToStart):
    """The log is of a newer release."""


def refuse_newer(version: int) -> None:
    """Raises TooNew when the cluster's version is one that this release does not know."""
    if version > KNOWN:
        raise TooNew(
            f"the log is at version {version} of the commands, and this release knows them up to {KNOWN}:"
            " start the newer release again"
        )


def next_version(present: int, answers: Iterable[int | None]) -> int | None:
    """The version to propose, if every master has answered (None: it has not) and all know a newer one. Pure."""
    known = list(answers)
    if not known or None in known:
        return None
    lowest = min(one for one in known if one is not None)
    return lowest if lowest > present else None
