"""Events as `mr events` shows them: one proto message each. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from master import causes
from master.events import Event, attempt_of, worker_of
from mr.rpc import cluster_pb2, table_pb2

_NAMED_ELSEWHERE = frozenset({"attempt", "worker", "job", "task"})


def event_to_proto(event: Event, index: int, at_ms: int) -> cluster_pb2.JobEvent:
    """The event as it travels; `index` is the log index of its command, `at_ms` the leader's wall clock."""
    attempt = attempt_of(event)
    told = {f.name: getattr(event, f.name) for f in fields(event)}  # type: ignore[arg-type]  # every event is a dataclass
    return cluster_pb2.JobEvent(
        index=index,
        at_ms=at_ms,
        type=event.type,
        text=event.text[:1000],
        attempt=attempt.proto() if attempt else None,
        worker=worker_of(event),
        fields={name: _text(name, value) for name, value in told.items() if name not in _NAMED_ELSEWHERE},
    )


def _text(name: str, value: Any) -> str:
    if name == "cause":
        return causes.name(value)
    if name == "state" and isinstance(value, int):
        return _state_name(value)
    return str(value).lower() if isinstance(value, bool) else str(value)[:500]


def _state_name(value: int) -> str:
    return table_pb2.JobState.Name(value) if value in table_pb2.JobState.values() else str(value)  # type: ignore[arg-type]  # an open enum
