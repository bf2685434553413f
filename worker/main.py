"""The command `mr-worker`: flags and files into one configuration, one process, one exit status.

    mr-worker --masters a,b,c

The first line on stdout is one JSON object with the real addresses. SIGTERM drains: what runs is finished, then
the process ends with 0; a second one ends it at once. Exit status: 0 ended as told, 2 bad usage or no
certificate, 4 not allowed, 5 refused by the masters, 70 a bug.
"""

from __future__ import annotations

import asyncio
import glob
import json
import logging
import os
import signal
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mr import logs, tls
from mr.config import load, user_data_dir
from mr.errors import Error
from mr.rpc import data_pb2, data_pb2_grpc
from worker import child, web
from worker.agent import Agent
from worker.channels import OPTIONS, Channels
from worker.code import CodeStore
from worker.config import WorkerConfig, configure
from worker.detector import Detector
from worker.events import DrainWanted
from worker.fetch import Fetcher
from worker.identity import Identity
from worker.journal import Journal
from worker.pool import TaskPool
from worker.runtime import Means, Runtime
from worker.service import DataService
from worker.session import Sessions
from worker.store import Life, Store, WorkDirInUse
from worker.watch import Watch

log = logging.getLogger("mr.worker")

# Without the last one a second worker could silently share a fixed port with the first.
_SERVER_OPTIONS = (
    *OPTIONS,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)
_WORK_DIRS = 100  # of workers on one host that were not told where to work


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--masters", help="The masters: h1,h2,h3 or host:port of each. Default: MR_MASTERS.")
@click.option("--id", "worker_id", default="", help="Default: invented once and kept in the work dir.")
@click.option("--slots", type=int, help="Tasks at once. Default: one for each core.")
@click.option(
    "--memory", help="For all tasks together, like 24GiB. Default: three quarters of the machine's."
)
@click.option(
    "--work-dir", type=click.Path(path_type=Path), help="Scratch: map outputs, code, logs of tasks."
)
@click.option("--labels", help="Comma list, for placement.")
@click.option("--kinds", default="", help="map, reduce, or both (the default).")
@click.option("--listen", default="", help="host:port of the data port. Default: any free port.")
@click.option("--advertise", default="", help="host[:port] under which other workers reach the data port.")
@click.option(
    "--http", default="", help="host:port of health and metrics, or off. Default: 7080 or the next."
)
@click.option("--tls-dir", type=click.Path(path_type=Path), help="Certificates, as `mr tls init` makes them.")
@click.option("--insecure", is_flag=True, help="Plaintext instead of TLS; loopback addresses only.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--log-dir", type=click.Path(path_type=Path), help="Log to rotated files there, not to stderr.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Default: text.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: info.")
@click.version_option(package_name="mapraft")
def main(**flags: Any) -> None:
    """One worker of a mapraft cluster: carries out the tasks that the leading master assigns."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its C core writes notes of its own to stderr
    try:
        settings = load(
            {
                "cluster.masters": flags["masters"],
                "worker.slots": flags["slots"],
                "worker.memory": flags["memory"],
                "worker.work_dir": flags["work_dir"],
                "worker.labels": flags["labels"],
                "worker.log_dir": flags["log_dir"],
                "tls.dir": flags["tls_dir"],
                "tls.insecure": flags["insecure"] or None,
                "log.format": flags["log_format"],
                "log.level": flags["log_level"],
            },
            config_file=flags["config_file"],
        )
        names = ("worker_id", "kinds", "listen", "advertise", "http")
        config = configure(settings, **{name: flags[name] for name in names})
        store = _open_store(settings.worker.work_dir)
        life = store.begin_life(config.id)
        logs.setup(
            f"worker-{life.worker}",
            level=settings.log.level,
            style=settings.log.format,
            folder=settings.worker.log_dir,
        )
        status = asyncio.run(serve(config, store, life))
    except Error as error:
        status = _complain(error, error.exit_code)
    except (OSError, WorkDirInUse, tls.TlsError) as error:
        status = _complain(error, 2)
    sys.stdout.flush()
    sys.exit(status)


async def serve(config: WorkerConfig, store: Store, life: Life) -> int:
    """Runs a worker until the agent or a signal ends it; returns the exit status."""
    child.adopt_orphans()
    isolation = await child.best_isolation()
    how = child.How(isolation=isolation, hidden=_hidden(config), folder=str(store.layout.root / "jobs"))
    pool = TaskPool(how, config.slots)
    channels = Channels(config.files)
    detector = Detector(life.worker)

    server = grpc.aio.server(options=_SERVER_OPTIONS)
    port = _bind(server, config)
    address = _advertised(config, port)
    runtime = Runtime(
        Agent(_identity(config, life, address, isolation), life.cluster_id, time.monotonic()),
        config.task_memory_bytes,
    )
    sessions = Sessions(config.masters, channels, runtime.feed)
    watch = Watch(detector, channels, runtime.suspect)
    runtime.equip(
        Means(
            store=store,
            pool=pool,
            code=CodeStore(store.layout.code, channels, sessions.masters),
            fetcher=Fetcher(life.worker, store.layout, channels),
            sessions=sessions,
            detector=detector,
            journal=Journal(store.layout.journal, life.incarnation),
        )
    )
    service = DataService(store.layout, life.worker, life.incarnation, watch.reaches, runtime.feed)
    await _start(server, service)
    http, http_address = await _serve_http(config, lambda: bool(runtime.agent.leader))
    _say_where(life, address, http_address)
    log.info("worker %s, %d slots, isolation: %s", life.worker, config.slots, isolation)
    _on_signals(runtime)

    background = [asyncio.create_task(work) for work in (runtime.run(), sessions.run(), watch.run())]
    try:
        waiting: list[asyncio.Future[Any]] = [runtime.ended, *background]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for work in background:
            if work.done():
                work.result()  # raises: none of them ends by itself
        status, reason = runtime.ended.result()
        log.info("worker %s ends: %s", life.worker, reason)
        if status:
            print(f"mr-worker: {reason}", file=sys.stderr)
        return status
    finally:
        for work in background:
            work.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await server.stop(0.5)
        await runtime.close()
        await channels.close()
        if http is not None:
            await http.cleanup()
        store.close()


def _open_store(configured: Path | None) -> Store:
    """The work dir as told, else the first of the default ones that no other worker uses."""
    if configured is not None:
        return Store(configured)
    base = user_data_dir()
    for number in range(1, _WORK_DIRS):
        try:
            return Store(base / ("worker" if number == 1 else f"worker-{number}"))
        except WorkDirInUse:
            continue
    raise WorkDirInUse(f"{_WORK_DIRS} workers run below {base}: pass --work-dir")


def _hidden(config: WorkerConfig) -> list[str]:
    """What tasks must not see: all keys, the CA's, too, where one folder holds them all (S4)."""
    if config.files is None:
        return []
    key = config.files.key.resolve()
    return [str(key), f"{glob.escape(str(key.parent))}/*.key"]


