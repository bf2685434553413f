"""mapraft: MapReduce in Python on a cluster in which no single process matters.

    import mr

    @mr.mapper("wc.tokenize")
    def tokenize(line: str):
        yield from ((w.lower(), 1) for w in line.split())

    @mr.reducer("wc.add", combine=True)
    def add(word: str, counts):
        yield word, sum(counts)

    job = mr.Job("wordcount", [mr.step(tokenize, add, reduces=8)], input=mr.text(), output=mr.tsv())

Importing `mr` imports next to nothing: each name below is fetched from its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> module; the one place to add to.
_NAMES = {
    **dict.fromkeys(("mapper", "reducer", "combiner", "partitioner", "identity"), "mr.registry"),
    **dict.fromkeys(("Job", "step", "hash", "text", "jsonl", "csv", "kv", "tsv", "format_named"), "mr.job"),
    **dict.fromkeys(("Context", "ctx", "args"), "mr.context"),
    "JobClass": "mr.jobclass",
    **dict.fromkeys(("Spec", "MapReduce"), "mr.spec"),
    **dict.fromkeys(("Client", "Handle", "connect"), "mr.client"),
    "aconnect": "mr.aio",
    "Cluster": "mr.cluster",
    **dict.fromkeys(
        (
            "Error",
            "Usage",
            "Unavailable",
            "CommitUnknown",
            "NotAllowed",
            "Rejected",
            "NotFound",
            "JobFailed",
            "Cancelled",
            "DeadlineExceeded",
            "TooManySkipped",
            "WaitTimeout",
            "Cause",
        ),
        "mr.errors",
    ),
}
_MODULES = ("io", "local")  # `mr.local()` works too: that module can be called

__all__ = [*sorted(_NAMES), *_MODULES]  # noqa: PLE0604  names of the table above

if TYPE_CHECKING:
    from mr import io as io
    from mr.aio import aconnect as aconnect
    from mr.client import Client as Client
    from mr.client import Handle as Handle
    from mr.client import connect as connect
    from mr.cluster import Cluster as Cluster
    from mr.context import Context as Context
    from mr.context import args as args
    from mr.context import ctx as ctx
    from mr.errors import Cancelled as Cancelled
    from mr.errors import Cause as Cause
    from mr.errors import CommitUnknown as CommitUnknown
    from mr.errors import DeadlineExceeded as DeadlineExceeded
    from mr.errors import Error as Error
    from mr.errors import JobFailed as JobFailed
    from mr.errors import NotAllowed as NotAllowed
    from mr.errors import NotFound as NotFound
    from mr.errors import Rejected as Rejected
    from mr.errors import TooManySkipped as TooManySkipped
    from mr.errors import Unavailable as Unavailable
    from mr.errors import Usage as Usage
    from mr.errors import WaitTimeout as WaitTimeout
    from mr.job import Job as Job
    from mr.job import csv as csv
    from mr.job import format_named as format_named
    from mr.job import hash as hash  # noqa: A004  named as users know it
    from mr.job import jsonl as jsonl
    from mr.job import kv as kv
    from mr.job import step as step
    from mr.job import text as text
    from mr.job import tsv as tsv
    from mr.jobclass import JobClass as JobClass
    from mr.local import local as local
    from mr.registry import combiner as combiner
    from mr.registry import identity as identity
    from mr.registry import mapper as mapper
    from mr.registry import partitioner as partitioner
    from mr.registry import reducer as reducer
    from mr.spec import MapReduce as MapReduce
    from mr.spec import Spec as Spec


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"mr.{name}")
    module = _NAMES.get(name)
    if module is None:
        raise AttributeError(f"module 'mr' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
