"""Tasks of one kind in one step as columns: an array each for state, attempts, winner; never an object a task.

The paper's largest job has 205,000 tasks; a dict each would cost a gigabyte, these columns cost some forty bytes
each, copy in microseconds and are snapshots as they stand. The life of a task is `TRANSITIONS`; what is not there
cannot happen. Nothing here decides: the task table checks first, then calls.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple

IDLE, IN_PROGRESS, COMPLETED = 0, 1, 2
STATE_NAMES = ("idle", "in_progress", "completed")

# The whole life of a task (S4-15). An attempt that ends while another still runs leaves the state as it is.
TRANSITIONS: dict[tuple[int, str], int] = {
    (IDLE, "assigned"): IN_PROGRESS,
    (IN_PROGRESS, "assigned"): IN_PROGRESS,  # a backup beside a slow attempt
    (IN_PROGRESS, "won"): COMPLETED,
    (IN_PROGRESS, "attempts_gone"): IDLE,
    # A map output lives on its worker's disk and dies with it; any other is in the staging place and stays.
    (COMPLETED, "output_lost"): IDLE,
}


class Live(NamedTuple):
    """An attempt that may still win: its number, the worker's life that runs it, the index that assigned it."""

    number: int
    life: int
    backup: bool
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    started_ms: int


