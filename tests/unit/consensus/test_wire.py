"""Messages survive the wire; what is no message is refused, whatever its bytes."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from consensus.rpc import raft_pb2 as pb
from consensus.wire import Malformed, decode, encode

INDEX = st.integers(0, 2**63)
COMMANDS = st.binary(min_size=1, max_size=40)


@st.composite
def appends(draw: Any) -> dict[str, Any]:
    prev = draw(INDEX)
    commands = draw(st.lists(COMMANDS, max_size=5))
    return {
        "type": "append_entries",
        "term": draw(INDEX),
        "prevLogIdx": prev,
        "prevLogTerm": draw(INDEX),
        "commit_index": draw(INDEX),
        "entries": [(c, prev + 1 + i, draw(st.integers(1, 2**63))) for i, c in enumerate(commands)],
        "round": draw(INDEX),
        "urgent": draw(st.booleans()),
        "promote": (draw(INDEX), draw(INDEX)),
    }


def record(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {k: v if isinstance(v, st.SearchStrategy) else st.just(v) for k, v in fields.items()}
    )


@st.composite
def answers(draw: Any) -> dict[str, Any]:
    success = draw(st.booleans())
    fields = record(
        type="next_node_idx",
        term=INDEX,
        next_node_idx=INDEX,
        rejected=INDEX,
        round=INDEX,
        non_voter=st.booleans(),
        incarnation=INDEX,
    )
    return draw(fields) | {"success": success, "reset": not success}


@st.composite
def pieces(draw: Any) -> dict[str, Any]:
    data, offset = draw(st.binary(max_size=40)), draw(st.integers(0, 2**40))
    size = offset + len(data) + draw(st.integers(0, 2**40))
    snapshot = (draw(st.integers(1, 2**63)), draw(INDEX), size, draw(st.binary(max_size=32)))
    message = {"type": "snapshot_piece", "term": draw(INDEX), "snapshot": snapshot}
    return message | {"offset": offset, "data": data, "round": draw(INDEX)}


MESSAGES = st.one_of(
    appends(),
    answers(),
    pieces(),
    record(
        type="request_vote",
        term=INDEX,
        last_log_index=INDEX,
        last_log_term=INDEX,
        pre=st.booleans(),
        transfer=st.booleans(),
    ),
    record(type="response_vote", term=INDEX, granted=st.booleans(), pre=st.booleans()),
    record(type="timeout_now", term=INDEX),
    record(type="snapshot_answer", term=INDEX, snapshot=st.tuples(INDEX, INDEX), held=INDEX, round=INDEX),
)


@given(MESSAGES)
def test_a_message_survives_the_wire(message: dict[str, Any]) -> None:
    assert decode(pb.Frame.FromString(encode(message).SerializeToString())) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """S6, hazard 28: hostile bytes are never more than a refused frame."""
    try:
        decode(pb.Frame.FromString(data))
    except (Malformed, DecodeError):
        return


@pytest.mark.parametrize(
    "frame",
    [
        pb.Frame(term=1),
        pb.Frame(append=pb.Append(prev_index=3, entries=[pb.LogEntry(index=5, term=1, command=b"x")])),
        pb.Frame(append=pb.Append(prev_index=3, entries=[pb.LogEntry(index=4, term=1)])),
        pb.Frame(append=pb.Append(prev_index=3, entries=[pb.LogEntry(index=4, command=b"x")])),
        pb.Frame(snapshot_piece=pb.SnapshotPiece(index=1, size=3, offset=2, data=b"xx")),
        pb.Frame(snapshot_piece=pb.SnapshotPiece(size=3, data=b"xx")),
    ],
    ids=["no body", "a gap", "no command", "no term", "beyond its end", "no index"],
)
def test_a_frame_that_contradicts_itself_is_refused(frame: pb.Frame) -> None:
    with pytest.raises(Malformed):
        decode(frame)
