"""Make this machine a node of the cluster and keep saying that it lives: Node, its status, its Lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Never

from netplane.agent.node import machine, objects
from netplane.agent.node.objects import Identity
from netplane.agent.runtime.protocol import Runtime
from netplane.kube import errors, meta
from netplane.kube.api import Api
from netplane.kube.types import LEASES, NODES, Object
from netplane.lib import clock as clocks
from netplane.lib import log, notify
from netplane.lib.outage import Backoff, Outage

RENEW = 10.0
SILENCE = 20.0
"""Seconds without a Lease after which the node may have been taken for lost: half a usual grace period."""
LOOK = 10.0
LOOK_UNREADY = 0.5
REPORT = 300.0
FIRST_RETRY, LONGEST_RETRY = 0.2, 7.0
"""Seconds between tries while the API is away, as client-go's node leases have it (backoffEnsureLease)."""

_log = log.get("agent.node")


class Registration:
    """This node in the API. `images` lists what the status tells of images, `held` is the Node as the API has it."""

    def __init__(
        self,
        api: Api,
        identity: Identity,
        runtime: Runtime,
        *,
        disk: Path,
        clock: clocks.Clock,
        images: Callable[[], Sequence[Object]] = tuple,
        held: Callable[[], Object | None] = lambda: None,
    ) -> None:
        self._api = api
        self._identity = identity
        self._runtime = runtime
        self._disk = disk
        self._clock = clock
        self._images = images
        self._held = held
        self._machine = machine.machine(disk)
        self._uid = ""
        self._sent: Object = {}
        self._sent_at = 0.0
        self._wake = asyncio.Event()
        self.registered = asyncio.Event()
        self.is_ready = False

    @property
    def memory(self) -> int:
        """The machine's memory in bytes."""
        return self._machine.memory

    @property
    def capacity(self) -> dict[str, str]:
        """What the node offers to pods."""
        return objects.capacity(self._identity, self._machine)

    async def run(self) -> Never:
        """Register, then keep status and Lease fresh until cancelled. The API being away is waited out."""
        await self._register()
        self.registered.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease())
            group.create_task(self._keep_status())
        raise AssertionError("both go on for ever")

    async def _register(self) -> None:
        outage = self._outage("not registered yet", "registered at last")
        while True:
            try:
                await self._ensure_node()
                outage.ended()
                return
            except errors.ApiError as error:
                delay = outage.failed(error)
                notify.status(f"cannot register: {error}")
            await self._clock.sleep(delay)

    def _outage(self, lost: str, back: str) -> Outage:
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        return Outage(_log.bind(node=self._identity.name), self._clock, lost=lost, back=back, backoff=backoff)

    async def _ensure_node(self) -> None:
        wanted = objects.node(self._identity, self._machine)
        try:
            found = await self._api.create(NODES, wanted)
            _log.info("node registered", node=self._identity.name)
        except errors.AlreadyExists:
            patch = {"metadata": {"labels": wanted["metadata"]["labels"]}}
            found = await self._api.patch(NODES, self._identity.name, patch)
        self._uid = meta.uid(found)
        self._sent = {"conditions": (found.get("status") or {}).get("conditions") or []}
        self._sent_at = 0.0

    async def _keep_status(self) -> Never:
        outage = self._outage("node status not sent", "node status sent again")
        while True:
            try:
                if await self._report():
                    outage.ended()
            except errors.NotFound:
                _log.warning("node was deleted; registering again", node=self._identity.name)
                await self._register()
                continue
            except errors.ApiError as error:
                await self._pause(outage.failed(error))
                continue
            await self._pause(LOOK if self.is_ready else LOOK_UNREADY)

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        async with asyncio.TaskGroup() as group:
            over = [group.create_task(self._clock.sleep(seconds)), group.create_task(self._wake.wait())]
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            for task in over:
                task.cancel()

    async def _report(self) -> bool:
        """Send the status where it is due, and tell whether it was."""
        state = await self._runtime.status()
        self.is_ready = state.network.ok and state.runtime.ok
        now = self._clock.now()
        status = objects.status(
            self._identity,
            self._machine,
            machine.pressure(self._disk),
            state,
            before=self._sent.get("conditions") or [],
            now=now,
            images=self._images(),
        )
        is_due = self._clock.monotonic() - self._sent_at >= REPORT or not self._sent_at
        # Others write conditions too: who took the node for lost may do so just when it comes back (as the kubelet,
        # which compares with what the API holds each time).
        is_contradicted = objects.contradicts(self._held() or {}, status)
        if not is_due and not is_contradicted and not objects.differs(self._sent, status):
            return False
        # A merge patch would take away conditions of others, such as NetworkUnavailable. Addresses are ours alone, and
        # their merge key, the type, occurs twice on a node with both IP families.
        body = {"status": status | {"addresses": [*status["addresses"], {"$patch": "replace"}]}}
        await self._api.patch(NODES, self._identity.name, body, kind="strategic", subresource="status")
        self._sent, self._sent_at = status, self._clock.monotonic()
        return True

    async def _keep_lease(self) -> Never:
        outage = self._outage("lease not renewed", "lease renewed again")
        is_made = False
        renewed = self._clock.monotonic()
        while True:
            try:
                await (self._renew_lease() if is_made else self._make_lease())
                is_made, delay = True, RENEW
                outage.ended()
                if self._clock.monotonic() - renewed > SILENCE:
                    # Meanwhile the node may have been taken for lost; that its status is what it was has to be said.
                    self._sent_at = 0.0
                    self._wake.set()
                renewed = self._clock.monotonic()
            except errors.ApiError as error:
                is_made = is_made and not isinstance(error, errors.NotFound)
                delay = outage.failed(error)
            await self._clock.sleep(delay)

    async def _renew_lease(self) -> None:
        renewal: dict[str, Any] = {"spec": {"renewTime": clocks.rfc3339_micro(self._clock.now())}}
        await self._api.patch(LEASES, self._identity.name, renewal, namespace=objects.LEASE_NAMESPACE)

    async def _make_lease(self) -> None:
        wanted = objects.lease(self._identity, self._clock.now(), self._uid)
        try:
            await self._api.create(LEASES, wanted)
        except errors.AlreadyExists:
            patch = {"spec": wanted["spec"], "metadata": {"ownerReferences": wanted["metadata"]["ownerReferences"]}}
            await self._api.patch(LEASES, self._identity.name, patch, namespace=objects.LEASE_NAMESPACE)
