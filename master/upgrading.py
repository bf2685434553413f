"""Raises the cluster's version once the last master of a new release is there; `versions` says to what."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from consensus.replica import ConsensusError, Replica
from master import versions
from master.driver import Driver
from master.task_table import TaskTable
from mr.rpc import table_pb2

log = logging.getLogger("mr.master")

_EVERY_S = 1.0


class Upgrading:
    """Works while this master leads. `ask` tells what each other master knows; None where one does not answer."""

    def __init__(
        self,
        table: TaskTable,
        driver: Driver,
        replica: Replica,
        ask: Callable[[], Awaitable[list[int | None]]],
        *,
        propose_timeout_s: float,
    ) -> None:
        self._table, self._driver, self._replica = table, driver, replica
        self._ask, self._timeout_s = ask, propose_timeout_s

    async def tend(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            if self._driver.leading and self._table.cluster_version < versions.KNOWN:
                await self._try()

    async def _try(self) -> None:
        known = [versions.KNOWN, *await self._ask()]
        version = versions.next_version(self._table.cluster_version, known)
        if version is None or not self._driver.leading:
            return
        command = table_pb2.Command(set_version=table_pb2.SetClusterVersion(version=version))
        entry = self._driver.entry([command]).SerializeToString()
        try:
            await self._replica.propose(entry, timeout_s=self._timeout_s)
        except ConsensusError as error:
            log.warning("version %d of the commands was not agreed yet: %s", version, error)
        else:
            log.info("the cluster is at version %d of the commands", self._table.cluster_version)
