"""Library style: make a spec, make a MapReduce from it, run it without waiting (S1-18). An alias of `mr.Job`.

spec = mr.Spec("wordcount", mapper=tokenize, reducer=add, inputs="logs/*.txt", output="out", reduces=8)
handle = await mr.MapReduce(spec).exec()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mr.job import Format, Job, Partitioner, step

if TYPE_CHECKING:
    from mr.aio import AsyncHandle
    from mr.local import LocalResult

Call = Callable[..., Any]


class Spec(Job):
    """A job of one step, all in one call; functions themselves or by their registered names."""

    def __init__(
        self,
        name: str,
        *,
        mapper: Call | str | None = None,
        reducer: Call | str | None = None,
        combiner: Call | str | bool | None = None,
        partitioner: Partitioner | Call | str | None = None,
        reduces: int | None = None,
        sort_values: bool = False,
        allow_pickle: bool = False,
        inputs: Format | str | Iterable[str] | None = None,
        output: Format | str | None = None,
        **settings: Any,
    ) -> None:
        one = step(
            mapper,
            reducer,
            combiner=combiner,
            reduces=reduces,
            partitioner=partitioner,
            sort_values=sort_values,
            allow_pickle=allow_pickle,
        )
        super().__init__(name, one, input=inputs, output=output, **settings)


class MapReduce:
    """A job to be run: on a cluster without waiting (`exec`), or here and now (`run`)."""

    def __init__(self, spec: Job) -> None:
        self.spec = spec

    async def exec(self, masters: str | Sequence[str] | None = None, **settings: Any) -> AsyncHandle:
        """Submits the job to the cluster at `masters` (else as configured) and returns once it is accepted.

        `settings` are those of `Client.submit`. Raises Usage, Rejected, Unavailable, CommitUnknown.
        """
        from mr.aio import aconnect

        return await aconnect(masters).submit(self.spec, **settings)

    def run(self, inputs: Sequence[str | Path] | str | Path = (), **settings: Any) -> LocalResult:
        """Runs the job on this machine; see `mr.local.Local.run`."""
        from mr.local import Local

        return Local().run(self.spec, inputs, **settings)
