"""Send a pod's status to the API: the newest only, what matters to traffic at once, the rest gathered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from netplane.agent.pods.spec import Pod
from netplane.agent.pods.status import OWN_CONDITIONS, PASSING_CONDITIONS
from netplane.kube import errors
from netplane.kube.api import Api
from netplane.kube.types import PODS, Object
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.lib.outage import Backoff, Outage

GATHER = 0.25
"""Seconds that a status without urgency waits for a better one: a pod that starts fast is reported once, as running."""
FIRST_RETRY, LONGEST_RETRY = 0.5, 10.0

_log = log.get("agent")


class Report:
    """The status of one pod on its way to the API."""

    def __init__(self, api: Api, pod: Pod, clock: clocks.Clock) -> None:
        self._api = api
        self._pod = pod
        self._clock = clock
        self._sent: Mapping[str, Any] = pod.status
        self._wanted: Object | None = None
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def latest(self) -> Mapping[str, Any]:
        """The newest status, sent or not: its transition times hold."""
        return self._wanted if self._wanted is not None else self._sent

    def offer(self, status: Object) -> None:
        """Send this, unless a newer one comes first."""
        if status == self.latest:
            return
        if _is_urgent(self.latest, status):
            self._urgent.set()
        self._wanted = status
        self._idle.clear()
        self._changed.set()

    async def flush(self) -> None:
        """Wait until the newest status is with the API, or the API has no such pod."""
        self._urgent.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Send until cancelled."""
        logger = _log.bind(pod=f"{self._pod.namespace}/{self._pod.name}")
        backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)
        outage = Outage(logger, self._clock, lost="pod status not sent", back="pod status sent again", backoff=backoff)
        while True:
            await self._changed.wait()
            if not self._urgent.is_set():
                await clocks.wait(self._urgent, GATHER, self._clock)
            self._changed.clear()
            self._urgent.clear()
            status = self._wanted
            if status is None:
                continue
            try:
                await self._send(status)
                outage.ended()
            except errors.ApiError as error:
                self._changed.set()
                await self._clock.sleep(outage.failed(error))

    async def _send(self, status: Object) -> None:
        patch = _patch(self._sent, status)
        try:
            if patch:
                body = {"metadata": {"uid": self._pod.uid}, "status": patch}
                place = self._pod.namespace
                await self._api.patch(
                    PODS, self._pod.name, body, namespace=place, kind="strategic", subresource="status"
                )
        except (errors.NotFound, errors.Conflict, errors.Invalid) as error:
            # Gone, or another pod of that name by now: nobody to report to.
            _log.debug("pod status refused", pod=self._pod.name, error=str(error))
        self._sent = status
        if self._wanted is status:
            self._wanted = None
            self._idle.set()
        else:
            self._changed.set()


def _is_urgent(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether traffic depends on it: readiness, an address, the end."""
    if before.get("phase") in (None, "Pending") and after["phase"] == "Pending" and not _ready(before):
        return False
    return (
        before.get("phase") != after["phase"]
        or _ready(before) != _ready(after)
        or before.get("podIPs") != after.get("podIPs")
    )


def _ready(status: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())


def _patch(sent: Mapping[str, Any], status: Object) -> Object:
    """Return what changed, as a strategic merge patch: only our conditions, and addresses that went are deleted."""
    patch = {key: value for key, value in status.items() if sent.get(key) != value}
    if "conditions" in patch:
        # Entries are merged by type: what a condition says no longer must be taken away by name.
        silent = {"reason": None, "message": None}
        ours = {c["type"] for c in patch["conditions"]} & {*OWN_CONDITIONS, *PASSING_CONDITIONS}
        gone = {c["type"] for c in sent.get("conditions") or ()} & {*PASSING_CONDITIONS} - ours
        patch["conditions"] = [{**silent, **c} for c in patch["conditions"] if c["type"] in ours]
        patch["conditions"] += [{"type": kind, "$patch": "delete"} for kind in sorted(gone)]
    for key in ("podIPs", "hostIPs"):
        if key in patch:
            stays = {entry["ip"] for entry in patch[key]}
            left = [entry["ip"] for entry in sent.get(key) or () if entry["ip"] not in stays]
            patch[key] = [*patch[key], *({"ip": ip, "$patch": "delete"} for ip in left)]
    return patch
