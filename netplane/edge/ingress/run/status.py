"""Write back to Ingresses: where they are reached, and what is wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from netplane.edge.ingress.plan.view import Finding
from netplane.kube import errors
from netplane.kube.api import Api
from netplane.kube.events import Recorder
from netplane.kube.types import INGRESSES, Key, Object
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.model import address

_LOG = log.get("ingress")
_AT_ONCE = 4
_REMIND_SECONDS = 1800.0
"""How often a fault that stands is told: an API server forgets an Event after an hour."""
_HANDOVER_SECONDS = 60.0
"""For how long a fault may be known here and still not have been told by a leader that has ended since."""


def rows(addresses: Iterable[str]) -> list[dict[str, str]]:
    """Return `status.loadBalancer.ingress` for these addresses and names."""
    return [{"ip" if address.is_address(one) else "hostname": one} for one in sorted(set(addresses))]


class Publisher:
    """Keeps `status.loadBalancer` of our Ingresses, tells each fault and reminds of it, while it leads the replicas."""

    def __init__(self, api: Api, recorder: Recorder, clock: clocks.Clock = clocks.SYSTEM) -> None:
        self._api = api
        self._recorder = recorder
        self._clock = clock
        self._leads = True
        self._told: dict[Finding, float] = {}
        self._since: dict[Finding, float] = {}
        self._wanted: dict[Key, list[dict[str, str]]] = {}
        self._has_work = asyncio.Event()

    def offer(
        self,
        objects: Mapping[Key, Object],
        mine: Iterable[Key],
        findings: Iterable[Finding],
        addresses: Iterable[str],
    ) -> None:
        """Take the newest reading. `run` writes; Events of faults that stand are renewed before they are forgotten."""
        current, published, now = set(findings), rows(addresses), self._clock.monotonic()
        self._since = {finding: self._since.get(finding, now) for finding in current}
        if not self._leads:
            return
        told = {finding: at for finding, at in self._told.items() if finding in current and now - at < _REMIND_SECONDS}
        for finding in sorted(current - told.keys(), key=lambda one: (one.key, one.message)):
            obj = objects.get(finding.key)
            if obj is not None:
                self._recorder.record(
                    {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", **obj},
                    "Warning",
                    finding.reason,
                    finding.message,
                )
        self._told = {finding: told.get(finding, now) for finding in current}
        ours = set(mine)
        for key, obj in objects.items():
            have = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
            if key in ours and published and _plain(have) != published:
                self._wanted[key] = published
            elif key not in ours and published and _plain(have) == published:
                self._wanted[key] = []  # It was ours until its class changed.
        if self._wanted:
            self._has_work.set()

    def lead(self, *, leads: bool) -> None:
        """Begin or cease to write. Who begins tells the faults that are new, and must be offered all anew."""
        self._leads = leads
        self._wanted.clear()
        now = self._clock.monotonic()
        self._told = {finding: now for finding, since in self._since.items() if now - since > _HANDOVER_SECONDS}

    async def run(self) -> None:
        """Write statuses until cancelled, some at a time; what fails for want of a server is tried again."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._write_all())

    async def _write_all(self) -> None:
        while True:
            await self._has_work.wait()
            while self._wanted:
                key, published = self._wanted.popitem()
                if not await self._write(key, published) and self._leads:
                    self._wanted.setdefault(key, published)
                    await asyncio.sleep(1.0)
            self._has_work.clear()

    async def _write(self, key: Key, published: list[dict[str, str]]) -> bool:
        change: dict[str, Any] = {"status": {"loadBalancer": {"ingress": published or None}}}
        try:
            await self._api.patch(INGRESSES, key[1], change, namespace=key[0], subresource="status")
        except errors.NotFound:
            return True
        except errors.ApiError as error:
            _LOG.warning("status not written", ingress="/".join(key), reason=str(error))
            return isinstance(error, errors.Forbidden | errors.Invalid)
        return True


def _plain(have: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{name: row[name] for name in ("ip", "hostname") if row.get(name)} for row in have]
