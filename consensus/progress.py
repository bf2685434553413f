"""What the leader knows of every other member: how far its log agrees, what is under way to it, when it was
heard.

Pure. Replaces pysyncobj's bookkeeping, whose answers carry neither term nor question: a burst of rejections
walked back for ever (hazard 15), a stale rejection undid a match (hazards 2, 13), whole logs and snapshots
were pushed into unbounded buffers (hazard 35). A member is in one of three modes, as in etcd:

PROBE     we look for where its log agrees: one question at a time
STREAM    appends follow one another, up to a window of unanswered bytes
SNAPSHOT  it lacks entries that we no longer have: pieces, up to a window, each repeated until it is answered
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from consensus.wire import Message


class Mode(Enum):
    """How a member is fed."""

    PROBE = "probe"
    STREAM = "stream"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Member:
    """One other member, in the eyes of the leader of one term."""

    next: int  # index of the next entry to send
    match: int = 0  # it has everything up to here, on disk
    mode: Mode = Mode.PROBE
    voter: bool = True
    incarnation: int = 0
    promote: int = 0  # a non-voter may vote once it has applied this entry of our term
    round: int = 0  # the newest heartbeat round it answered
    heard: float = 0.0  # when we began that round
    asked: float | None = None  # when the probe under way was sent
    window: deque[tuple[int, int]] = field(
        default_factory=deque
    )  # (last index, bytes) of each unanswered append
    window_bytes: int = 0
    snapshot: tuple[int, int, int, bytes] | None = None  # (index, term, size, checksum) being sent
    held: int = 0  # bytes of it that the member says it has
    sent: int = 0  # bytes of it that are under way or held
    sent_at: float = 0.0

    def answered(self, message: Message, last: int) -> None:
        """Takes one answer to an append; `last` is the end of our log."""
        if message["success"]:
            self._matched(message["next_node_idx"] - 1)
        else:
            self._rejected(message["rejected"], min(message["next_node_idx"], last + 1))

    def _matched(self, index: int) -> None:
        self.match = max(self.match, index)
        while self.window and self.window[0][0] <= self.match:
            self.window_bytes -= self.window.popleft()[1]
        if self.mode is Mode.PROBE or (self.mode is Mode.SNAPSHOT and self.snapshot_done()):
            self.stream(max(self.match + 1, index + 1))
        self.next = max(self.next, self.match + 1)

    def snapshot_done(self) -> bool:
        """The member has what the snapshot under way would bring."""
        return self.snapshot is not None and self.match >= self.snapshot[0]

    def _rejected(self, rejected: int, hint: int) -> None:
        if self.mode is Mode.SNAPSHOT or rejected <= self.match:
            return  # the answer to an old question: it had what it now seems to lack
        if self.mode is Mode.PROBE and rejected != self.next - 1:
            return  # not the question that is under way
        self.probe(max(hint, self.match + 1, 2))  # nobody lacks entry 1

    def probe(self, index: int) -> None:
        """Starts to look for agreement just before `index`."""
        self.mode, self.next, self.asked = Mode.PROBE, index, None
        self._forget_window()

    def stream(self, index: int) -> None:
        """Agreement is known up to before `index`: sends what follows."""
        self.mode, self.next, self.asked, self.snapshot = Mode.STREAM, index, None, None
        self._forget_window()

    def send_snapshot(self, snapshot: tuple[int, int, int, bytes]) -> None:
        """Starts, or starts again, with the first piece that the member does not hold."""
        if self.snapshot != snapshot:
            self.snapshot, self.held = snapshot, 0
        self.mode, self.sent = Mode.SNAPSHOT, self.held
        self._forget_window()

    def piece_answered(self, snapshot: tuple[int, int], held: int, now: float) -> None:
        """The member says how much of the snapshot it holds. Less than we thought: pieces were lost, go
        back."""
        if self.mode is not Mode.SNAPSHOT or self.snapshot is None or self.snapshot[:2] != snapshot:
            return
        if held != self.held:
            self.held, self.sent_at = held, now
        self.sent = max(self.sent, self.held)

    def sending(self, last_index: int, size: int) -> None:
        """An append up to `last_index` leaves."""
        self.next = last_index + 1
        self.window.append((last_index, size))
        self.window_bytes += size

    def disconnected(self) -> None:
        """What was under way is lost; the next session begins with a question."""
        if self.mode is Mode.SNAPSHOT:
            self.sent = self.held
        else:
            self.probe(self.match + 1 if self.match and self.mode is Mode.STREAM else self.next)

    def reborn(self, incarnation: int, last: int) -> None:
        """It lost its disk: nothing it ever said counts any more."""
        self.incarnation, self.voter, self.match, self.promote = incarnation, False, 0, 0
        self.snapshot, self.held = None, 0
        self.probe(last + 1)

    def _forget_window(self) -> None:
        self.window.clear()
        self.window_bytes = 0


def agreed(own: int, members: list[Member], majority: int) -> int:
    """The highest index that a majority of the voters has on disk; `own` is our durable index."""
    marks = sorted([own, *(m.match for m in members if m.voter)], reverse=True)
    return marks[majority - 1] if len(marks) >= majority else 0


def confirmed_round(current: int, members: list[Member], majority: int) -> int:
    """The newest heartbeat round that a majority of the voters, ourselves included, has answered."""
    rounds = sorted([current, *(m.round for m in members if m.voter)], reverse=True)
    return rounds[majority - 1] if len(rounds) >= majority else 0


def last_quorum(now: float, members: list[Member], majority: int) -> float:
    """When we began the newest round that a majority has answered: until then nobody else can have been
    elected."""
    times = sorted([now, *(m.heard for m in members if m.voter)], reverse=True)
    return times[majority - 1] if len(times) >= majority else float("-inf")
