"""The class shape of a job, for those who know mrjob: a thin adapter onto steps of registered functions.

A class that derives from JobClass and has a `mapper` or a `reducer` is a job. One instance is made for each
attempt, after `configure_args` has read the job's arguments; nothing on `self` outlives the attempt.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from mr import context, registry
from mr.job import OPTION_NAMES, Format, Job, Partitioner, Step, step
from mr.registry import JobFileError

_HOOKS = ("setup", "teardown", "finalize")


class JobClass(registry.Owner):
    """Derive from it and write `mapper(self, key, line)`, `reducer(self, key, values)`.

    Class attributes: NAME, REDUCES, INPUT, OUTPUT (formats or paths), COMBINE (the reducer is also the
    combiner), PARTITIONER, SORT_VALUES, ALLOW_PICKLE, and every setting of `mr.Job` in capitals (SKIP_BAD = 10).
    `mapper_init`, `mapper_final`, `reducer_init`, `reducer_final` are called around the records of each attempt;
    pairs that a `_final` yields are emitted.
    """

    NAME: ClassVar[str] = ""
    REDUCES: ClassVar[int | None] = None
    INPUT: ClassVar[Format | str | Sequence[str] | None] = None
    OUTPUT: ClassVar[Format | str | None] = None
    COMBINE: ClassVar[bool] = False
    PARTITIONER: ClassVar[Partitioner | str | None] = None
    SORT_VALUES: ClassVar[bool] = False
    ALLOW_PICKLE: ClassVar[bool] = False

    def __init__(self, args: Sequence[str] | None = None) -> None:
        parser = _Parser(prog=f"{type(self).__name__} --", description=inspect.getdoc(type(self)))
        self.configure_args(parser)
        self.args: argparse.Namespace = parser.parse_args(list(context.args() if args is None else args))

    def configure_args(self, p: argparse.ArgumentParser) -> None:
        """Adds the job's own arguments, those after `--`; `self.args` holds them."""

    def setup(self) -> None:
        """Runs in every attempt before its first record."""
        (self.mapper_init if context.ctx().kind == "map" else self.reducer_init)()

    def teardown(self) -> Iterable[tuple[Any, Any]] | None:
        """Runs in every attempt after its last record; pairs it yields are emitted."""
        return (self.mapper_final if context.ctx().kind == "map" else self.reducer_final)()

    def mapper_init(self) -> None:
        """Before the first record of a map."""

    def mapper_final(self) -> Iterable[tuple[Any, Any]] | None:
        """After the last record of a map."""

    def reducer_init(self) -> None:
        """Before the first key of a reduce."""

    def reducer_final(self) -> Iterable[tuple[Any, Any]] | None:
        """After the last key of a reduce."""

    def steps(self) -> Sequence[Step]:
        """The job's steps; override it for more than one: `return [mr.step(self.words, self.add), ...]`."""
        mapper, reducer = getattr(self, "mapper", None), getattr(self, "reducer", None)
        combiner = getattr(self, "combiner", None)
        return [
            step(
                mapper,
                reducer,
                combiner=combiner if combiner is not None else self.COMBINE and reducer is not None,
                reduces=self.REDUCES,
                partitioner=getattr(self, "partitioner", None) or self.PARTITIONER,
                sort_values=self.SORT_VALUES,
                allow_pickle=self.ALLOW_PICKLE,
            )
        ]

    def increment_counter(self, group: str, name: str, amount: int = 1) -> None:
        """Adds to a counter."""
        context.ctx().count(name, amount, group=group)

    def set_status(self, text: str) -> None:
        """Says what the task is doing."""
        context.ctx().status(text)

    @classmethod
    def job(cls, name: str = "") -> Job:
        """The job this class stands for. Raises JobFileError, also for arguments it does not take."""
        instance = cls()
        settings = {
            key.lower(): getattr(cls, key)
            for key in dir(cls)
            if key.lower() in OPTION_NAMES and key.isupper()
        }
        hooks = {hook: instance._hook(hook) for hook in _HOOKS}
        return Job(
            cls.NAME or name or cls.__name__.lower(),
            instance.steps(),
            input=cls.INPUT,
            output=cls.OUTPUT,
            **hooks,
            **settings,
        )

    def _hook(self, name: str) -> Any:
        """The bound hook, if the class says anything in it."""
        own = {"setup": ("mapper_init", "reducer_init"), "teardown": ("mapper_final", "reducer_final")}
        names = (name, *own.get(name, ()))
        if any(getattr(type(self), one, None) is not getattr(JobClass, one, None) for one in names):
            return getattr(self, name)
        return None

    @classmethod
    def run(cls) -> NoReturn:
        """`python wordcount.py IN... -o OUT` is `mr run wordcount.py IN... -o OUT`."""
        from mr.cli import main

        main(["run", str(Path(sys.argv[0])), *sys.argv[1:]])
        sys.exit(0)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with an exception; `--help` still prints and exits."""

    def error(self, message: str) -> NoReturn:
        raise JobFileError(
            f"{message} (the job's own arguments stand after --)", next=self.format_usage().strip()
        )


def is_job_class(value: Any) -> bool:
    """Whether it is a class that stands for a job."""
    return isinstance(value, type) and issubclass(value, JobClass) and value is not JobClass
