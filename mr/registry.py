"""Names of user functions: one name is one function, across mappers, reducers and everything else.

A job file registers its functions when it is imported, into the registry that is collecting at that time.
Workers import the same file and look functions up by the names in the JobSpec (S1-02), so a name must mean
the same everywhere: a second use of one name raises at import, with both source lines (S1-04).
The functions stay plain: a decorator returns what it got, and a test calls it directly (S2-10).
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from mr.errors import Cause, TaskFailure, Usage

Kind = Literal["mapper", "reducer", "combiner", "partitioner", "setup", "teardown", "finalize"]
F = TypeVar("F", bound=Callable[..., Any])
IDENTITY = "mr.identity"

# What each kind is called with, beside `ctx`; the first form that fits is used.
FORMS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "mapper": (("value",), ("key", "value")),
    "reducer": (("key", "values"),),
    "combiner": (("key", "values"),),
    "partitioner": (("key", "reduces"),),
    "setup": ((),),
    "teardown": ((),),
    "finalize": (("results",),),
}


class JobFileError(Usage):
    """The job file cannot be used as it is. `where` is "wordcount.py:14" if a line is to blame.

    `plain` is the message without the place, `traceback` that of the user's frames.
    """

    def __init__(self, message: str, *, where: str = "", traceback: str = "", next: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message, next=next)
        self.plain = message
        self.where = where
        self.traceback = traceback


class Owner:
    """Base of classes whose methods serve as functions: workers make an instance for each attempt."""


@dataclass(frozen=True, slots=True)
class Function:
    """A registered function. For a method of an Owner `owner` is its class, and `call` is unbound."""

    name: str
    kind: Kind
    call: Callable[..., Any]
    file: str
    line: int
    takes: int  # positional arguments beside self and ctx
    wants_ctx: bool
    owner: type[Owner] | None = None

    @property
    def place(self) -> str:
        """ "wordcount.py:14": where it is defined."""
        return f"{Path(self.file).name}:{self.line}"

    @property
    def doc(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.call) or "").partition("\n")[0]


class Registry:
    """name -> function, for one job file."""

    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self.self_combining: set[str] = set()  # reducers that are their own combiners
        self._names: dict[Callable[..., Any], str] = {}
        self.add("reducer", IDENTITY, identity)

    def add(
        self, kind: Kind, name: str, call: Callable[..., Any], owner: type[Owner] | None = None
    ) -> Function:
        """Registers `call`. Raises JobFileError for a name in use or a signature that does not fit."""
        function = describe(kind, name, call, owner)
        if (other := self.functions.get(name)) is not None and not _redefined(other.call, call):
            raise JobFileError(
                f'the name "{name}" is used twice: {other.kind} at {other.place} and {kind} at'
                f" {function.place}; names are unique across mappers and reducers",
                where=function.place,
            )
        self.functions[name] = function
        self._names.setdefault(call, name)
        return function

    def name_of(self, kind: Kind, call: Callable[..., Any]) -> str:
        """The name `call` is registered under as `kind`; a plain function is registered on the way."""
        known = self.functions.get(self._names.get(call, ""))
        if known is None:
            owner = owner_of(call)
            plain = call.__func__ if owner else call  # type: ignore[attr-defined]  # a bound method
            known = self.functions.get(default_name(call))
            if (
                known is None or known.call is not plain
            ):  # the method of another instance is the same function
                known = self.add(kind, default_name(call), plain, owner)
            self._names[call] = known.name
        if not _serves(known.kind, kind):
            raise JobFileError(f'"{known.name}" is a {known.kind}, used as a {kind}', where=known.place)
        return known.name

    def find(self, kind: Kind, name: str) -> Function:
        """The function of that name. Raises TaskFailure(FUNCTION_NOT_FOUND) with the known names (S1-03)."""
        function = self.functions.get(name)
        if function is not None and _serves(function.kind, kind):
            return function
        known = ", ".join(sorted(n for n, f in self.functions.items() if _serves(f.kind, kind)))
        what = f"is a {function.kind}, not a {kind}" if function else "is not registered"
        raise TaskFailure(Cause.FUNCTION_NOT_FOUND, f'"{name}" {what}; known {kind}s: {known or "none"}')


def _redefined(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether a notebook's cell, or a line at the prompt, was run again: then the new function counts."""
    if hasattr(sys.modules.get("__main__"), "__file__"):
        return False
    names = [(getattr(f, "__module__", ""), getattr(f, "__qualname__", "")) for f in (old, new)]
    return names[0] == names[1] and names[0][0] == "__main__"


def _serves(has: Kind, wanted: Kind) -> bool:
    """A reducer may also be used as a combiner; else the kinds must be equal."""
    return has == wanted or (has == "reducer" and wanted == "combiner")


