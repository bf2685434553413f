"""Starts a server, or a task process, with one bug in it: `python -P -m tests.planted.launch BUG MODULE ARGS…`.

The code that runs is the product's own, with named functions wrapped before it starts. There is no hook in it.
"""

from __future__ import annotations

import runpy
import sys

from tests.planted.bugs import BUGS


def in_task_processes(name: str) -> None:
    """The task processes of this worker start through here too."""
    from dataclasses import replace

    from worker import child

    start = child.TaskProcess.__init__
    command = (sys.executable, "-P", "-m", "tests.planted.launch", name, "mr.task", "--serve")

    def started(self: child.TaskProcess, how: child.How) -> None:
        start(self, replace(how, command=command))

    child.TaskProcess.__init__ = started  # type: ignore[method-assign]  # that is the bug's way in


def main() -> None:
    """See the module."""
    name, module, *args = sys.argv[1:]
    bug = BUGS[name]
    bug.plant()
    if bug.in_tasks and module == "worker.main":
        in_task_processes(name)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
