"""The Python client: submit, watch, wait, results (S0-05). Follows the leader; a handle is an id, not
ownership.

The law: losing the client never cancels a job, unless `cancel_on_exit` was asked for. Every method may be
called from any thread. Nothing of grpc or protobuf is imported before the first call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mr import errors, outcome, submit
from mr.calls import REPEATABLE, Masters, request_id
from mr.config import Config
from mr.config import load as load_config
from mr.settings import Tls

if TYPE_CHECKING:
    from mr.rpc.cluster_pb2 import (
        Explanation,
        JobEvent,
        JobStatus,
        LogLine,
        MasterInfo,
        TaskInfo,
        WorkerInfo,
    )

LOCAL = "127.0.0.1:7070"  # where masters are looked for when nobody says where
_SLICE_S = (
    15.0  # a watching stream is opened anew after this, so that a silent master cannot hold it for ever
)
_BREAKS = 100  # streams that break in a row without bringing anything
_PATIENCE_S = 180.0  # how long a watcher waits for masters that are all gone: long enough to start them again


def connect(
    masters: str | Sequence[str] | None = None,
    *,
    timeout: float = 10.0,
    tls: Tls | None = None,
    insecure: bool = False,
    context: str | None = None,
    config: Config | None = None,
) -> Client:
    """A client of the cluster at `masters` ("h1,h2:7070" or a list), else as configured (MR_MASTERS).

    `timeout` is the patience of one call in seconds, all its retries together. `tls` names certificates,
    `insecure` means plaintext to loopback. Connects at the first call; raises Usage for bad configuration.
    """
    config = config or load_config(context=context)
    if isinstance(masters, str):
        masters = [name for name in masters.split(",") if name.strip()]
    chosen = list(masters or config.cluster.masters) or [LOCAL]
    security = tls or (Tls(insecure=True) if insecure else config.tls)
    return Client(Masters(chosen, security, timeout=timeout, token=_token(config)), config)


class Client:
    """A cluster, as a program sees it. Made by `mr.connect`; use it as a context manager."""

    def __init__(self, masters: Masters, config: Config | None = None) -> None:
        self.calls = masters
        self.config = config or Config()
        self._owned: list[Handle] = []

    def submit(
        self,
        job: Any,
        inputs: str | Path | Sequence[str | Path] | None = None,
        output: str | Path | None = None,
        *,
        id: str = "",
        args: Sequence[str] = (),
        py_files: Sequence[str | Path] = (),
        files: Sequence[str | Path] = (),
        cancel_on_exit: bool = False,
        **settings: Any,
    ) -> Handle:
        """Submits a job file, an `mr.Job` or a `JobClass`; returns once it is accepted, durably.

        `settings` win over the job's own: reduces, name, split_size, skip_bad, priority, overwrite, ….
        With `id` a second submit of the same job returns the same job. Raises Usage, Rejected,
        Unavailable, CommitUnknown.
        """
        request = submit.Request(
            job_file=job_file(job),
            inputs=submit.sequence(inputs),
            output=str(output or ""),
            id=id,
            job_name=str(getattr(job, "name", "")) if not isinstance(job, str | Path | type) else "",
            args=tuple(args),
            py_files=submit.sequence(py_files),
            files=submit.sequence(files),
            flags=submit.flags_of(settings),
            defaults=job_defaults(self.config),
        )
        reply = submit.send(self.calls, submit.prepare(request))
        handle = Handle(self, reply.job)
        if cancel_on_exit:
            self._owned.append(handle)
        return handle

    def attach(self, id: str) -> Handle:
        """The handle of a job by its id or a unique prefix. Raises NotFound, naming the jobs that fit."""
        try:
            return Handle(self, self._status(id).id)
        except errors.NotFound:
            fitting = [job.id for job in self.jobs(prefix=id)] if id else []
            if len(fitting) < 2:
                raise errors.NotFound(f"no job {id}", next="`mr jobs` lists them") from None
            names = ", ".join(fitting[:5]) + (", …" if len(fitting) > 5 else "")
            raise errors.NotFound(
                f"{id} begins {len(fitting)} jobs: {names}", next="write more of the id"
            ) from None

    def jobs(self, limit: int = 100, prefix: str = "") -> list[JobStatus]:
        """The newest jobs first."""
        from mr.rpc.cluster_pb2 import ListJobsRequest

        reply = self.calls.call("ListJobs", ListJobsRequest(limit=limit, prefix=prefix, history=True))
        return list(reply.jobs)

    def workers(self, include_lost: bool = False) -> list[WorkerInfo]:
        """The workers that the leader knows."""
        from mr.rpc.cluster_pb2 import ListWorkersRequest

        return list(self.calls.call("ListWorkers", ListWorkersRequest(include_lost=include_lost)).workers)

    def masters(self) -> list[MasterInfo]:
        """Every configured master, the ones that are down too."""
        from mr.rpc.cluster_pb2 import ListMastersRequest

        return list(self.calls.call("ListMasters", ListMastersRequest()).masters)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any], *, folder: str | Path = ".") -> list[Any]:
        """`[fn(item) for item in items]` on the cluster, for small things that JSON can hold.

        `fn` stands at the top of a module; that module travels with the job. Inputs and outputs pass
        through a temporary folder in `folder`, which the workers must see too.
        """
        from mr.mapping import map_on

        return map_on(self, fn, list(items), Path(folder))

    def close(self) -> None:
        """Cancels what was submitted with `cancel_on_exit` and still runs, then closes the connections."""
        for handle in self._owned:
            if not outcome.is_over(handle.status()):
                handle.cancel("its client has ended")
        self._owned.clear()
        self.calls.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _status(self, id: str) -> JobStatus:
        from mr.rpc.cluster_pb2 import GetJobRequest

        status: JobStatus = self.calls.call("GetJob", GetJobRequest(job=id))
        return status


class Handle:
    """One job of the cluster. Any process may have one, at any time: `client.attach(id)`."""

    def __init__(self, client: Client, id: str) -> None:
        self.client = client
        self.id = id

    def status(self) -> JobStatus:
        """The whole state of the job now (`JobStatus` of proto/cluster.proto)."""
        return self.client._status(self.id)

    @property
    def state(self) -> str:
        """QUEUED, RUNNING, PUBLISHING, SUCCEEDED, FAILED or CANCELLED."""
        return outcome.state_name(self.status())

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Waits for the end; survives leader changes. Returns the last status.

        Raises JobFailed, Cancelled, DeadlineExceeded or TooManySkipped by how the job ended, and
        WaitTimeout (a TimeoutError) after `timeout` seconds: then the job goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for event in self.follow(deadline=deadline):
            if event.HasField("status") and outcome.is_over(event.status):
                break
        status = self.status()
        error = outcome.error_of(status)
        if error:
            raise error
        return status

    def follow(
        self,
        after: int = 0,
        *,
        tasks: bool = False,
        deadline: float | None = None,
        on_break: Callable[[], None] | None = None,
    ) -> Iterator[JobEvent]:
        """The job's events from log index `after` on, until its end, across leader changes.

        `deadline` is on the monotonic clock. Raises WaitTimeout at the deadline, and Unavailable when no
        leader is found within the client's timeout.
        """
        seen = (
            0  # events of index `after` that we have: a broken stream is resumed without loss or repetition
        )
        breaks = 0
        while True:
            try:
                skip = seen
                for event in self._stream(max(after - 1, 0) if seen else after, tasks, deadline):
                    breaks = 0
                    if event.index and event.index == after and skip:
                        skip -= 1
                        continue
                    if event.index:
                        seen = seen + 1 if event.index == after else 1
                        after = event.index
                    yield event
                    if event.HasField("status") and outcome.is_over(event.status):
                        return
                if outcome.is_over(self.status()):
                    return
            except errors.WaitTimeout:
                if deadline is not None and time.monotonic() >= deadline:
                    raise errors.WaitTimeout(f"{self.id} goes on; waiting for it timed out") from None
            except REPEATABLE:
                breaks += 1
                if on_break:
                    on_break()
                if breaks > _BREAKS:
                    raise
                self._await_leader(deadline)

    def events(self, after: int = 0, *, tasks: bool = True) -> list[JobEvent]:
        """What happened so far, oldest first."""
        from mr.rpc.cluster_pb2 import WatchRequest

        request = WatchRequest(job=self.id, after=after, tasks=tasks)
        found: list[JobEvent] = self.client.calls.gather("Watch", request)
        return [event for event in found if event.index]  # the rest tells how far it is, not what happened

    def results(self) -> Iterator[tuple[Any, Any]]:
        """The output's pairs, by part and in order. Waits for the job first; raises as `wait` does."""
        from mr.results import read_results

        yield from read_results(visible_output(self.wait()))

    def counters(self) -> dict[str, int]:
        """Counters of the winning attempts, "group:name" to value (P-10)."""
        return dict(sorted(self.status().counters.items()))

    def tasks(self, *, states: Sequence[str] = (), task: str = "", limit: int = 1000) -> list[TaskInfo]:
        """Tasks with their attempts; all kinds, at most `limit`."""
        from mr.rpc.cluster_pb2 import ListTasksRequest

        request = ListTasksRequest(job=self.id, states=states, any_kind=True, task=task, limit=limit)
        return list(self.client.calls.call("ListTasks", request).tasks)

    def logs(self, task: str = "", *, attempt: int = 0, follow: bool = False) -> Iterator[str]:
        """What the user's code printed, as text chunks; of all tasks that failed or run, or of one ("m-7")."""
        for line in self.log_lines(task, attempt=attempt, follow=follow):
            if line.data:
                yield line.data.decode(errors="replace")
            if line.note:
                yield f"[{line.note}]\n"

    def log_lines(self, task: str = "", *, attempt: int = 0, follow: bool = False) -> Iterator[LogLine]:
        """The same with the attempt and the worker that wrote it. A followed log ends when its leader does."""
        from mr.rpc.cluster_pb2 import LogsRequest

        request = LogsRequest(job=self.id, task=task, attempt=attempt, follow=follow)
        calls = self.client.calls
        if follow:
            self.status()  # finds a master that answers
            yield from calls.stream("ReadLogs", request)
        else:
            yield from calls.gather("ReadLogs", request)

    def explain(self) -> Explanation:
        """Why the job is where it is: one cause, in words."""
        from mr.rpc.cluster_pb2 import ExplainRequest

        answer: Explanation = self.client.calls.call("Explain", ExplainRequest(job=self.id))
        return answer

    def cancel(self, reason: str = "") -> str:
        """Asks for the end of the job; returns its state. Raises Rejected when it is publishing or over."""
        from mr.rpc.cluster_pb2 import CancelRequest
        from mr.rpc.table_pb2 import JobState

        request = CancelRequest(job=self.id, request_id=request_id(), reason=reason)
        return JobState.Name(self.client.calls.call("Cancel", request).state)

    def __repr__(self) -> str:
        return f"<mr job {self.id}>"

    def _repr_html_(self) -> str:
        from mr.notebook import html

        return html(self.status())

    def _await_leader(self, deadline: float | None) -> None:
        """A linearizable read: whoever answers leads, and is watched from now on."""
        from mr.rpc.cluster_pb2 import GetJobRequest

        left = _PATIENCE_S if deadline is None else min(_PATIENCE_S, deadline - time.monotonic())
        request = GetJobRequest(job=self.id)
        try:
            self.client.calls.call("GetJob", request, timeout=max(0.1, left))
        except errors.Unavailable:
            if deadline is None or time.monotonic() < deadline:
                raise

    def _stream(self, after: int, tasks: bool, deadline: float | None) -> Iterator[JobEvent]:
        from mr.rpc.cluster_pb2 import WatchRequest

        left = _SLICE_S if deadline is None else min(_SLICE_S, deadline - time.monotonic())
        if left <= 0:
            raise errors.WaitTimeout("no time left")
        request = WatchRequest(job=self.id, after=after, follow=True, tasks=tasks)
        yield from self.client.calls.stream("Watch", request, timeout=left)


