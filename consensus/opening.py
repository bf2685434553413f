"""Opens what a replica stands on: its log, its snapshots, its link to the others. Decides nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from consensus.config import ReplicaConfig


@dataclass(slots=True)
class Parts:
    """What was opened. The journal agrees with the newest snapshot; frames flow from `start` on."""

    journal: Any
    snapshots: Any
    link: Any
    cluster_id: str
    start: Callable[[], None]
    close: Callable[[], None]


def open_parts(config: ReplicaConfig, say: Callable[[str], None], stopping: threading.Event) -> Parts:
    """Takes the directory's lock, checks who lived in it, opens log and snapshots; founds the cluster or
    joins it.

    `say` is told what it waits for. Raises RefusedToStart; also when `stopping` is set meanwhile.
    """
    raise NotImplementedError
