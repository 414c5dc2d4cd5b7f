"""An agent without containers: Pods bound to its node run and are ready at once, terminating ones end at once.

Pods that shall not be started again (those of Jobs) have succeeded at once; what has an image `fails:…` has failed, or
never gets ready. As a program, `python instant_agent.py KUBECONFIG NODE`, it serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Never

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from netplane.kube import errors, meta
from netplane.kube.api import Api
from netplane.kube.client import Client, load
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
            phase, ready = _fate(pod["spec"])
            conditions = [
                workloads.condition("PodScheduled", since=now),
                workloads.condition("Ready", ready, since=now),
            ]
            status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
            await api.update(PODS, {**pod, "status": status}, subresource="status")
    except (errors.Conflict, errors.NotFound):
        return  # the next event tells the truth


def _fate(spec: Object) -> tuple[str, str]:
    """Return a Pod's phase and whether it is ready."""
    is_failing = any(each.get("image", "").startswith("fails:") for each in spec["containers"])
    if spec.get("restartPolicy", "Always") == "Always":
        return "Running", str(not is_failing)
    return "Failed" if is_failing else "Succeeded", "False"


async def _main(kubeconfig: str, name: str) -> None:
    async with Client(load(kubeconfig)) as api:
        await run(api, name, 1)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
