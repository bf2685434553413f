"""Where the map outputs of a step lie, and which of them a reduce has, fetches and lacks.

Pure. `Locations` replays the step's log of completions and losses, which is the same on every master: an item
seen before is skipped, so a leader may repeat itself. `Gather` is one reduce attempt's shopping list over it:
at most one call to a peer at a time, a bounded number of calls, many regions a call. A region counts as had
only while its map attempt is still the one that `Locations` names (T9).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mr.rpc import session_pb2 as session
from mr.rpc import task_pb2 as task

CALLS_PER_REDUCE = 4
REGIONS_PER_CALL = 256
RETRY_FIRST_S = 0.5
RETRY_MOST_S = 15.0


@dataclass(frozen=True, slots=True)
class Location:
    """The winner of one map and the worker that holds its output."""

    attempt: int
    worker: str
    address: str


class Locations:
    """The current location of each map output of one step, as of `sequence` items of the step's log."""

    def __init__(self) -> None:
        self.sequence = 0
        self.current: dict[int, Location] = {}

    def learn(self, message: session.MapOutputs) -> set[int] | None:
        """Takes in what is new and returns the maps that changed; None if items are missing in between."""
        known = self.sequence - message.from_sequence
        if known < 0:
            return None
        changed = set()
        for item in message.outputs[known:]:
            self.sequence += 1
            changed.add(item.map)
            if not item.lost:
                self.current[item.map] = Location(item.attempt, item.worker, item.address)
            elif item.map in self.current and self.current[item.map].attempt == item.attempt:
                del self.current[item.map]
        return changed


@dataclass(slots=True)
class _Peer:
    address: str
    todo: set[int] = field(default_factory=set)
    asked: Sequence[int] = ()  # the maps of the call in flight; none: no call
    failures: int = 0
    not_before: float = 0.0


class Gather:
    """One reduce attempt's way to all its `maps` map outputs."""

    def __init__(self, maps: int, locations: Locations) -> None:
        self.maps = maps
        self._locations = locations
        self._have: dict[int, task.Run] = {}
        self._peers: dict[str, _Peer] = {}
        self._todo_at: dict[int, str] = {}  # map -> the peer in whose `todo` it is
        self.changed(locations.current)

    @property
    def fetched(self) -> int:
        """How many map outputs are in hand."""
        return len(self._have)

    @property
    def complete(self) -> bool:
        """Whether every map's current output is in hand."""
        return len(self._have) == self.maps

    def runs(self) -> Sequence[task.Run]:
        """What is in hand, in map order: the order in which values of equal keys are merged (D11)."""
        return [self._have[m] for m in sorted(self._have)]

    def changed(self, maps: Iterable[int]) -> None:
        """The locations of these maps changed: forget what is out of date, want what is new."""
        for m in maps:
            self._unlist(m)
            location = self._locations.current.get(m)
            had = self._have.get(m)
            if had is not None and (location is None or location.attempt != had.attempt):
                del self._have[m]
            if location is not None and m < self.maps and m not in self._have:
                peer = self._peers.setdefault(location.worker, _Peer(location.address))
                if peer.address != location.address:  # it moved: old trouble says nothing of the new place
                    peer.address, peer.failures, peer.not_before = location.address, 0, 0.0
                peer.todo.add(m)
                self._todo_at[m] = location.worker

    def calls(self, now: float) -> list[tuple[str, str, list[tuple[int, int]]]]:
        """The calls to make now, as (worker, address, [(map, attempt)]); each is in flight from here on."""
        free = CALLS_PER_REDUCE - sum(1 for peer in self._peers.values() if peer.asked)
        calls = []
        for worker, peer in self._peers.items():
            if free <= 0:
                break
            if peer.asked or not peer.todo or now < peer.not_before:
                continue
            peer.asked = heapq.nsmallest(REGIONS_PER_CALL, peer.todo)
            for m in peer.asked:
                self._unlist(m)
            free -= 1
            current = self._locations.current
            calls.append((worker, peer.address, [(m, current[m].attempt) for m in peer.asked]))
        return calls

    def ended(self, worker: str, fetched: Sequence[task.Run], now: float) -> None:
        """The call to `worker` is over; what it did not bring is wanted again after a pause."""
        peer = self._peers.get(worker)
        if peer is None or not peer.asked:
            return
        asked, peer.asked = peer.asked, ()
        for run in fetched:
            location = self._locations.current.get(run.map)
            if location is not None and location.attempt == run.attempt:
                self._have[run.map] = run
                self._unlist(run.map)
        brought = {run.map for run in fetched}
        if missing := [m for m in asked if m not in brought]:
            self.changed(m for m in missing if m not in self._todo_at)
            peer.not_before = now + min(RETRY_MOST_S, RETRY_FIRST_S * 2.0**peer.failures)
            peer.failures = min(peer.failures + 1, 10)
        else:
            peer.failures = 0

    def _unlist(self, m: int) -> None:
        worker = self._todo_at.pop(m, None)
        if worker is not None:
            self._peers[worker].todo.discard(m)
