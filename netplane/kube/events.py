"""Tell users what happened to an object, as core/v1 Events. What is worth telling is the caller's to decide."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Never

from netplane.kube import errors, meta
from netplane.kube.api import Api
from netplane.kube.types import EVENTS, Object
from netplane.lib import clock as clocks
from netplane.lib import log

EventKind = Literal["Normal", "Warning"]

_LOG = log.get("events")
_WAITING_MOST = 1000
_SERIES_MOST = 4096
_BURST = 25
_REFILL_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Report:
    obj: Mapping[str, Any]
    type: EventKind
    reason: str
    message: str
    moment: str

    @property
    def series(self) -> tuple[str, str, str, str]:
        """What reports have in common that are told as one Event with a count."""
        subject = meta.uid(self.obj) or self.obj["metadata"]["name"]
        return subject, self.type, self.reason, self.message


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    count: int


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


class Recorder:
    """Records Events of one component. `record` returns at once; `run` sends, and must run in a TaskGroup.

    A repetition raises the count of the Event there is; beyond 25 at once and one in 5 minutes for each object,
    reports are dropped, as client-go does.
    """

    def __init__(self, api: Api, component: str, clock: clocks.Clock = clocks.SYSTEM, *, host: str = "") -> None:
        self._api = api
        self._component = component
        self._host = host
        self._clock = clock
        self._waiting: asyncio.Queue[_Report] = asyncio.Queue(_WAITING_MOST)
        self._series: dict[tuple[str, str, str, str], _Series] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._sent = 0

    def record(self, obj: Mapping[str, Any], type_: EventKind, reason: str, message: str) -> None:
        """Report on an object. Never raises and never waits; when too many wait, the report is dropped."""
        if not self._has_token(meta.uid(obj) or str(obj["metadata"]["name"])):
            return
        report = _Report(obj, type_, reason, message[:1024], clocks.rfc3339(self._clock.now()))
        try:
            self._waiting.put_nowait(report)
        except asyncio.QueueFull:
            _LOG.debug("event dropped", reason=reason, message=message)

    async def run(self) -> Never:
        """Send what is recorded until cancelled."""
        while True:
            report = await self._waiting.get()
            try:
                await self._send(report)
            except errors.ApiError as error:
                _LOG.debug("event not sent", reason=report.reason, cause=str(error))
            finally:
                self._waiting.task_done()

    async def flush(self) -> None:
        """Wait until `run` has sent or given up everything recorded so far."""
        await self._waiting.join()

    async def _send(self, report: _Report) -> None:
        series = self._series.get(report.series)
        if series is not None:
            series.count += 1
            patch = {"count": series.count, "lastTimestamp": report.moment}
            try:
                await self._api.patch(EVENTS, series.name, patch, namespace=series.namespace)
                return
            except errors.NotFound:
                del self._series[report.series]  # It expired: tell it anew.
        event = self._event(report)
        await self._api.create(EVENTS, event)
        while len(self._series) >= _SERIES_MOST:
            del self._series[next(iter(self._series))]
        metadata = event["metadata"]
        self._series[report.series] = _Series(metadata["name"], metadata["namespace"], 1)

    def _event(self, report: _Report) -> Object:
        reference = meta.object_reference(report.obj)
        self._sent += 1
        stamp = f"{int(self._clock.now().timestamp() * 1e6):x}{self._sent & 0xFFF:03x}"
        namespace = reference.get("namespace") or "default"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{reference['name']}.{stamp}", "namespace": namespace},
            "involvedObject": reference,
            "type": report.type,
            "reason": report.reason,
            "message": report.message,
            "count": 1,
            "firstTimestamp": report.moment,
            "lastTimestamp": report.moment,
            "eventTime": None,
            "source": {"component": self._component, **({"host": self._host} if self._host else {})},
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }

    def _has_token(self, subject: str) -> bool:
        moment = self._clock.monotonic()
        bucket = self._buckets.pop(subject, None) or _Bucket(_BURST, moment)
        bucket.tokens = min(_BURST, bucket.tokens + (moment - bucket.filled) / _REFILL_SECONDS)
        bucket.filled = moment
        self._buckets[subject] = bucket
        if len(self._buckets) > _SERIES_MOST:
            del self._buckets[next(iter(self._buckets))]
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
