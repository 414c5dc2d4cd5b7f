"""A kernel backend for tests of the daemon: it holds rows, and fails, forgets and tells of drift on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from netplane.kernel.errors import KernelError
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts, PortForwarding, PortKey
from netplane_proxy.plan.ledger import Changes
from netplane_proxy.run.target import Result


class FakeTarget:
    """Implements `Target` in memory."""

    def __init__(self) -> None:
        self.rows: dict[PortKey, PortForwarding] = {}
        self.node = NodeFacts()
        self.acts: list[str] = []
        self.failures: list[KernelError] = []
        self.is_closed = False
        self.is_free = asyncio.Event()
        """Until it is set, a comparison takes."""
        self.is_free.set()
        self._drift: asyncio.Queue[str] = asyncio.Queue()

    async def replace(self, forwarding: Forwarding) -> Result:
        self._fail()
        self.acts.append("replace")
        keys = {*self.rows, *forwarding.ports}
        operations = sum(self.rows.get(key) != forwarding.ports.get(key) for key in keys)
        operations += self.node != forwarding.node
        self.rows, self.node = dict(forwarding.ports), forwarding.node
        await self.is_free.wait()
        return Result(operations)

    async def commit(self, changes: Changes, revision: str) -> Result:
        self._fail()
        self.acts.append("commit")
        for key, row in changes.items():
            if row is None:
                del self.rows[key]
            else:
                self.rows[key] = row
        return Result(len(changes))

    async def drift(self) -> AsyncIterator[str]:
        while True:
            yield await self._drift.get()

    async def cleanup(self) -> None:
        self.rows.clear()

    def close(self) -> None:
        self.is_closed = True

    def interfere(self) -> None:
        """Drop everything behind the daemon's back, and tell."""
        self.rows.clear()
        self.tell("pid 812 (nft) flushed table ip netplane")

    def tell(self, line: str) -> None:
        """Tell of a foreign change."""
        self._drift.put_nowait(line)

    @property
    def is_told(self) -> bool:
        """Whether the daemon has taken every line."""
        return self._drift.empty()

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
