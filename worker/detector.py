"""Workers watch each other: who cannot reach whom, as the leader alone could never see it (S2-19).

Pure, after SWIM (Das, Gupta, Motivala 2002): in every period one peer is probed directly; a peer that does not
answer is probed through a few others, which tells a dead worker from a broken link. Every peer has its turn
once a round, in an order that differs between workers and rounds. Only changes are reported, and nobody is
declared dead here: that is the leader's to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

HELPERS = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask `target` for a sign of life, through `via` ("": directly)."""

    target: str
    via: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """News about a peer: not reachable from here; `agreed` of `asked` others cannot reach it either."""

    worker: str
    reachable: bool
    asked: int = 0
    agreed: int = 0


class Detector:
    """What one worker knows of its peers."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._peers: dict[str, str] = {}
        self._turns: list[str] = []
        self._round = 0
        self._bad: dict[str, Changed] = {}

    def set_peers(self, peers: Mapping[str, str]) -> None:
        """The other workers and their addresses, as of the last welcome."""
        self._peers = {worker: address for worker, address in peers.items() if worker != self._me}
        self._bad = {worker: news for worker, news in self._bad.items() if worker in self._peers}

    def address(self, worker: str) -> str | None:
        """Where a peer is."""
        return self._peers.get(worker)

    def period(self) -> Probe | None:
        """The probe of this period; None if there is nobody to watch."""
        self._turns = [worker for worker in self._turns if worker in self._peers]
        if not self._turns:
            self._round += 1
            self._turns = self._shuffled(self._peers, f"round {self._round}")
        return Probe(self._turns.pop()) if self._turns else None

    def answered(self, target: str) -> Changed | None:
        """A direct probe was answered."""
        return Changed(target, reachable=True) if self._bad.pop(target, None) else None

    def missed(self, target: str) -> Sequence[Probe]:
        """A direct probe was not answered: ask these others before anything is said."""
        others = (worker for worker in self._peers if worker != target and worker not in self._bad)
        helpers = self._shuffled(others, f"{target} in round {self._round}")[:HELPERS]
        return [Probe(target, via) for via in helpers]

    def judged(self, target: str, answers: Sequence[bool]) -> Changed | None:
        """What the others found: True where they reach it. News only if it differs from the last."""
        news = Changed(target, reachable=False, asked=len(answers), agreed=answers.count(False))
        if target not in self._peers or self._bad.get(target) == news:
            return None
        self._bad[target] = news
        return news

    def _shuffled(self, workers: Iterable[str], salt: str) -> list[str]:
        return sorted(workers, key=lambda worker: (crc32(f"{self._me} {salt} {worker}".encode()), worker))
