"""Members meet also where a handshake takes long: on a machine with far more work than processors (C14)."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from consensus import patience
from consensus.patience import FIRST_S, MOST_S, Patience
from tests.unit.consensus.test_transport import Member, tls, until

__all__ = ["tls"]  # a fixture

# What became of each attempt (seconds, whether the peer was met), and the seconds that the next one has.
ATTEMPTS: list[tuple[str, list[tuple[float, bool]], float]] = [
    ("the first is short", [], FIRST_S),
    ("one that ran out of time gives the next more", [(FIRST_S, False)], 2 * FIRST_S),
    ("nearly out of time is out of time", [(0.95 * FIRST_S, False)], 2 * FIRST_S),
    ("it does not grow for ever", [(FIRST_S, False), (2 * FIRST_S, False), (4 * FIRST_S, False)], MOST_S),
    ("a refusal at once says nothing", [(0.01, False)], FIRST_S),
    ("a refusal does not take back what is known", [(FIRST_S, False), (0.01, False)], 2 * FIRST_S),
    ("who was met is met soon again", [(FIRST_S, False), (2 * FIRST_S, True)], FIRST_S),
]


@pytest.mark.parametrize(("promise", "attempts", "seconds"), ATTEMPTS)
def test_how_long_the_next_attempt_may_take(
    promise: str, attempts: list[tuple[float, bool]], seconds: float
) -> None:
    one = Patience()
    for took_s, met in attempts:
        one.ended(took_s, met=met)
    assert one.seconds == seconds, promise


class Slow:
    """Carries connections to `target`, each piece after `delay_s`: what a machine does that has no time."""

    def __init__(self, target: str, delay_s: float) -> None:
        self._target, self._delay_s = target, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        host, _, port = self._target.rpartition(":")
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection((host, int(port)), timeout=5)
                far.settimeout(None)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                time.sleep(self._delay_s)
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextlib.contextmanager
def far_apart(directory, delay_s: float):
    """Two members, each of which reaches the other through a slow way."""
    a, b = Member(directory, "a"), Member(directory, "b")
    with contextlib.ExitStack() as closing:
        for one, other in ((a, b), (b, a)):
            closing.callback(one.link.close)
            slow = Slow(other.link.address, delay_s)
            closing.callback(slow.close)
            one.link.move(other.config.id, slow.address)
        for one in (a, b):
            one.link.open("X")
        yield a, b


def test_members_whose_handshake_takes_longer_than_a_first_attempt_meet(tls) -> None:
    """Found by a storm on a machine with a load of 28: each attempt was given up a little too early, for ever."""
    with far_apart(tls, 0.6) as (a, b):
        until([a, b], lambda: a.up("b") and b.up("a"))


def test_without_more_patience_they_never_meet(tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same two, each attempt as short as the first: what the test above would not notice, proves nothing."""
    monkeypatch.setattr(patience, "MOST_S", FIRST_S)
    monkeypatch.setattr("tests.unit.consensus.test_transport.WAIT_S", 5.0)
    with far_apart(tls, 0.6) as (a, b), pytest.raises(AssertionError):
        until([a, b], lambda: a.up("b") and b.up("a"))
