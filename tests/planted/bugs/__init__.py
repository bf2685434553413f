"""Every planted bug, by name."""

from __future__ import annotations

from tests.planted.bug import Bug
from tests.planted.bugs import consensus, control, data, edges, replicas, users, worker

BUGS: dict[str, Bug] = {
    bug.name: bug
    for module in (consensus, replicas, control, worker, data, edges, users)
    for bug in module.BUGS
}
