"""Open the stores under test: the same claims are made of SQLite's and of etcd's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from netplane.controlplane.store import embedded, history, protocol
from netplane.controlplane.store.etcd import body, client
from netplane.kube.types import Object

PODS = "pods"
LEASES = "leases.coordination.k8s.io"

Open = Callable[[], AbstractAsyncContextManager[protocol.Store]]
"""Opens the store; opened again it holds what it held."""


def index(_: str, obj: Object) -> history.Index:
    """Labels, and no fields."""
    return history.Index(obj["metadata"].get("labels") or {}, {})


def pod(name: str, **more: Any) -> Object:
    """An object with a name."""
    return {"metadata": {"name": name, "namespace": "default"}, **more}


@contextlib.asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[embedded.Embedded]:
    """Open a store on a file."""
    store = embedded.Embedded(path, index)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


@contextlib.asynccontextmanager
async def etcd(members: Sequence[str], prefix: str, **more: Any) -> AsyncIterator[body.Etcd]:
    """Open a store on etcd under a prefix."""
    store = body.Etcd(client.Client(members), index, prefix=prefix, **more)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()
