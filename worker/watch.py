"""Carries out the failure detector's probes, one period after the other, and passes on what it finds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import grpc

from mr.rpc import data_pb2, data_pb2_grpc
from worker.channels import Channels
from worker.detector import Changed, Detector, Probe

PERIOD_S = 1.0
DIRECT_S = 0.7
INDIRECT_S = 2.0


class Watch:
    """Probes peers until cancelled."""

    def __init__(self, detector: Detector, channels: Channels, news: Callable[[Changed], None]) -> None:
        self._detector = detector
        self._channels = channels
        self._news = news

    async def run(self) -> None:
        """One probe a period; periods of different workers drift apart by jitter."""
        while True:
            await asyncio.sleep(PERIOD_S * random.uniform(0.8, 1.2))
            if probe := self._detector.period():
                self._tell(await self._examine(probe.target))

    async def reaches(self, worker: str) -> bool:
        """Whether a peer answers this worker: what others ask for with `Probe.target`."""
        return await self._ask(Probe(worker), DIRECT_S)

    async def _examine(self, target: str) -> Changed | None:
        if await self.reaches(target):
            return self._detector.answered(target)
        detours = self._detector.missed(target)
        answers = await asyncio.gather(*(self._ask(detour, INDIRECT_S) for detour in detours))
        return self._detector.judged(target, answers)

    async def _ask(self, probe: Probe, patience_s: float) -> bool:
        address = self._detector.address(probe.via or probe.target)
        if address is None:
            return False
        channel = self._channels.get("worker", address)
        request = data_pb2.ProbeRequest(target=probe.target if probe.via else "")
        try:
            reply = await data_pb2_grpc.DataStub(channel).Probe(request, timeout=patience_s)
        except grpc.aio.AioRpcError:
            return False
        return reply.reachable

    def _tell(self, news: Changed | None) -> None:
        if news is not None:
            self._news(news)
