"""Keep our nftables tables as plan/masquerade writes them, one transaction at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from netplane.kernel.nft.objects import IPV4, IPV6, Table
from netplane_cni.plan import masquerade

Facts = Callable[[], masquerade.Facts]
TABLES = (Table(IPV4, masquerade.TABLE), Table(IPV6, masquerade.TABLE))


class Kernel(Protocol):
    """What is needed of nf_tables; `nft.run.Socket` is the kernel's."""

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction."""

    def fingerprint(self, table: Table) -> str:
        """Return a hash of a table's chains and rules as the kernel holds them."""


class Rules:
    """The tables of this node. Changes that come while one is being made share the next transaction."""

    def __init__(self, kernel: Kernel, facts: Facts) -> None:
        self._kernel = kernel
        self._facts = facts
        self._lock = asyncio.Lock()
        self._loaded = ""
        self._prints: tuple[str, ...] = ()

    async def bring_up_to_date(self, *, must_look: bool = False) -> int:
        """Return once the kernel holds what the facts want, and how many transactions that took.

        With `must_look` the kernel is asked whether somebody else has changed the rules since.
        """
        async with self._lock:
            text = masquerade.text(self._facts())
            if text == self._loaded and not (must_look and self._seen() != self._prints):
                return 0
            self._loaded = ""
            await self._kernel.load(text)
            self._loaded, self._prints = text, self._seen()
            return 1

    def _seen(self) -> tuple[str, ...]:
        return tuple(self._kernel.fingerprint(table) for table in TABLES)
