"""Follows a job on a screen or into a pipe until it ends, and says what changed.

A terminal gets lines that move; a pipe gets a line for each change, at most one a second, without control
codes. Ctrl-C and `--timeout` end the watching, never the job.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from mr import errors, outcome, story

if TYPE_CHECKING:
    from mr.client import Handle
    from mr.rpc.cluster_pb2 import JobEvent, JobStatus

_EVERY_S = 1.0  # between progress lines in a pipe
_GAP_S = 30.0  # a stream that broke longer ago has nothing to do with a change of leader now


class View(Protocol):
    """Where a job's story goes."""

    def line(self, text: str) -> None:
        """A line that stays."""

    def progress(self, lines: list[str], *, last: bool = False) -> None:
        """How far the job is now."""

    def close(self) -> None:
        """The end of the story."""


class Pipe:
    """Plain lines, for pipes, files and logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: dict[int, str] = {}
        self._at = 0.0

    def line(self, text: str) -> None:
        """Prints it."""
        print(text, file=self._stream, flush=True)

    def progress(self, lines: list[str], *, last: bool = False) -> None:
        """Prints what differs from the time before, unless that was less than a second ago."""
        now = time.monotonic()
        changed = [(n, text) for n, text in enumerate(lines) if self._shown.get(n) != text]
        if not changed or (not last and now - self._at < _EVERY_S):
            return
        self._at = now
        for n, text in changed:
            self._shown[n] = text
            self.line(text)

    def close(self) -> None:
        """Nothing is left open."""


class Screen:
    """Progress that moves in place, for a terminal."""

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, no_color=not color, highlight=False, markup=False)
        self._live: Any = Live("", console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def line(self, text: str) -> None:
        """Prints it above the progress."""
        self._console.print(text, soft_wrap=True)

    def progress(self, lines: list[str], *, last: bool = False) -> None:
        """Replaces the moving lines; the last ones stay."""
        if last:
            self.close()
            for text in lines:
                self._console.print(text, soft_wrap=True)
        else:
            self._live.update("\n".join(lines))

    def close(self) -> None:
        """Gives the terminal back."""
        self._live.stop()


class Silence:
    """For -q."""

    def line(self, text: str) -> None:
        """Says nothing."""

    def progress(self, lines: list[str], *, last: bool = False) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Nothing is left open."""


def view(*, quiet: bool, aside: bool, color: bool, moving: bool = True) -> View:
    """The view that suits: `aside` puts it on stderr, where stdout belongs to results or JSON; without `moving`
    a terminal gets plain lines too."""
    if quiet:
        return Silence()
    stream = sys.stderr if aside else sys.stdout
    return Screen(stream, color=color) if moving and stream.isatty() else Pipe(stream)


class Follower:
    """Tells a view what a stream of events means."""

    def __init__(self, shown: View) -> None:
        self.status: JobStatus | None = None
        self._view = shown
        self._broken_at: float | None = None
        self._elected_at: float | None = None
        self._lost: list[JobEvent] = []
        self._sample: tuple[float, int] | None = None  # (time, input bytes done)
        self._rate = 0.0

    def broken(self) -> None:
        """The stream broke just now: perhaps the leader died."""
        now = time.monotonic()
        if self._broken_at is None or now - self._broken_at > _GAP_S:
            self._broken_at = now

    def take(self, event: JobEvent) -> None:
        """Shows one event."""
        if event.type == "LeaderChanged":
            self._elected_at = time.monotonic()
        elif event.type == "MapOutputLost":
            self._lost.append(event)
        elif text := story.news(event):
            self._view.line(f"{_clock(event.at_ms)}  {text}")
        if event.HasField("status"):
            self._take_status(event.status)

    def _take_status(self, status: JobStatus) -> None:
        if not status.leader:
            return  # an election goes on: the next status tells
        for text in story.outputs_lost(self._lost):
            self._view.line(f"{_clock()}  {text}")
        self._lost.clear()
        before, self.status = self.status, status
        now = time.monotonic()
        if before is not None and status.term > before.term:
            gap_s = self._gap(now)
            self._view.line(f"{_clock()}  {story.leader_change(before, status, gap_s)}")
            self._broken_at = self._elected_at = None
        self._measure(status, now)
        if not outcome.is_over(status):
            self._view.progress(story.progress(status, self._rate))

    def _gap(self, now: float) -> float | None:
        """Seconds from the broken stream to the next leader, when it was the leader's stream that broke."""
        if self._broken_at is None or now - self._broken_at > _GAP_S:
            return None
        return max(0.0, (self._elected_at or now) - self._broken_at)

    def _measure(self, status: JobStatus, now: float) -> None:
        count = sum(step.map.bytes_done for step in status.steps)
        if self._sample and now - self._sample[0] >= 2 * _EVERY_S:
            self._rate = max(0.0, (count - self._sample[1]) / (now - self._sample[0]))
        if self._sample is None or now - self._sample[0] >= 2 * _EVERY_S:
            self._sample = (now, count)


def follow(handle: Handle, shown: View, *, timeout: float | None = None) -> JobStatus:
    """Follows to the end and returns the last status; shows the end too.

    Raises WaitTimeout, and KeyboardInterrupt at Ctrl-C: the job goes on, and the reader was told so.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    follower = Follower(shown)
    try:
        for event in handle.follow(deadline=deadline, on_break=follower.broken):
            follower.take(event)
        status = handle.status()
        follower.take(_as_event(status))
        if outcome.state_name(status) == "SUCCEEDED":
            shown.progress(story.progress(status), last=True)
            shown.line(story.done(status, max(0, status.ended_ms - status.submitted_ms) / 1000))
    except errors.WaitTimeout as error:
        raise errors.WaitTimeout(
            f"{handle.id} goes on; waiting for it timed out", next=_hint(handle.id)
        ) from error
    finally:
        shown.close()
    return status


def detached(id: str) -> str:
    """What Ctrl-C answers."""
    return f"detached: {id} goes on\n  next  {_hint(id)}"


def _hint(id: str) -> str:
    return f"`mr watch {id}` to look again, `mr cancel {id}` to end it"


def _as_event(status: JobStatus) -> JobEvent:
    from mr.rpc.cluster_pb2 import JobEvent

    return JobEvent(type="Progress", status=status)


def _clock(at_ms: int = 0) -> str:
    """The time of the event, or now for what has none."""
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000 if at_ms else None))
