"""The stream to one peer: what waits for it, and how it comes back when it breaks.

What is put is sent or dropped together with the stream; nothing is sent to another life of the peer than the
one it was meant for. A queue that is full costs the stream, so that memory is bounded and nobody waits.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
from tenacity import RetryError, Retrying, retry_always, stop_when_event_set, wait_random

from consensus.handshake import Disk, Hello, Refused, read
from consensus.patience import Patience
from consensus.urgency import make_urgent

log = logging.getLogger("mr.consensus")

LINK = "/mr.raft.Raft/Link"
QUEUE_BYTES = 64 << 20
"""Not yet on the wire, for one peer."""
BULK_BYTES = 2 << 20
"""Of them, pieces of a snapshot."""
RECONNECT_S = (0.05, 0.2)


class Outbound:
    """The stream to one peer, opened again whenever it breaks. One thread."""

    def __init__(
        self,
        peer: str,
        hello: Hello,
        connect: Callable[[str, float], grpc.Channel],
        post: Callable[..., None],
        meet: Callable[[str, Disk], None],
    ) -> None:
        self._peer = peer
        self._hello = hello
        self._connect = connect
        self._post = post
        self._meet = meet
        self._life = 0  # of the peer, while up
        self._patience = Patience()
        self._queue = Queue()
        self._stopped = threading.Event()
        self._again = threading.Event()
        self._call: Any = None
        self._said = ""
        self._thread = threading.Thread(target=self._run, name=f"raft-out-{peer}", daemon=True)

    def start(self) -> None:
        """Connects, and again, until `stop`."""
        self._thread.start()

    def put(self, life: int, frame: bytes, bulk: bool) -> bool:
        """Queues a frame for one life of the peer; a queue full of what is no bulk breaks the stream."""
        waiting = self._queue
        if life != self._life:
            return False
        if waiting.put(frame, bulk):
            return True
        if not bulk:
            self._cancel()
        return False

    def hurry(self, life: int) -> None:
        """The peer has just connected to us: if we are not connected to that process, try now."""
        if life != self._life:
            self._again.set()

    def stop(self) -> None:
        """Drops the stream and does not come back."""
        self._stopped.set()
        self._again.set()
        self._cancel()

    def join(self) -> None:
        """Waits until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        make_urgent()
        retrying = Retrying(
            retry=retry_always,
            wait=wait_random(*RECONNECT_S),
            stop=stop_when_event_set(self._stopped),
            sleep=self._pause,
        )
        try:
            retrying(self._attempt)
        except RetryError:
            pass

    def _attempt(self) -> None:
        """Whatever goes wrong, a certificate that is being replaced for one, may be right at the next attempt."""
        try:
            self._stream()
        except Exception as error:
            self._say(f"cannot link to master {self._peer}: {error}")

    def _pause(self, seconds: float) -> None:
        self._again.wait(seconds)
        self._again.clear()

    def _stream(self) -> None:
        """One connection, from its attempt to its end."""
        self._queue = waiting = Queue()
        self._hello = hello = replace(self._hello, session=self._hello.session + 1)
        began, met = time.monotonic(), False
        with self._connect(self._peer, self._patience.seconds) as channel:
            method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(LINK)
            self._call = call = method(iter(waiting.get, None), metadata=hello.metadata())
            if self._stopped.is_set():
                call.cancel()
            unwanted = ""
            try:
                theirs = read(_greeting(call, self._patience.greeting_s))
                met = True
                if unwanted := self._objection(theirs):
                    call.cancel()
                    return
                self._life = theirs.life
                self._post("up", self._peer, theirs.life)
                ended = threading.Event()
                if call.add_callback(ended.set):
                    ended.wait()  # not by reading the answers, of which there are none: that wakes at every frame
            except (grpc.RpcError, Refused):
                pass
            finally:
                waiting.close()
                self._patience.ended(time.monotonic() - began, met=met)
                self._report(call, unwanted)
                if self._life:
                    self._post("down", self._peer, self._life)
                    self._life = 0

    def _objection(self, theirs: Hello) -> str:
        """Why nothing is to be sent to that process; "" when it is the one we mean."""
        try:
            self._meet(self._peer, theirs.disk)
        except Refused as error:
            return str(error)
        return ""

    def _report(self, call: Any, unwanted: str) -> None:
        """Says why the peer does not want us, or we not it; that it is not there is no news."""
        if call.code() is grpc.StatusCode.FAILED_PRECONDITION:
            self._say(f"master {self._peer} refuses our link: {call.details()}")
        else:
            self._say(f"who answers as master {self._peer} is not let in: {unwanted}" if unwanted else "")

    def _say(self, reason: str) -> None:
        """Once, not at every attempt."""
        if reason and reason != self._said:
            log.warning(reason)
        self._said = reason

    def _cancel(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()


def _greeting(call: Any, seconds: float) -> Any:
    """The metadata with which the peer answers; the call is cancelled when that takes too long. Raises RpcError."""
    overdue = threading.Timer(seconds, call.cancel)
    overdue.daemon = True
    overdue.start()
    try:
        return call.initial_metadata() or ()
    finally:
        overdue.cancel()


class Queue:
    """Frames that wait for the wire: bounded, and bulk only when nothing else waits.

    One thread puts, one gets; each counts on its own, so that neither needs a lock.
    """

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for every frame, one for the end
        self._put = self._put_bulk = self._got = self._got_bulk = 0  # bytes
        self._closed = False

    def put(self, frame: bytes, bulk: bool) -> bool:
        """False when there is no room, or the stream has ended."""
        if self._closed:
            return False
        if bulk:
            if self._put_bulk - self._got_bulk > BULK_BYTES:
                return False
            self._put_bulk += len(frame)
            self._bulk.append(frame)
        else:
            if self._put - self._got > QUEUE_BYTES:
                return False
            self._put += len(frame)
            self._frames.append(frame)
        self._tokens.put(None)
        return True

    def get(self) -> bytes | None:
        """The next frame; blocks. None when the stream has ended."""
        self._tokens.get()
        if self._closed:
            return None
        if self._frames:
            frame = self._frames.popleft()
            self._got += len(frame)
        else:
            frame = self._bulk.popleft()
            self._got_bulk += len(frame)
        return frame

    def close(self) -> None:
        """Forgets what waits. Any thread."""
        self._closed = True
        self._tokens.put(None)