def describe(kind: Kind, name: str, call: Callable[..., Any], owner: type[Owner] | None = None) -> Function:
    """The `Function` of a callable. Raises JobFileError when it can't serve as `kind`."""
    if not callable(call):
        raise JobFileError(f"a {kind} is a function, not {call!r}")
    file, line = source_of(call)
    where = f"{Path(file).name}:{line}"
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise JobFileError(f'{kind} "{name}" is async; write a plain function', where=where)
    required, most, wants_ctx = _arity(call, skip_self=owner is not None)
    for form in FORMS[kind]:
        if required <= len(form) <= most:
            return Function(name, kind, call, file, line, len(form), wants_ctx, owner)
    forms = " or ".join(f"({', '.join(form)})" for form in FORMS[kind])
    raise JobFileError(
        f'{kind} "{name}" takes {required} argument{"s"[: required != 1]}; a {kind} takes {forms}, and `ctx`'
        " if it wants the context",
        where=where,
    )


def _arity(call: Callable[..., Any], skip_self: bool) -> tuple[int, float, bool]:
    """(required, at most, wants ctx), positional arguments beside self and a parameter named `ctx`."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # some builtins do not say; they take what they are given
        return 1, 2, False
    if skip_self:
        parameters = parameters[1:]
    wants_ctx = any(p.name == "ctx" for p in parameters)
    positional = [
        p for p in parameters if p.name != "ctx" and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(p.default is p.empty for p in positional)
    anything = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    return required, float("inf") if anything else len(positional), wants_ctx


def source_of(call: Any) -> tuple[str, int]:
    """(file, line) of a callable, ("", 0) for a builtin."""
    code = getattr(inspect.unwrap(call) if callable(call) else call, "__code__", None)
    if code is None:
        return "", 0
    return code.co_filename, code.co_firstlineno + _decorator_lines(call)


def _decorator_lines(call: Any) -> int:
    """How far the `def` lies below its first decorator, which is where co_firstlineno points."""
    try:
        lines, _ = inspect.getsourcelines(call)
    except (OSError, TypeError):
        return 0
    for offset, line in enumerate(lines):
        if line.lstrip().startswith(("def ", "class ", "async def ")):
            return offset
    return 0


def owner_of(call: Any) -> type[Owner] | None:
    """The class of the Owner whose bound method `call` is."""
    instance = getattr(call, "__self__", None)
    return type(instance) if isinstance(instance, Owner) else None


def default_name(call: Callable[..., Any]) -> str:
    """<file>.<function>: the name of a function that was given none."""
    if owner := owner_of(call):
        return f"{owner.__module__.rpartition('.')[2]}.{owner.__qualname__}.{call.__name__}"
    file, line = source_of(call)
    stem = Path(file).stem if file else getattr(call, "__module__", None) or "builtins"
    qualname = str(getattr(call, "__qualname__", type(call).__qualname__)).replace(".<locals>", "")
    return f"{stem}.{qualname}:{line}" if "<lambda>" in qualname else f"{stem}.{qualname}"


def identity(key: Any, values: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """The reducer that passes every pair on: sorts, or groups for a later step."""
    for value in values:
        yield key, value


_current: ContextVar[Registry] = ContextVar("registry", default=Registry())  # noqa: B039  shared on purpose


def current() -> Registry:
    """The registry that decorators and jobs register into."""
    return _current.get()


@contextlib.contextmanager
def collecting(registry: Registry) -> Iterator[Registry]:
    """While open, whatever is registered goes to `registry`."""
    before = _current.set(registry)
    try:
        yield registry
    finally:
        _current.reset(before)


def _decorator(kind: Kind, name: str | F | None) -> Any:
    if callable(name):
        current().add(kind, default_name(name), name)
        return name

    def register(call: F) -> F:
        current().add(kind, name or default_name(call), call)
        return call

    return register


@overload
def mapper(name: F) -> F: ...
@overload
def mapper(name: str | None = None) -> Callable[[F], F]: ...
def mapper(name: Any = None) -> Any:
    """Registers a mapper: `(value)` or `(key, value)` in, pairs out, yielded or returned as a list (S1-02)."""
    return _decorator("mapper", name)


@overload
def reducer(name: F) -> F: ...
@overload
def reducer(name: str | None = None, *, combine: bool = False) -> Callable[[F], F]: ...
def reducer(name: Any = None, *, combine: bool = False) -> Any:
    """Registers a reducer: `(key, values)` in, pairs out. `combine=True`: it is its own combiner."""
    if callable(name):
        return _decorator("reducer", name)

    def register(call: F) -> F:
        function = current().add("reducer", name or default_name(call), call)
        if combine:
            current().self_combining.add(function.name)
        return call

    return register


@overload
def combiner(name: F) -> F: ...
@overload
def combiner(name: str | None = None) -> Callable[[F], F]: ...
def combiner(name: Any = None) -> Any:
    """Registers a combiner: like a reducer, run on the map side any number of times, none included (P-04)."""
    return _decorator("combiner", name)


@overload
def partitioner(name: F) -> F: ...
@overload
def partitioner(name: str | None = None) -> Callable[[F], F]: ...
def partitioner(name: Any = None) -> Any:
    """Registers a partitioner: `(key, reduces)` in, a partition from 0 to reduces - 1 out (P-02)."""
    return _decorator("partitioner", name)
