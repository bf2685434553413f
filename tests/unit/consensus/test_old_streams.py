"""Of the streams of one peer the newest counts (hazard 11), and one that floods or talks nonsense is held or ended."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from consensus.handshake import Hello, Refused
from consensus.rpc import raft_pb2 as pb
from consensus.transport import _INBOX_BYTES, GrpcLink, _Inbound


def hello(life: int, session: int) -> Hello:
    return Hello("b", life, session, "X", "digest")


def stream(life: int, session: int) -> _Inbound:
    context: Any = SimpleNamespace(cancel=lambda: None)
    return _Inbound("b", hello(life, session), context)


def link(newest: _Inbound) -> Any:
    """What of a link the functions under test look at."""
    posted: list[tuple[Any, ...]] = []
    return SimpleNamespace(
        _inbound={"b": newest},
        _lives={"b": newest.hello.life},
        _admitting=threading.Lock(),
        posted=posted,
        post=lambda *event: posted.append(event),
    )


def heard(here: Any, inbound: _Inbound) -> bool:
    frames: list[str] = []
    handler: Any = SimpleNamespace(on_frame=lambda peer, frame: frames.append(peer))
    GrpcLink._frame(here, handler, inbound, pb.Frame(), 10)
    return frames == ["b"]


def test_a_frame_of_a_stream_that_was_replaced_is_dropped() -> None:
    """It was in the inbox already when the same process opened another stream."""
    old, new = stream(7, 1), stream(7, 2)
    assert heard(link(new), new)
    assert not heard(link(new), old)


def test_a_stream_that_comes_late_does_not_replace_a_newer_one() -> None:
    newest = stream(7, 2)
    here = link(newest)
    with pytest.raises(Refused, match="newer stream"):
        GrpcLink._admit(here, hello(7, 1), newest.context)
    assert here._inbound["b"] is newest
    assert not newest.over
    admitted = GrpcLink._admit(here, hello(8, 1), newest.context)  # another life counts its streams anew
    assert here._inbound["b"] is admitted
    assert newest.over


def test_a_frame_that_is_none_ends_its_stream() -> None:
    inbound = stream(7, 1)
    here = link(inbound)
    assert GrpcLink._take(here, inbound, pb.Frame(term=3).SerializeToString())
    assert not GrpcLink._take(here, inbound, b"\xff\xff\xff")
    assert len(here.posted) == 1


def test_a_full_inbox_holds_the_sender() -> None:
    """C15: what came and was not looked at is bounded."""
    inbound = stream(7, 1)
    here = link(inbound)
    inbound.put = _INBOX_BYTES + 1
    taker = threading.Thread(
        target=GrpcLink._take, args=(here, inbound, pb.Frame(term=3).SerializeToString())
    )
    taker.start()
    taker.join(0.1)
    held = list(here.posted)
    inbound.taken = inbound.put
    taker.join(20)
    assert (held, len(here.posted)) == ([], 1)
