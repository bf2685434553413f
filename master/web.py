"""Status pages, metrics, health and a read-only REST view, on every master; nothing is fetched from the
internet.

One page for each question: what failed and why, what runs and what of it is slow, what is the cluster doing.
They work on a follower too (`reader.py`) and need no script in the browser.

Who may look: on loopback whoever is on this machine; on any other address only holders of a client
certificate of this cluster. Health is open: it reveals no state. Nothing here changes anything.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from master import hosts, pages
from master.config import split_address
from master.metrics import CONTENT_TYPE
from master.reader import Reader, Seen
from mr.errors import Error, NotFound
from mr.rpc import cluster_pb2 as pb

if TYPE_CHECKING:
    from master.server import Master

_HERE = Path(__file__).parent
_TASKS_PAGE = 200
_LOG_BYTES = 1 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Web:
    """The HTTP side of one master."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._reader = Reader(master)
        self._runner: web.AppRunner | None = None
        self._open = hosts.is_loopback(split_address(master.config.http)[0]) if master.config.http else True
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters |= pages.FILTERS

    async def start(self, sock: socket.socket) -> None:
        """Serves on a bound socket."""
        app = web.Application(middlewares=[self._guard], client_max_size=64 << 10)
        app.add_routes(
            [
                web.get("/", self._failures),
                web.get("/running", self._running),
                web.get("/jobs", self._jobs),
                web.get("/jobs/{job}", self._job),
                web.get("/jobs/{job}/tasks", self._tasks),
                web.get("/jobs/{job}/tasks/{task}/log", self._task_log),
                web.get("/cluster", self._cluster),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/v1/openapi.json", self._v1_openapi),
                web.get("/v1/jobs", self._v1_jobs),
                web.get("/v1/jobs/{job}", self._v1_job),
                web.get("/v1/jobs/{job}/tasks", self._v1_tasks),
                web.get("/v1/jobs/{job}/events", self._v1_events),
                web.get("/v1/workers", self._v1_workers),
                web.get("/v1/masters", self._v1_masters),
                web.static("/static", _HERE / "static"),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, sock, ssl_context=None if self._open else self._tls()).start()

    async def stop(self) -> None:
        """Closes the port. Idempotent."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    # -- pages

    async def _failures(self, _: web.Request) -> web.Response:
        jobs = await self._reader.jobs()
        failed = pages.failed(jobs.value.jobs)[:20]
        stories = [(await self._reader.job(job.id)).value for job in failed]
        return self._page("failures.html", "What failed, and why", jobs, failed=stories)

    async def _running(self, _: web.Request) -> web.Response:
        jobs = await self._reader.jobs()
        shown = []
        for job in pages.running(jobs.value.jobs)[:10]:
            request = pb.ListTasksRequest(job=job.id, states=["in_progress"], any_kind=True, limit=1000)
            tasks = await self._reader.tasks(request)
            why = await self._reader.explain(job.id)
            steps = self._master.table.jobs[job.id].steps if job.id in self._master.table.jobs else []
            shown.append(
                (job, why.value, pages.stragglers(tasks.value.tasks, pages.now_ms()), pages.skewed(steps))
            )
        return self._page("running.html", "What runs, and what of it is slow", jobs, shown=shown)

    async def _jobs(self, _: web.Request) -> web.Response:
        jobs = await self._reader.jobs(limit=500)
        return self._page("jobs.html", "Jobs", jobs, jobs=jobs.value.jobs)

    async def _job(self, request: web.Request) -> web.Response:
        job = await self._reader.job(request.match_info["job"])
        why = await self._reader.explain(job.value.id)
        events = self._master.watch.history(job.value.id, 0, tasks=False)
        return self._page(
            "job.html",
            job.value.name or job.value.id,
            job,
            job=job.value,
            why=why.value,
            events=events[-200:],
        )

    async def _tasks(self, request: web.Request) -> web.Response:
        states = [request.query["state"]] if request.query.get("state") else []
        offset = _number(request, "offset")
        asked = pb.ListTasksRequest(
            job=request.match_info["job"], states=states, any_kind=True, limit=_TASKS_PAGE, offset=offset
        )
        tasks = await self._reader.tasks(asked)
        return self._page(
            "tasks.html",
            f"Tasks of {asked.job}",
            tasks,
            job=asked.job,
            tasks=tasks.value.tasks,
            total=tasks.value.total,
            offset=offset,
            following=offset + _TASKS_PAGE if offset + _TASKS_PAGE < tasks.value.total else 0,
            state=states[0] if states else "",
        )

    async def _task_log(self, request: web.Request) -> web.Response:
        asked = pb.LogsRequest(
            job=self._reader.find(request.match_info["job"]),
            task=request.match_info["task"],
            tail_bytes=_LOG_BYTES,
        )
        asked.attempt = _number(request, "attempt")
        lines = [line async for line in self._master.logs.read(asked)]
        return self._page(
            "log.html",
            f"Log of {asked.task}",
            None,
            job=asked.job,
            task=asked.task,
            lines=pages.joined(lines),
        )

    async def _cluster(self, _: web.Request) -> web.Response:
        masters = await self._master.masters.all()
        workers = await self._reader.workers()
        status = self._master.replica.status()
        return self._page(
            "cluster.html",
            "The cluster",
            workers,
            masters=masters,
            workers=workers.value.workers,
            status=status,
        )

    def _page(self, template: str, title: str, seen: Seen[Any] | None, **values: Any) -> web.Response:
        leadership = self._master.replica.leadership
        text = self._templates.get_template(template).render(
            title=title,
            me=self._master.config.id,
            leader=leadership.leader or "nobody",
            term=leadership.term,
            index=self._master.machine.applied,
            live=seen is None or seen.live,
            at=time.strftime("%H:%M:%S"),
            now_ms=pages.now_ms(),
            **values,
        )
        return web.Response(text=text, content_type="text/html")

    # -- machines

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._master.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._master.ready
        return web.Response(
            text="ok\n" if ready else "no leader, or not caught up\n", status=200 if ready else 503
        )

    async def _v1_openapi(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(_HERE / "static" / "openapi.json")

    async def _v1_jobs(self, request: web.Request) -> web.Response:
        jobs = await self._reader.jobs(limit=_number(request, "limit") or 100)
        return _json(jobs.value, jobs.live)

    async def _v1_job(self, request: web.Request) -> web.Response:
        job = await self._reader.job(request.match_info["job"])
        return _json(job.value, job.live)

    async def _v1_tasks(self, request: web.Request) -> web.Response:
        asked = pb.ListTasksRequest(
            job=request.match_info["job"], any_kind=True, limit=_number(request, "limit") or 1000
        )
        asked.offset = _number(request, "offset")
        tasks = await self._reader.tasks(asked)
        return _json(tasks.value, tasks.live)

    async def _v1_events(self, request: web.Request) -> web.Response:
        job = self._reader.find(request.match_info["job"])
        events = self._master.watch.history(job, _number(request, "after"), tasks="tasks" in request.query)
        return web.json_response([_dict(event) for event in events])

    async def _v1_workers(self, _: web.Request) -> web.Response:
        workers = await self._reader.workers()
        return _json(workers.value, workers.live)

    async def _v1_masters(self, _: web.Request) -> web.Response:
        return _json(await self._master.masters.all(), live=True)

    # -- who may look

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in ("/healthz", "/readyz"):
            if self._open and not hosts.names_loopback(request.host):
                # A page of another site that resolves to 127.0.0.1 must not read ours through a browser.
                raise web.HTTPForbidden(text="ask by a loopback name\n")
            if not self._open and not _has_certificate(request):
                raise web.HTTPForbidden(text="a client certificate of this cluster is needed\n")
        try:
            response = await handler(request)
        except NotFound as error:
            raise web.HTTPNotFound(text=f"{error}\n") from error
        except Error as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from error
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors 'none'"
        return response

    def _tls(self) -> ssl.SSLContext:
        files = self._master.config.tls
        assert files is not None, "plaintext is for loopback: checked at start"
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
        context.load_cert_chain(files.cert, files.key)
        context.verify_mode = ssl.CERT_OPTIONAL  # probes of health have no certificate
        return context


def _has_certificate(request: web.Request) -> bool:
    transport = request.transport
    return bool(transport and transport.get_extra_info("peercert"))


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "0")
    if not text.isdecimal():
        raise web.HTTPBadRequest(text=f"{name} is a number\n")
    return min(int(text), 1 << 40)


def _dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def _json(message: Message, live: bool) -> web.Response:
    return web.json_response({**_dict(message), "live": live})
