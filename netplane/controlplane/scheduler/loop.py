"""Bind pending Pods to Nodes: follow the cluster, decide in order of priority, bind, and tell why when nothing fits."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import Any, Never

from netplane.controlplane.scheduler import facts
from netplane.controlplane.scheduler.cluster import Cluster
from netplane.controlplane.scheduler.decide import Placed, Unplaced, decide
from netplane.kube import errors, events, meta
from netplane.kube.api import Api
from netplane.kube.informer import Batch, Informers, Query
from netplane.kube.types import NAMESPACES, NODES, PODS, Key, Object
from netplane.lib import clock as clocks
from netplane.lib import log, metrics

_LOG = log.get("scheduler")
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 10.0
_AT_ONCE = 32
_TURN_SECONDS = 0.01

_ATTEMPTS = metrics.counter("scheduler_schedule_attempts_total", "Pods looked at.", ["result"])
_DECIDED = metrics.histogram("scheduler_scheduling_algorithm_duration_seconds", "How long a decision took.")
_PENDING = metrics.gauge("scheduler_pending_pods", "Pods not bound.", ["queue"])


async def run(api: Api, *, clock: clocks.Clock = clocks.SYSTEM) -> Never:
    """Schedule until cancelled."""
    await Scheduler(api, clock=clock).run()
    raise AssertionError("the scheduler never ends")


class Scheduler:
    """The scheduler at work: pending Pods are ready to be looked at, or wait for the cluster to change."""

    def __init__(self, api: Api, *, clock: clocks.Clock = clocks.SYSTEM) -> None:
        self.cluster = Cluster()
        self._api = api
        self._clock = clock
        self._informers = Informers(
            api,
            [
                Query(PODS, transform=_pod),
                Query(NODES, transform=_node),
                Query(NAMESPACES, transform=lambda obj: dict(meta.labels(obj))),
            ],
            clock=clock,
        )
        self._recorder = events.Recorder(api, facts.SCHEDULER, clock)
        self._order = itertools.count()
        self._ready: list[tuple[int, str, int, Key]] = []
        self._pending: dict[Key, facts.Pod] = {}
        self._queued: set[Key] = set()
        self._assumed: dict[Key, str] = {}
        self._attempts: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._work = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> Never:
        """Follow, decide and bind until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._informers.run())
                group.create_task(self._recorder.run())
                group.create_task(self._follow())
                await self._schedule(group)
        finally:
            for timer in self._timers.values():
                timer.cancel()
        raise AssertionError("the scheduler never ends")

    async def _follow(self) -> None:
        async for batch in self._informers.batches():
            self._take(batch)

    def _take(self, batch: Batch) -> None:
        helps = False
        for change in batch.changes:
            if change.resource == PODS:
                helps |= self._take_pod(change.key, change.new)
            elif change.resource == NODES:
                helps = True
                if change.new is None:
                    self.cluster.remove_node(change.key[1])
                else:
                    self.cluster.set_node(change.new)
            elif change.new is None:
                self.cluster.namespaces.pop(change.key[1], None)
            else:
                self.cluster.namespaces[change.key[1]] = change.new
        if helps:
            self._retry_all()

    def _take_pod(self, key: Key, pod: facts.Pod | None) -> bool:
        """Take in a Pod; return whether waiting ones may fit now: something left, or a neighbour came."""
        held = self._pending.get(key)
        if pod is not None and pod.is_pending:
            self._pending[key] = pod
            if held is not None and held.uid != pod.uid:
                self._drop(key)
                self._pending[key] = pod
            if key not in self._assumed and (held is None or _demands(held) != _demands(pod)):
                self._queue(key)
            return False
        self._drop(key)
        before = self.cluster.node_of(key)
        if pod is None:
            self.cluster.remove_pod(key)
        else:
            self.cluster.set_pod(pod)
        return bool(before) != bool(self.cluster.node_of(key)) or (pod is not None and pod.is_deleting)

    def _drop(self, key: Key) -> None:
        self._pending.pop(key, None)
        self._assumed.pop(key, None)
        self._attempts.pop(key, None)
        self._not_before.pop(key, None)
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def _queue(self, key: Key) -> None:
        pod = self._pending.get(key)
        if pod is None or key in self._queued or key in self._assumed:
            return
        self._queued.add(key)
        heapq.heappush(self._ready, (-pod.priority, pod.created, next(self._order), key))
        self._work.set()

    def _retry_all(self) -> None:
        """Look again at all Pods that wait, each not sooner than its back-off allows."""
        for key in self._pending:
            if key not in self._queued and key not in self._assumed and key not in self._timers:
                self._queue_when_due(key)

    def _queue_when_due(self, key: Key) -> None:
        wait = self._not_before.get(key, 0.0) - self._clock.monotonic()
        if wait <= 0:
            self._queue(key)
        else:
            self._timers[key] = asyncio.get_running_loop().call_later(wait, self._ring, key)

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self._queue(key)

    async def _schedule(self, group: asyncio.TaskGroup) -> None:
        """Decide on one Pod after the other, letting others run every few milliseconds."""
        turn = self._clock.monotonic()
        while True:
            if not self._ready:
                self._work.clear()
                _PENDING.labels("unschedulable").set(len(self._pending) - len(self._assumed))
                await self._work.wait()
                turn = self._clock.monotonic()
            *_, key = heapq.heappop(self._ready)
            self._queued.discard(key)
            pod = self._pending.get(key)
            if pod is None or key in self._assumed:
                continue
            self._look(pod, group)
            if self._clock.monotonic() - turn > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn = self._clock.monotonic()

    def _look(self, pod: facts.Pod, group: asyncio.TaskGroup) -> None:
        began = self._clock.monotonic()
        outcome = self._outcome(pod)
        _DECIDED.observe(self._clock.monotonic() - began)
        self._attempts[pod.key] = attempts = self._attempts.get(pod.key, 0) + 1
        self._not_before[pod.key] = began + min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(attempts, 20))
        if isinstance(outcome, Placed):
            _ATTEMPTS.labels("scheduled").inc()
            self._assumed[pod.key] = outcome.node
            self.cluster.set_pod(pod, outcome.node)
            group.create_task(self._bind(pod, outcome.node))
        else:
            _ATTEMPTS.labels("unschedulable").inc()
            group.create_task(self._tell(pod, outcome))

    def _outcome(self, pod: facts.Pod) -> Placed | Unplaced:
        try:
            return decide(self.cluster, pod)
        except Exception:  # one strange Pod must not end the control plane
            _LOG.exception("decision failed", pod="/".join(pod.key))
            return Unplaced("the scheduler failed on this pod; its log says why")

    async def _bind(self, pod: facts.Pod, node: str) -> None:
        namespace, name = pod.key
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"namespace": namespace, "name": name, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            async with self._slots:
                await self._api.create(PODS, binding, name=name, subresource="binding")
        except errors.ApiError as error:
            _LOG.info("binding refused", pod=f"{namespace}/{name}", node=node, cause=str(error))
            self._unassume(pod)
            return
        self._recorder.record(
            pod.reference, "Normal", "Scheduled", f"Successfully assigned {namespace}/{name} to {node}"
        )

    def _unassume(self, pod: facts.Pod) -> None:
        if self._assumed.pop(pod.key, None) is None:
            return
        self.cluster.remove_pod(pod.key)
        if pod.key in self._pending and pod.key not in self._timers:
            self._queue_when_due(pod.key)
        self._retry_all()

    async def _tell(self, pod: facts.Pod, why: Unplaced) -> None:
        self._recorder.record(pod.reference, "Warning", "FailedScheduling", why.message)
        if pod.told == why.message:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": why.message,
            "lastProbeTime": None,
            "lastTransitionTime": clocks.rfc3339(self._clock.now()),
        }
        patch: dict[str, Any] = {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}
        try:
            async with self._slots:
                await self._api.patch(
                    PODS, pod.key[1], patch, namespace=pod.key[0], kind="strategic", subresource="status"
                )
        except errors.ApiError as error:
            _LOG.debug("condition not written", pod="/".join(pod.key), cause=str(error))


def _demands(pod: facts.Pod) -> tuple[object, ...]:
    """Return what a Pod asks for: a change of it is worth a new look, a change of its own condition is not."""
    return pod.requests, pod.demand, pod.tolerations, pod.near, pod.apart, pod.spread, pod.labels, pod.uid, pod.is_gated


def _pod(obj: Object) -> facts.Pod:
    try:
        return facts.pod(obj)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no Pod the scheduler understands: {error!r}") from error


def _node(obj: Object) -> facts.Node:
    try:
        return facts.node(obj)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no Node the scheduler understands: {error!r}") from error
