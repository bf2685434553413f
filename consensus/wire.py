"""Raft's messages on the wire and back. Pure; knows the shape of a message and nothing of its meaning.

pysyncobj's messages are dictionaries; the fence adds keys of its own. `encode` and `decode` are inverse for
every message that the fence lets out. A frame that is no message of ours decodes to `Malformed`, never to a
guess.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from consensus.rpc import raft_pb2 as pb

Message = dict[str, Any]
"""One of the messages below; `type` says which, `term` is always there."""

APPEND = "append_entries"
ANSWER = "next_node_idx"
VOTE = "request_vote"
VOTED = "response_vote"
TIMEOUT_NOW = "timeout_now"
PIECE = "snapshot_piece"
PIECE_ANSWER = "snapshot_answer"


class Malformed(Exception):
    """The frame has no body, or one whose fields contradict each other."""


def encode(message: Message) -> pb.Frame:
    """The frame of a message. Raises KeyError when a field is missing: a bug on this side."""
    encoder: Callable[[Message], pb.Frame] = _ENCODE[message["type"]]
    return encoder(message)


def decode(frame: pb.Frame) -> Message:
    """The message of a frame. Raises Malformed."""
    body = frame.WhichOneof("body")
    if body is None:
        raise Malformed("a frame without a body")
    message: Message = _DECODE[body](getattr(frame, body))
    message["term"] = frame.term
    return message


def _append(m: Message) -> pb.Frame:
    return pb.Frame(
        term=m["term"],
        append=pb.Append(
            prev_index=m["prevLogIdx"],
            prev_term=m["prevLogTerm"],
            commit=m["commit_index"],
            entries=[pb.LogEntry(command=c, index=i, term=t) for c, i, t in m["entries"]],
            round=m["round"],
            urgent=m["urgent"],
            promote_index=m["promote"][0],
            promote_incarnation=m["promote"][1],
        ),
    )


def _read_append(body: pb.Append) -> Message:
    entries = [(e.command, e.index, e.term) for e in body.entries]
    for position, (command, index, term) in enumerate(entries, body.prev_index + 1):
        if index != position or not command or term == 0:
            raise Malformed(f"entry {index} of term {term} stands where {position} should")
    return {
        "type": APPEND,
        "prevLogIdx": body.prev_index,
        "prevLogTerm": body.prev_term,
        "commit_index": body.commit,
        "entries": entries,
        "round": body.round,
        "urgent": body.urgent,
        "promote": (body.promote_index, body.promote_incarnation),
    }


def _answer(m: Message) -> pb.Frame:
    return pb.Frame(
        term=m["term"],
        append_answer=pb.AppendAnswer(
            matched=m["success"],
            next_index=m["next_node_idx"],
            rejected=m["rejected"],
            round=m["round"],
            non_voter=m["non_voter"],
            incarnation=m["incarnation"],
        ),
    )


def _read_answer(body: pb.AppendAnswer) -> Message:
    return {
        "type": ANSWER,
        "success": body.matched,
        "reset": not body.matched,
        "next_node_idx": body.next_index,
        "rejected": body.rejected,
        "round": body.round,
        "non_voter": body.non_voter,
        "incarnation": body.incarnation,
    }


def _vote(m: Message) -> pb.Frame:
    request = pb.VoteRequest(
        last_index=m["last_log_index"], last_term=m["last_log_term"], pre=m["pre"], transfer=m["transfer"]
    )
    return pb.Frame(term=m["term"], vote_request=request)


def _read_vote(body: pb.VoteRequest) -> Message:
    return {
        "type": VOTE,
        "last_log_index": body.last_index,
        "last_log_term": body.last_term,
        "pre": body.pre,
        "transfer": body.transfer,
    }


def _voted(m: Message) -> pb.Frame:
    return pb.Frame(term=m["term"], vote_answer=pb.VoteAnswer(granted=m["granted"], pre=m["pre"]))


def _read_voted(body: pb.VoteAnswer) -> Message:
    return {"type": VOTED, "granted": body.granted, "pre": body.pre}


def _timeout_now(m: Message) -> pb.Frame:
    return pb.Frame(term=m["term"], timeout_now=pb.TimeoutNow())


def _piece(m: Message) -> pb.Frame:
    index, entry_term, size, checksum = m["snapshot"]
    return pb.Frame(
        term=m["term"],
        snapshot_piece=pb.SnapshotPiece(
            index=index,
            entry_term=entry_term,
            size=size,
            checksum=checksum,
            offset=m["offset"],
            data=m["data"],
            round=m["round"],
        ),
    )


def _read_piece(body: pb.SnapshotPiece) -> Message:
    if body.offset + len(body.data) > body.size or not body.index:
        raise Malformed(f"a snapshot piece beyond its end: {body.offset} + {len(body.data)} of {body.size}")
    return {
        "type": PIECE,
        "snapshot": (body.index, body.entry_term, body.size, body.checksum),
        "offset": body.offset,
        "data": body.data,
        "round": body.round,
    }


def _piece_answer(m: Message) -> pb.Frame:
    index, entry_term = m["snapshot"]
    answer = pb.SnapshotAnswer(index=index, entry_term=entry_term, held=m["held"], round=m["round"])
    return pb.Frame(term=m["term"], snapshot_answer=answer)


def _read_piece_answer(body: pb.SnapshotAnswer) -> Message:
    snapshot = (body.index, body.entry_term)
    return {"type": PIECE_ANSWER, "snapshot": snapshot, "held": body.held, "round": body.round}


_ENCODE = {
    APPEND: _append,
    ANSWER: _answer,
    VOTE: _vote,
    VOTED: _voted,
    TIMEOUT_NOW: _timeout_now,
    PIECE: _piece,
    PIECE_ANSWER: _piece_answer,
}
_DECODE: dict[str, Any] = {
    "append": _read_append,
    "append_answer": _read_answer,
    "vote_request": _read_vote,
    "vote_answer": _read_voted,
    "timeout_now": lambda _: {"type": TIMEOUT_NOW},
    "snapshot_piece": _read_piece,
    "snapshot_answer": _read_piece_answer,
}
