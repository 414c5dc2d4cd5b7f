"""Read the node's addresses, and hear when they change. Which of them NodePorts stand on is plan/host's."""

from __future__ import annotations

import asyncio

from netplane.kernel.link import events
from netplane.kernel.link.run import Socket
from netplane.model.address import Packed
from netplane_proxy.run.ipvs.host import LINK


class Addresses:
    """The addresses of the network namespace of the thread that made it."""

    def __init__(self, *, are_followed: bool) -> None:
        """Listen from now on if they `are_followed`. KernelError when that is refused."""
        self._links = Socket()
        self._monitor: events.Monitor | None = None
        try:
            if are_followed:
                self._monitor = events.Monitor(groups=events.ADDRESSES)
        except BaseException:
            self._links.close()
            raise

    def close(self) -> None:
        """Let go of the kernel."""
        if self._monitor is not None:
            self._monitor.close()
        self._links.close()

    def read(self) -> tuple[Packed, ...]:
        """Return them, without those that stand there for IPVS alone."""
        ours = self._ours()
        return tuple(sorted({one.address for one in self._links.addresses() if one.index != ours}))

    async def changed(self) -> None:
        """Wait until some came or went, since the last time at the latest. Those for IPVS come and go with Services."""
        if self._monitor is None:
            raise RuntimeError("addresses that are not followed are waited for")
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._monitor.fileno(), heard.set)
        try:
            while True:
                await heard.wait()
                heard.clear()
                ours = self._ours()
                if any(one.kind == "lost" or one.index != ours for one in self._monitor.take()):
                    return
        finally:
            loop.remove_reader(self._monitor.fileno())

    def _ours(self) -> int:
        link = self._links.link(LINK)
        return 0 if link is None else link.index
