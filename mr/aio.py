"""The client for coroutines: the same names as `mr.client`, awaitable.

Each call runs in a thread of its own pool: the blocking client already knows how to follow a leader, and two
ways to do that would be one too many. Cancelling an await gives the coroutine back at once; the call behind it
ends by itself, and a job is never cancelled by that.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from mr.client import Client, Handle, connect

if TYPE_CHECKING:
    from mr.rpc.cluster_pb2 import Explanation, JobEvent, JobStatus, MasterInfo, TaskInfo, WorkerInfo

P = ParamSpec("P")
T = TypeVar("T")
_THREADS = 64  # waits at once; a wait holds a thread


def aconnect(masters: str | Sequence[str] | None = None, **options: Any) -> AsyncClient:
    """Like `mr.connect`; use it with `async with`. Options are those of `mr.connect`."""
    return AsyncClient(connect(masters, **options))


class AsyncClient:
    """A cluster, as a coroutine sees it."""

    def __init__(self, client: Client) -> None:
        self.blocking = client
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mr-client")

    async def submit(self, job: Any, *args: Any, **options: Any) -> AsyncHandle:
        """See `Client.submit`."""
        return AsyncHandle(self, await self.run(self.blocking.submit, job, *args, **options))

    async def attach(self, id: str) -> AsyncHandle:
        """See `Client.attach`."""
        return AsyncHandle(self, await self.run(self.blocking.attach, id))

    async def jobs(self, limit: int = 100, prefix: str = "") -> list[JobStatus]:
        """See `Client.jobs`."""
        return await self.run(self.blocking.jobs, limit, prefix)

    async def workers(self, include_lost: bool = False) -> list[WorkerInfo]:
        """See `Client.workers`."""
        return await self.run(self.blocking.workers, include_lost)

    async def masters(self) -> list[MasterInfo]:
        """See `Client.masters`."""
        return await self.run(self.blocking.masters)

    async def map(self, fn: Callable[[Any], Any], items: Iterable[Any], **options: Any) -> list[Any]:
        """See `Client.map`."""
        return await self.run(self.blocking.map, fn, items, **options)

    async def close(self) -> None:
        """See `Client.close`."""
        await self.run(self.blocking.close)
        self._threads.shutdown(wait=False)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call` in a thread of this client."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(call, *args, **kwargs))

    async def each(self, items: Iterator[T]) -> AsyncIterator[T]:
        """A blocking iterator, one item at a time."""
        end: Any = object()
        while (item := await self.run(next, items, end)) is not end:
            yield item

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncHandle:
    """One job, as a coroutine sees it. `await handle` waits for its end."""

    def __init__(self, client: AsyncClient, handle: Handle) -> None:
        self.client = client
        self.blocking = handle
        self.id = handle.id

    async def status(self) -> JobStatus:
        """See `Handle.status`."""
        return await self.client.run(self.blocking.status)

    async def wait(self, timeout: float | None = None) -> JobStatus:
        """See `Handle.wait`."""
        return await self.client.run(self.blocking.wait, timeout)

    def follow(self, after: int = 0, *, tasks: bool = False) -> AsyncIterator[JobEvent]:
        """See `Handle.follow`."""
        return self.client.each(self.blocking.follow(after, tasks=tasks))

    async def events(self, after: int = 0) -> list[JobEvent]:
        """See `Handle.events`."""
        return await self.client.run(self.blocking.events, after)

    def results(self) -> AsyncIterator[tuple[Any, Any]]:
        """See `Handle.results`."""
        return self.client.each(self.blocking.results())

    async def counters(self) -> dict[str, int]:
        """See `Handle.counters`."""
        return await self.client.run(self.blocking.counters)

    async def tasks(self, **options: Any) -> list[TaskInfo]:
        """See `Handle.tasks`."""
        return await self.client.run(self.blocking.tasks, **options)

    def logs(self, task: str = "", **options: Any) -> AsyncIterator[str]:
        """See `Handle.logs`."""
        return self.client.each(self.blocking.logs(task, **options))

    async def explain(self) -> Explanation:
        """See `Handle.explain`."""
        return await self.client.run(self.blocking.explain)

    async def cancel(self, reason: str = "") -> str:
        """See `Handle.cancel`."""
        return await self.client.run(self.blocking.cancel, reason)

    def __await__(self) -> Any:
        return self.wait().__await__()

    def __repr__(self) -> str:
        return repr(self.blocking)

    def _repr_html_(self) -> str:
        return self.blocking._repr_html_()
