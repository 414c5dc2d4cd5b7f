"""The daemon on a packet lab's node, following an API in memory, with any backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from netplane.kernel import netns
from netplane.kube.fake import FakeApi
from netplane.lib import clock
from netplane.model import address
from netplane_proxy.plan import host, oracle
from netplane_proxy.run import backends
from netplane_proxy.run.daemon import Daemon, Parts
from netplane_proxy.run.flows import Conntrack, Sweeper
from netplane_proxy.run.target import Target
from tests.support.clusters import NODE
from tests.support.packet_lab import PacketLab

SETTINGS = host.Settings(
    "node-1",
    cluster_cidrs=(address.prefix("10.244.0.0/16"),),
    service_cidrs=(address.prefix("10.96.0.0/16"),),
)
PATIENCE = 180.0
"""How long a wait may take, in seconds: machines are emulated, and others wait for the same processors."""


@contextlib.asynccontextmanager
async def running(api: FakeApi, mode: str = "nftables", *, target: Target | None = None) -> AsyncIterator[Daemon]:
    """Run a daemon in the namespace of this thread until its rules are proven; stopping it leaves them."""
    with contextlib.ExitStack() as stack:
        made = target or stack.enter_context(contextlib.closing(backends.BUILT[mode].open()))
        sweeper = Sweeper(stack.enter_context(contextlib.closing(Conntrack())), clock=clock.SYSTEM)
        daemon = Daemon(SETTINGS, Parts(api, made, sweeper, mode=mode))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(daemon.run())
            await api.until(lambda: bool(daemon.report()["verified"]), seconds=PATIENCE)
            yield daemon
            task.cancel()


def on_node(lab: PacketLab, course: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's course on a thread in the node's namespace."""
    netns.run_in(lab.node, lambda: asyncio.run(course()))


def goes_to(lab: PacketLab, words: str = "10.244.1.5 > 10.96.0.1:80/tcp") -> str:
    """Send a packet and say where it went."""
    (left,) = lab.send([oracle.parse(words, NODE)])
    if left is None:
        return "nowhere"
    return address.text(left.destination) if left.end == "sent" else left.end
