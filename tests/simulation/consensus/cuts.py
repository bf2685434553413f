"""Takes a rule out of the real code: a function with some of its text replaced, inside a `with` block.

What is cut is named by the text itself, which must stand there exactly once; so a list of cuts cannot outlive the
code that it speaks of.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock


@dataclass(frozen=True, slots=True)
class Cut:
    """In the function `where` (module, class, name with dots), `old` becomes `new`."""

    where: str
    old: str
    new: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The code is cut inside the block. Raises LookupError when `old` does not stand there once."""
        owner, name = _find(self.where)
        original = inspect.getattr_static(owner, name)
        instead = self._rewritten(owner, original)
        with ExitStack() as undo:
            for place in _places(owner, name, original):
                undo.enter_context(mock.patch.object(place, name, instead))
            yield

    def _rewritten(self, owner: Any, original: Any) -> Any:
        function: Callable[..., Any] = original.fget if isinstance(original, property) else original
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise LookupError(f"{self.where} holds {source.count(self.old)} times: {self.old}")
        source = source.replace(self.old, self.new).replace("super()", f"super({_name(owner)}, self)")
        made: dict[str, Any] = {}
        file = f"<{self.where} without: {self.old}>"
        # A second cut of the same function reads it from here.
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), function.__globals__, made)
        return made[function.__name__]


@contextmanager
def applied(cuts: tuple[Cut, ...]) -> Iterator[None]:
    """All of them at once."""
    with ExitStack() as undo:
        for cut in cuts:
            undo.enter_context(cut.applied())
        yield


def _find(where: str) -> tuple[Any, str]:
    parts = where.split(".")
    for size in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:-1]:
            owner = getattr(owner, part)
        return owner, parts[-1]
    raise LookupError(where)


def _places(owner: Any, name: str, original: Any) -> list[Any]:
    """Where a function is known: in its own module, and in those that imported it by name."""
    if not inspect.ismodule(owner):
        return [owner]
    ours = [m for n, m in sorted(sys.modules.items()) if n.startswith(("consensus", "tests"))]
    return [m for m in ours if m is owner or getattr(m, name, None) is original]


def _name(owner: Any) -> str:
    return str(getattr(owner, "__name__", "")).rpartition(".")[2]
