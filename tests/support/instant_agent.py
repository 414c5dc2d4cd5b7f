"""An agent without containers: Pods bound to its node run and are ready at once, terminating ones end at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Never

from netplane.kube import errors, meta
from netplane.kube.api import Api
from netplane.kube.informer import Informers, Query
from netplane.kube.types import NODES, PODS, Object, key_of
from netplane.lib import clock
from tests.support import workloads


async def run(api: Api, name: str, number: int) -> Never:
    """Register a Node and serve it until cancelled."""
    node = workloads.node(name)
    del node["metadata"]["uid"], node["metadata"]["resourceVersion"]
    await api.create(NODES, node)
    await api.patch(NODES, name, {"status": node["status"]}, subresource="status")
    informers = Informers(api, [Query(PODS, field_selector=f"spec.nodeName={name}")])
    addresses = iter(f"10.244.{number}.{last}" for last in range(2, 250))
    async with asyncio.TaskGroup() as group:
        group.create_task(informers.run())
        async for batch in informers.batches():
            for change in batch.changes:
                if change.new is not None:
                    await _serve(api, change.new, addresses)
    raise AssertionError("batches never end")


async def _serve(api: Api, pod: Object, addresses: Iterator[str]) -> None:
    namespace, name = key_of(pod)
    try:
        if meta.is_deleting(pod):
            await api.delete(PODS, name, namespace=namespace, grace_seconds=0)
        elif not pod.get("status", {}).get("podIP"):
            address = next(addresses)
            now = clock.rfc3339(clock.SYSTEM.now())
            conditions = [workloads.condition(kind, since=now) for kind in ("PodScheduled", "Ready")]
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
            await api.update(PODS, {**pod, "status": status}, subresource="status")
    except (errors.Conflict, errors.NotFound):
        return  # the next event tells the truth
