"""The user's functions, bound for one attempt: instances of job classes, the context, arguments by position."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from mr.context import Context
from mr.loader import Code
from mr.registry import Function, Kind, Owner
from mr.rpc import job_pb2 as pb


class UserCode:
    """Looks functions up by the names in the JobSpec and binds them to this attempt.

    One instance of each job class is made for the attempt, so nothing on `self` outlives it.
    """

    def __init__(self, code: Code, spec: pb.JobSpec, context: Context) -> None:
        self._code = code
        self._spec = spec
        self._context = context
        self._instances: dict[type[Owner], Owner] = {}
        self.bound: list[Function] = []

    def bind(self, kind: Kind, name: str) -> tuple[Function, Callable[..., Any]] | None:
        """(function, what to call) for a name; None for "". Raises TaskFailure(FUNCTION_NOT_FOUND)."""
        if not name:
            return None
        function = self._code.registry.find(kind, name)
        if function.kind != kind == "combiner":
            function = _as_combiner(function)
        self.bound.append(function)
        call: Callable[..., Any] = function.call
        if function.owner is not None:
            instance = self._instances.get(function.owner)
            if instance is None:
                instance = self._instances[function.owner] = function.owner()
            call = call.__get__(instance)
        if function.wants_ctx:
            call = functools.partial(call, ctx=self._context)
        return function, call

    def hook(self, name: str, kind: Kind) -> Any:
        """Runs `setup` or `teardown`, if the job has it, and returns what it returns."""
        found = self.bind(kind, name)
        return found[1]() if found else None

    def setup(self) -> None:
        """Before the first record."""
        self.hook(self._spec.setup, "setup")

    def teardown(self) -> Any:
        """After the last record: pairs to emit, or None."""
        return self.hook(self._spec.teardown, "teardown")


def _as_combiner(reducer: Function) -> Function:
    return Function(
        reducer.name,
        "combiner",
        reducer.call,
        reducer.file,
        reducer.line,
        reducer.takes,
        reducer.wants_ctx,
        reducer.owner,
    )


def identity_map(key: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """The mapper of a step that names none."""
    yield key, value
