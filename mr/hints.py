"""Type hints of user functions, checked at the first records of an attempt (S4-03).

Only plain classes, unions, Any and the outer class of generics are read; whatever else a hint says is believed.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Union, get_args, get_origin

from mr.codec import NotAPair
from mr.errors import Cause, TaskFailure
from mr.registry import Function

CHECKED_RECORDS = 100
_ITERABLES = 1  # Iterator[tuple[K, V]] and its like have one argument that matters


class Hints:
    """What a mapper's or reducer's hints say about its parameters and the pairs it emits."""

    def __init__(self, function: Function) -> None:
        self._function = function
        try:
            hints = typing.get_type_hints(function.call)
        except Exception:
            hints = {}  # names that do not resolve: nothing is promised
        names = [n for n in _parameters(function) if n not in ("ctx", "self")]
        self.parameters = {name: hints[name] for name in names if name in hints}
        self._names = names[-function.takes :] if function.takes else []
        pair = _pair(hints.get("return"))
        self.key: Any = pair[0] if pair else Any
        self.value: Any = pair[1] if pair else Any

    @property
    def place(self) -> str:
        """ "wordcount.py:14 in tokenize"."""
        return f"{self._function.place} in {getattr(self._function.call, '__name__', self._function.name)}"

    def check_inputs(self, *given: Any) -> None:
        """Raises TaskFailure(BAD_TYPE) if an argument is not what its hint says."""
        for name, value in zip(self._names, given, strict=False):
            if name in self.parameters and not fits(value, self.parameters[name]):
                raise TaskFailure(
                    Cause.BAD_TYPE,
                    f"{self._function.kind} {self._function.name} wants {name}: {_text(self.parameters[name])},"
                    f" but the record's is {_text(type(value))}: {value!r:.100}",
                    where=self.place,
                )

    def checked(self, pairs: Any) -> Iterator[tuple[Any, Any]]:
        """The pairs that the function emitted, each checked. Raises NotAPair or TaskFailure(BAD_TYPE)."""
        for pair in self._iterable(pairs):
            if type(pair) is not tuple or len(pair) != 2:
                raise self._no_pair(f"it emitted {pair!r:.100}", pairs)
            key, value = pair
            for part, wanted, what in ((key, self.key, "key"), (value, self.value, "value")):
                if not fits(part, wanted):
                    raise TaskFailure(
                        Cause.BAD_TYPE,
                        f"{self._function.kind} {self._function.name} promises a {what} of {_text(wanted)},"
                        f" but emitted {part!r:.100}",
                        where=self.place,
                    )
            yield key, value

    def _iterable(self, pairs: Any) -> Iterator[Any]:
        if isinstance(pairs, str | bytes | dict):
            raise self._no_pair(f"it returned a {type(pairs).__name__}", pairs)
        try:
            return iter(pairs)
        except TypeError:
            raise self._no_pair(f"it returned {pairs!r:.100}", pairs) from None

    def _no_pair(self, what: str, pairs: Any) -> NotAPair:
        error = NotAPair(
            f"{self._function.kind} {self._function.name} must yield (key, value) pairs, or return a list of them;"
            f" {what}"
        )
        if type(pairs) is tuple and len(pairs) == 2:
            error.args = (f"{error.args[0]}: write `yield key, value` instead of `return key, value`",)
        return error


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is what `hint` says, as far as it is read."""
    if hint is Any or isinstance(hint, str | typing.TypeVar):
        return True
    if hint is None:
        return value is None
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if origin is not None:
        hint = origin
    if not isinstance(hint, type):
        return True
    if hint is float:
        return isinstance(value, int | float)
    try:
        return isinstance(value, hint)
    except TypeError:
        return True


def _parameters(function: Function) -> list[str]:
    code = getattr(function.call, "__code__", None)
    return list(code.co_varnames[: code.co_argcount]) if code else []


def _pair(hint: Any) -> tuple[Any, Any] | None:
    """(K, V) of Iterator[tuple[K, V]], list[tuple[K, V]] and their like."""
    for inner in get_args(hint)[:_ITERABLES]:
        if get_origin(inner) is tuple and len(get_args(inner)) == 2 and Ellipsis not in get_args(inner):
            return get_args(inner)[0], get_args(inner)[1]
    return None


def _text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


Checker = Callable[[Any], Iterator[tuple[Any, Any]]]
