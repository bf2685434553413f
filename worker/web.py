"""Health and metrics of a worker over HTTP, for probes and Prometheus. Shows no job data."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
from aiohttp import web


async def serve(
    host: str, port: int, ready: Callable[[], bool], *, pinned: bool
) -> tuple[web.AppRunner, int]:
    """Serves on `port`, or on the next free one unless `pinned`. Raises OSError. Returns the real port."""

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def is_ready(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="no leader knows this worker yet\n")

    async def metrics(_: web.Request) -> web.Response:
        body = prometheus_client.generate_latest()
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", live),
            web.get("/readyz", is_ready),
            web.get("/metrics", metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    last = port if pinned or port == 0 else port + 200
    while True:
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
        except OSError:
            if port >= last:
                await runner.cleanup()
                raise
            port += 1
        else:
            return runner, int(runner.addresses[0][1])
