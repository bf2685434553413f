"""Starts a node, or a task process, that can be made to end at a named point of its code, or to repeat messages.

    python -P -m jepsen_like.failpoints PAGE [LAUNCHER ARGS…] MODULE ARGS…

The code that runs is the product's own, with the functions of `points` and `replays` wrapped before it starts. Until
the harness arms a point or sets a rule in PAGE (`control`), a wrapped function costs one look at a mapped byte. What
comes to an armed point writes so, syncs that, and sends itself SIGKILL or SIGSTOP. A task process is made to stop and
not to die: the harness then kills its whole worker, so that it is a machine that dies and not the user's code.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jepsen_like.control import KILL, Control
from jepsen_like.points import MASTER, NUMBERS, POINTS, TASK, WORKER, Point

MODULES = {"master.main": MASTER, "worker.main": WORKER, "mr.task": TASK}
Passed = Callable[[Point], None]


def resolve(at: str) -> tuple[Any, str, Callable[..., Any]]:
    """Who owns the function that `at` names, its name there, and itself. Raises ImportError, AttributeError."""
    module, _, path = at.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    found: Callable[..., Any] = getattr(owner, name)
    return owner, name, found


def wrap(point: Point, passed: Passed) -> None:
    """`passed(point)` is called whenever this process comes to the point."""
    owner, name, inner = resolve(point.at)
    before = point.when == "before"

    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def wrapped(*args: Any, **named: Any) -> Any:
            met = point.only(*args, **named)
            if met and before:
                passed(point)
            result = await inner(*args, **named)
            if met and not before:
                passed(point)
            return result

    else:

        @functools.wraps(inner)
        def wrapped(*args: Any, **named: Any) -> Any:
            met = point.only(*args, **named)
            if met and before:
                passed(point)
            result = inner(*args, **named)
            if met and not before:
                passed(point)
            return result

    setattr(owner, name, wrapped)


def trap(control: Control) -> Passed:
    """Ends this process at the point that is armed."""

    def passed(point: Point) -> None:
        number = NUMBERS[point.name]
        if control.armed(number) and (deed := control.prove(number, point.name)):
            os.kill(os.getpid(), signal.SIGKILL if deed == KILL else signal.SIGSTOP)

    return passed


def role_of(argv: Sequence[str]) -> str:
    """What kind of process a command line starts. Raises ValueError."""
    for word in argv:
        if word in MODULES:
            return MODULES[word]
    raise ValueError(f"none of {', '.join(MODULES)} in {argv}")


def in_task_processes(page: str) -> None:
    """The task processes of this worker start through here too."""
    owner, name, start = resolve("worker.child:TaskProcess.__init__")

    def started(self: Any, how: Any) -> None:
        from dataclasses import replace

        command = tuple(how.command)  # python -P -m MODULE …
        if "-m" in command:
            after = command.index("-m") + 1
            command = (*command[:after], "jepsen_like.failpoints", page, *command[after:])
        start(self, replace(how, command=command))

    setattr(owner, name, started)


def install(page: str, role: str) -> None:
    """Wraps everything that a process of this role passes."""
    control = Control(Path(page))
    passed = trap(control)
    for point in POINTS:
        if point.role == role:
            wrap(point, passed)
    if role == WORKER:
        in_task_processes(page)
    if role != TASK:
        from jepsen_like import replays

        replays.install(control, role)


def main() -> None:
    """See the module."""
    page, module, *args = sys.argv[1:]
    install(page, role_of([module, *args]))
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
