"""Bring the cluster's objects towards what their specs say. Storing and serving them is `store`'s and `api`'s."""

from __future__ import annotations

from typing import Never

from netplane.controlplane.controllers import discovery
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.controlplane.controllers.runner import Runner
from netplane.controlplane.controllers.table import controllers
from netplane.kube import errors
from netplane.kube.client import Client
from netplane.kube.types import Resource
from netplane.lib import clock as clocks
from netplane.lib import log

__all__ = ["ControllerConfig", "run"]

_LOG = log.get("controllers")
_RETRY_SECONDS = 0.2


async def run(client: Client, config: ControllerConfig, *, clock: clocks.Clock = clocks.SYSTEM) -> Never:
    """Run all controllers against an API server until cancelled; waits for it to be there first."""

    async def discover() -> list[Resource]:
        while True:
            try:
                return await discovery.served(client)
            except errors.ApiError as error:
                _LOG.debug("API not there yet", cause=str(error))
                await clock.sleep(_RETRY_SECONDS)

    await Runner(client, controllers(config), clock=clock).run(discover)
    raise AssertionError("controllers never end")
