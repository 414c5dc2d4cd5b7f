"""A node's cables in memory, and a switch that kills the daemon at any step: for tests without a kernel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from netplane.kernel.conntrack import Flow
from netplane.kernel.errors import KernelError
from netplane.kernel.link.objects import Link
from netplane.kernel.nft import fake as nft
from netplane.lib.clock import Clock
from netplane.lib.clock import Fake as FakeClock
from netplane.model import address
from netplane_cni import spec
from netplane_cni.plan import attach, masquerade
from netplane_cni.plan.attach import Wiring
from netplane_cni.plan.ipam import Lease, Pool
from netplane_cni.run.attach import Found
from netplane_cni.run.leases import Journal
from netplane_cni.run.rules import Rules
from netplane_cni.run.translation import Translation
from netplane_cni.run.verbs import Prepared, Verbs


class Killed(BaseException):
    """The daemon's process ended here."""


@dataclass
class Chaos:
    """Ends the daemon after so many steps; never when `left` is None."""

    left: int | None = None

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


@dataclass
class Cables:
    """What the kernel holds: it stays when the daemon is killed. `refusal` is raised by the next `wire`."""

    chaos: Chaos = field(default_factory=Chaos)
    there: dict[str, Found] = field(default_factory=dict)
    wired: set[str] = field(default_factory=set)
    refusal: KernelError | None = None
    faulty: list[str] = field(default_factory=list)

    async def wire(self, wiring: Wiring, namespace: int) -> None:
        lease = wiring.lease
        self.chaos.step()
        self.there.pop(lease.link, None)
        self.chaos.step()
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        self.there[lease.link] = Found(Link(9, lease.link, "veth", group=attach.GROUP), ())
        self.chaos.step()
        alias = attach.alias(lease.container, lease.ifname)
        self.there[lease.link] = Found(Link(9, lease.link, "veth", group=attach.GROUP, alias=alias), lease.addresses)
        self.chaos.step()
        self.wired.add(lease.link)

    async def leave(self, lease: Lease) -> None:
        self.chaos.step()
        found = self.there.get(lease.link)
        if found is not None:
            self.there[lease.link] = Found(Link(9, lease.link, "veth", group=attach.LEAVING_GROUP), ())
        self.chaos.step()

    async def sweep(self) -> None:
        self.chaos.step()
        self.there = {name: found for name, found in self.there.items() if found.link.group != attach.LEAVING_GROUP}
        self.chaos.step()

    async def remove(self, name: str, lease: Lease | None = None) -> None:
        self.chaos.step()
        self.there.pop(name, None)

    async def found(self) -> dict[str, Found]:
        self.chaos.step()
        return dict(self.there)

    async def faults(self, wiring: Wiring, namespace: int) -> list[str]:
        return self.faulty


@dataclass
class Flows:
    """The flows that are tracked."""

    there: list[Flow] = field(default_factory=list)

    def flows(self, family: int) -> list[Flow]:
        return [flow for flow in self.there if (len(flow.source) == 4) == (family == 2)]

    def delete(self, flows: Iterable[Flow]) -> int:
        gone = list(flows)
        self.there = [flow for flow in self.there if flow not in gone]
        return len(gone)


class TestedJournal(Journal):
    """A journal whose writes count as steps, before and after."""

    def __init__(self, folder: str, clock: Clock, chaos: Chaos) -> None:
        super().__init__(folder, clock)
        self._chaos = chaos

    def _write(self, data: bytes) -> None:
        self._chaos.step()
        super()._write(data)
        self._chaos.step()


class Node:
    """The plugin on one node, which can be killed and started again."""

    def __init__(self, folder: Path, cidr: str = "10.244.1.0/28", *, cool_down: float = 0.0) -> None:
        self.folder = folder
        self.pools = (Pool(address.prefix(cidr)),)
        self.cool_down = cool_down
        self.clock = FakeClock()
        self.chaos = Chaos()
        self.cables = Cables(self.chaos)
        self.nft = nft.Kernel()
        self.flows = Flows()
        self.boot = "boot-1"
        self.verbs: Verbs
        self.journal: Journal

    async def start(self) -> None:
        self.journal = TestedJournal(str(self.folder / "state"), self.clock, self.chaos)
        self.journal.open()
        rules = Translation(Rules(self.nft), self.flows, self._facts)
        self.verbs = Verbs(self.journal, self.cables, rules, clock=self.clock, boot=self.boot, cool_down=self.cool_down)
        self.verbs.prepared = Prepared(self.pools, 1450)
        await self.verbs.recover()

    def stop(self) -> None:
        self.journal.close()

    async def call(self, command: str, container: str, **config: object) -> dict[str, object]:
        """Call the plugin for a container, whose namespace is a plain file here."""
        path = self.folder / container
        path.touch()
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(path),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}",
        }
        stdin = json.dumps({"cniVersion": "1.1.0", "name": "netplane", **config}).encode()
        opened = os.open(path, os.O_RDONLY)
        try:
            answer = await self.verbs.call(spec.decode(environment, stdin), opened)
        finally:
            os.close(opened)
        found: dict[str, object] = json.loads(answer or b"{}")
        return found

    async def add(self, container: str, **config: object) -> str:
        """ADD and return the address given."""
        result = await self.call("ADD", container, **config)
        ips = result["ips"]
        assert isinstance(ips, list)
        return str(ips[0]["address"]).partition("/")[0]

    async def delete(self, container: str) -> None:
        await self.call("DEL", container)
        (self.folder / container).unlink(missing_ok=True)

    def _facts(self) -> masquerade.Facts:
        leases = tuple(self.verbs.leases)
        node = (address.parse("172.30.0.11"),)
        return masquerade.Facts(tuple(pool.prefix for pool in self.pools), (), leases, node=node)
