"""Read the node's addresses, and hear when they change. Which of them NodePorts stand on is plan/host's."""

from __future__ import annotations

import asyncio

from netplane.kernel.link import events
from netplane.kernel.link.run import Socket
from netplane.model.address import Packed
from netplane_proxy.run.ipvs.host import LINK


class Addresses:
    """The addresses of the network namespace of the thread that made it."""

    def __init__(self) -> None:
        """Listen from now on. KernelError when that is refused."""
        self._links = Socket()
        try:
            self._monitor = events.Monitor(groups=events.ADDRESSES)
        except BaseException:
            self._links.close()
            raise

    def close(self) -> None:
        """Let go of the kernel."""
        self._monitor.close()
        self._links.close()

    def read(self) -> tuple[Packed, ...]:
        """Return them, without those that stand there for IPVS alone."""
        ours = self._links.link(LINK)
        found = (one for one in self._links.addresses() if ours is None or one.index != ours.index)
        return tuple(sorted({one.address for one in found}))

    async def changed(self) -> None:
        """Wait until some came or went, since the last time at the latest."""
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._monitor.fileno(), heard.set)
        try:
            await heard.wait()
        finally:
            loop.remove_reader(self._monitor.fileno())
        self._monitor.take()