def job_file(job: Any) -> Path:
    """The file that defines `job`: a path, an `mr.Job` or a `JobClass`. Raises Usage when there is none."""
    if isinstance(job, str | Path):
        return Path(job)
    file = getattr(job, "file", None)
    if file is None and isinstance(job, type):
        import inspect

        file = inspect.getfile(job)
    if not file or str(file).startswith("<") or not Path(file).is_file():
        raise errors.Usage(
            "workers load a job from its file: define it in one", next='pass the path, "wordcount.py"'
        )
    return Path(file)


def visible_output(status: JobStatus) -> Path:
    """Where a published output lies, as this host sees it. Raises NotFound when it does not."""
    if not Path(status.output).is_dir():
        raise errors.NotFound(
            f"this host does not see the output {status.output}", next="look where the workers wrote it"
        )
    return Path(status.output)


def _token(config: Config) -> str:
    """The token by configuration, or "". Raises Usage for a file that cannot be read."""
    if config.auth.token or config.auth.token_file is None:
        return config.auth.token
    try:
        return config.auth.token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Usage(f"token file {config.auth.token_file}: {error}") from None


def job_defaults(config: Config) -> dict[str, Any]:
    """What the configuration sets for jobs that leave it open; built-in values are the job file's own
    business."""
    names = (
        "split_size",
        "reduces",
        "task_deadline",
        "skip_bad",
        "max_attempts",
        "queue",
        "priority",
        "speculate",
    )
    return {name: getattr(config.job, name) for name in names if f"job.defaults.{name}" in config.origins}