class Tasks:
    """The tasks 0..count-1 of one kind in one step."""

    __slots__ = (
        "backups",
        "by_life",
        "count",
        "counters",
        "failed_attempts",
        "files",
        "in_state",
        "live",
        "lowest_idle",
        "next_attempt",
        "other_failures",
        "states",
        "user_failures",
        "winner_attempt",
        "winner_life",
    )

    def __init__(self, count: int) -> None:
        self.count = count
        self.states = bytearray(count)
        self.next_attempt = array("I", bytes(4 * count))  # the last number given out; 0 = none
        self.winner_attempt = array("I", bytes(4 * count))  # 0 = none
        self.winner_life = array("I", bytes(4 * count))
        self.user_failures = array("H", bytes(2 * count))
        self.other_failures = array("H", bytes(2 * count))
        self.live: dict[int, tuple[Live, ...]] = {}  # exactly the tasks in progress
        self.files = [
            b""
        ] * count  # the winner's OutputFile, serialised; only where it is in the staging place
        self.counters = [b""] * count  # the winner's counters, packed; only where a winner may be lost
        self.failed_attempts = 0
        self.backups = 0
        self.in_state = [count, 0, 0]  # derived
        self.lowest_idle = 0  # derived: no task below it is idle
        self.by_life: dict[int, array[int]] = {}  # derived: completions by life, with stale ones among them

    def move(self, index: int, trigger: str) -> None:
        """One step of one task's life; KeyError if the table of transitions lacks it."""
        old = self.states[index]
        new = TRANSITIONS[old, trigger]
        if new != old:
            self.states[index] = new
            self.in_state[old] -= 1
            self.in_state[new] += 1
            if new == IDLE and index < self.lowest_idle:
                self.lowest_idle = index

    def start(self, index: int, live: Live) -> None:
        """The attempt runs from now on."""
        self.move(index, "assigned")
        self.next_attempt[index] = live.number
        self.live[index] = (*self.live.get(index, ()), live)
        self.backups += live.backup

    def find(self, index: int, number: int) -> Live | None:
        """The live attempt of that number."""
        for live in self.live.get(index, ()):
            if live.number == number:
                return live
        return None

    def end(self, index: int, number: int) -> bool:
        """A live attempt is gone; True if the task thereby became idle."""
        left = tuple(live for live in self.live[index] if live.number != number)
        if left:
            self.live[index] = left
            return False
        del self.live[index]
        self.move(index, "attempts_gone")
        return True

    def win(self, index: int, live: Live) -> tuple[Live, ...]:
        """The attempt is the task's one winner; returns the attempts that thereby lost."""
        losers = tuple(other for other in self.live.pop(index) if other.number != live.number)
        self.move(index, "won")
        self.winner_attempt[index] = live.number
        self.winner_life[index] = live.life
        self.by_life.setdefault(live.life, array("I")).append(index)
        return losers

    def lose(self, index: int) -> None:
        """The winner's output is gone."""
        self.move(index, "output_lost")
        self.winner_attempt[index] = 0
        self.winner_life[index] = 0
        self.files[index] = b""
        self.counters[index] = b""

    def idle(self, count: int) -> list[int]:
        """The first `count` idle tasks, ascending: a search for a byte, from where the last one ended."""
        found: list[int] = []
        position = self.states.find(IDLE, self.lowest_idle)
        self.lowest_idle = position if position >= 0 else self.count
        while position >= 0 and len(found) < count:
            found.append(position)
            position = self.states.find(IDLE, position + 1)
        return found

    def held_by(self, life: int) -> list[int]:
        """The tasks whose winner's output lies with that life of a worker, ascending."""
        indexes = self.by_life.get(life, ())
        return sorted({i for i in indexes if self.winner_attempt[i] and self.winner_life[i] == life})

    @property
    def done(self) -> bool:
        """Whether every task is completed."""
        return self.in_state[COMPLETED] == self.count

    def winners_digest(self) -> bytes:
        """SHA-256 over the winners' attempt numbers, u32 big-endian: what a reduce must have consumed."""
        numbers = array("I", self.winner_attempt)
        if sys.byteorder == "little":
            numbers.byteswap()
        return hashlib.sha256(numbers.tobytes()).digest()

    def copy(self) -> Tasks:
        """A copy that later changes leave alone; live attempts are immutable, so shallow is deep."""
        twin = Tasks.__new__(Tasks)
        for column in (
            "states",
            "next_attempt",
            "winner_attempt",
            "winner_life",
            "user_failures",
            "other_failures",
        ):
            setattr(twin, column, getattr(self, column)[:])
        twin.count, twin.failed_attempts, twin.backups = self.count, self.failed_attempts, self.backups
        twin.live, twin.files, twin.counters = self.live.copy(), self.files.copy(), self.counters.copy()
        twin.in_state, twin.by_life, twin.lowest_idle = list(self.in_state), {}, self.lowest_idle
        return twin

    def derive(self) -> None:
        """Rebuilds what follows from the columns, after a restore."""
        self.in_state = [self.states.count(state) for state in (IDLE, IN_PROGRESS, COMPLETED)]
        self.lowest_idle = 0
        self.by_life = {}
        for index, number in enumerate(self.winner_attempt):
            if number:
                self.by_life.setdefault(self.winner_life[index], array("I")).append(index)


LOST_BIT = 1 << 31  # in OutputsLog.maps: this entry says that the output is gone


class OutputsLog:
    """One step's log of map completions and losses; a position is a `MapOutputs.sequence`, equal on all masters."""

    __slots__ = ("attempts", "lives", "maps")

    def __init__(self) -> None:
        self.maps = array("I")
        self.attempts = array("I")
        self.lives = array("I")

    def __len__(self) -> int:
        return len(self.maps)

    def add(self, index: int, attempt: int, life: int, *, lost: bool) -> None:
        """Appends one completion or loss."""
        self.maps.append(index | LOST_BIT if lost else index)
        self.attempts.append(attempt)
        self.lives.append(life)

    def read(self, start: int, stop: int) -> Iterator[tuple[int, int, int, bool]]:
        """(map, attempt, life, lost) of the positions start..stop-1."""
        for position in range(start, min(stop, len(self.maps))):
            packed = self.maps[position]
            yield packed & ~LOST_BIT, self.attempts[position], self.lives[position], bool(packed & LOST_BIT)

    def copy(self) -> OutputsLog:
        """A copy that later appends leave alone."""
        twin = OutputsLog()
        twin.maps, twin.attempts, twin.lives = self.maps[:], self.attempts[:], self.lives[:]
        return twin