def _identity(config: WorkerConfig, life: Life, address: str, isolation: str) -> Identity:
    return Identity(
        worker=life.worker,
        incarnation=life.incarnation,
        address=address,
        slots=config.slots,
        memory_bytes=config.memory_bytes,
        labels=config.labels,
        kinds=config.kinds,
        host=socket.gethostname(),
        version=version("mapraft"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        isolation=isolation,
        incarnation_ms=life.started_ms,
    )


def _bind(server: grpc.aio.Server, config: WorkerConfig) -> int:
    """The real port. Raises OSError."""
    try:
        if config.files is None:
            return server.add_insecure_port(config.listen)
        return server.add_secure_port(config.listen, tls.server_credentials(config.files))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {config.listen}: {error}") from None


def _advertised(config: WorkerConfig, port: int) -> str:
    host, colon, given = config.advertise.rpartition(":")
    return (
        config.advertise if colon and given.isdigit() else f"{config.advertise if not colon else host}:{port}"
    )


async def _start(server: grpc.aio.Server, service: DataService) -> None:
    data_pb2_grpc.add_DataServicer_to_server(service, server)
    alive = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    name = data_pb2.DESCRIPTOR.services_by_name["Data"].full_name
    reflection.enable_server_reflection((name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await alive.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()


async def _serve_http(config: WorkerConfig, ready: Any) -> tuple[Any, str | None]:
    if config.http is None:
        return None, None
    host, _, port = config.http.rpartition(":")
    runner, real = await web.serve(host.strip("[]"), int(port), ready, pinned=config.http_pinned)
    return runner, f"{host}:{real}"


def _say_where(life: Life, address: str, http: str | None) -> None:
    line = {
        "id": life.worker,
        "data": address,
        "http": http,
        "pid": os.getpid(),
        "version": version("mapraft"),
        "incarnation": life.incarnation,
    }
    print(json.dumps(line), flush=True)


def _on_signals(runtime: Runtime) -> None:
    def end(number: signal.Signals) -> None:
        if runtime.agent.leaving is None:
            log.info("%s: finishing what runs, taking nothing new; once more ends at once", number.name)
            runtime.feed(DrainWanted(number.name))
        elif not runtime.ended.done():
            runtime.ended.set_result((128 + number, f"{number.name} again"))

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end, number)


def _complain(error: BaseException, status: int) -> int:
    print(f"mr-worker: {error}", file=sys.stderr)
    if advice := getattr(error, "next", ""):
        print(f"  {advice}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
