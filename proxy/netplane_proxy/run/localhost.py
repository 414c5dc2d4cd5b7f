"""Keep the table that brings NodePorts to the loopback addresses (plan/localhost) beside another backend."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from typing import Any

from netplane.kernel import process
from netplane.kernel.errors import KernelError
from netplane.kernel.nft.objects import Batch, Element
from netplane.kernel.nft.run import Kernel, Socket
from netplane.model.address import Family, Packed
from netplane_proxy.plan import localhost
from netplane_proxy.plan.forwarding import Forwarding, PortKey
from netplane_proxy.plan.ledger import Changes


def opened() -> Localhost | None:
    """Open it in the network namespace of this thread; None on a host without nft(8), or without nf_tables."""
    if shutil.which("nft") is None:
        return None
    with contextlib.suppress(KernelError), contextlib.ExitStack() as stack:
        kernel = stack.enter_context(contextlib.closing(Socket()))
        kernel.tables()
        made = Localhost(kernel)
        made.closing = stack.pop_all()
        return made
    return None


class Localhost:
    """The tables `ip netplane_localhost` and `ip6 netplane_localhost`."""

    def __init__(self, kernel: Kernel) -> None:
        """Take the kernel; `closing` closes it."""
        self.closing = contextlib.ExitStack()
        self._kernel = kernel
        self._speakers: dict[Family, Packed] = {}
        self._ports: dict[PortKey, frozenset[Element]] = {}
        self._generation = -1

    async def replace(self, forwarding: Forwarding) -> int:
        """Make the tables hold exactly this; a second time nothing is done. Return how many operations it took."""
        speakers = {family: localhost.speaker(forwarding.node, family) for family in Family}
        self._speakers = {family: ip for family, ip in speakers.items() if ip is not None}
        rows = forwarding.ports.items()
        self._ports = {key: ports for key, row in rows if (ports := localhost.ports(row))}
        there, batch, text = self._kernel.tables(), Batch(), ""
        for family, target in localhost.PORTS.items():
            own = self._speakers.get(family)
            if self._is_whole(family):
                continue
            if target.table in there or own is not None:
                text += localhost.removal(family) + (localhost.text(family, own) if own is not None else "")
            if own is not None:
                batch.add(target, self._wanted(family))
        if text:
            await self._kernel.load(text)
            self._kernel.commit(batch)
        self._generation = self._kernel.generation()
        return len(batch) + bool(text)

    def commit(self, changes: Changes) -> int:
        """Take these changes; no two Service ports share a NodePort."""
        batch = Batch()
        for family in self._speakers:
            ours = {key: row for key, row in changes.items() if key.family is family}
            had = {one for key in ours for one in self._ports.pop(key, ())}
            self._ports |= {key: ports for key, row in ours.items() if row and (ports := localhost.ports(row))}
            want = {one for key in ours for one in self._ports.get(key, ())}
            batch.remove(localhost.PORTS[family], sorted(had - want))
            batch.add(localhost.PORTS[family], sorted(want - had))
        if len(batch):
            self._kernel.commit(batch)
        return len(batch)

    def strange(self) -> str:
        """Say what somebody else changed; "" when all is as it should be."""
        now = self._kernel.generation()
        if now == self._generation:
            return ""
        found = [str(target.table) for family, target in localhost.PORTS.items() if not self._is_whole(family)]
        self._generation = now
        return f"somebody changed table {', '.join(found)}" if found else ""

    def accepted(self) -> int:
        """Return how many connections to NodePorts at loopback addresses there were since the tables are."""
        counted = 0
        for family, own in self._speakers.items():
            table = localhost.PORTS[family].table
            argv = ("nft", "-j", "list", "chain", *str(table).split(), localhost.counter(own))
            counted += sum(map(_packets, json.loads(process.run_sync(argv).text)["nftables"]))
        return counted

    async def cleanup(self) -> None:
        """Remove the tables."""
        self._speakers, self._ports = {}, {}
        there = self._kernel.tables()
        text = "".join(localhost.removal(one) for one, target in localhost.PORTS.items() if target.table in there)
        if text:
            await self._kernel.load(text)

    def _wanted(self, family: Family) -> list[Element]:
        return sorted({one for key, ports in self._ports.items() if key.family is family for one in ports})

    def _is_whole(self, family: Family) -> bool:
        target, own = localhost.PORTS[family], self._speakers.get(family)
        if target.table not in self._kernel.tables() or own is None:
            return target.table not in self._kernel.tables() and own is None
        if sorted(self._kernel.chains(target.table)) != sorted(
            localhost.chains(family, own) | localhost.counting(family, own)
        ):
            return False
        try:
            held = {element.key for element in self._kernel.dump(target)}
        except KernelError:
            return False
        return held == {element.key for element in self._wanted(family)}


def _packets(item: Mapping[str, Any]) -> int:
    """Return what a rule counted, among what nft(8) lists as JSON."""
    said = item.get("rule", {}).get("expr", ())
    return sum(int(one["counter"]["packets"]) for one in said if "counter" in one)
