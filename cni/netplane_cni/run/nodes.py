"""Learn the cluster's nodes: from the API server, or from a file where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path

from netplane.kube import decode, types
from netplane.kube.api import Api
from netplane.kube.errors import ApiError
from netplane.kube.informer import Informers, Query
from netplane.lib import log
from netplane.lib.cli import UserError
from netplane.lib.clock import Clock
from netplane.model.node import Node
from netplane_cni.plan import fabric

Nodes = Mapping[str, Node]
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class News:
    """All nodes, which follow what comes later, too; those that changed as they are now, None for those gone."""

    nodes: Nodes
    changes: Mapping[str, Node | None]
    revision: str


async def from_api(api: Api, *, clock: Clock) -> AsyncGenerator[News, None]:
    """Yield first once all nodes are known, then after each change."""
    informers = Informers(api, [Query(types.NODES, transform=decode.node)], clock=clock)
    following = asyncio.ensure_future(informers.run())  # noqa: TID251 - ended below; a generator cannot hold a TaskGroup
    try:
        async with contextlib.aclosing(informers.batches()) as batches:
            nodes: dict[str, Node] = {}
            async for batch in batches:
                changes = {change.key[1]: change.new for change in batch.changes}
                _apply(nodes, changes)
                yield News(nodes, changes, batch.resource_version[types.NODES])
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


async def from_file(path: Path, *, clock: Clock) -> AsyncGenerator[News, None]:
    """Yield the nodes of a file, first at once, then whenever it was written anew.

    It holds what `kubectl get nodes -o json` prints, of which addresses and pod networks are looked at. A file that
    cannot be read later on, or holds something else, changes nothing until it can.
    """
    seen = said = ""
    nodes: dict[str, Node] = {}
    while True:
        try:
            text, found = _changed(path, seen)
        except UserError as error:
            if not seen:
                raise
            if str(error) != said:
                said = str(error)
                log.get("cni").warning("the nodes stay as they were", why=said)
        else:
            said = ""
            if text != seen:
                seen = text
                changes: dict[str, Node | None] = {name: None for name in nodes if name not in found}
                changes |= {name: node for name, node in found.items() if nodes.get(name) != node}
                _apply(nodes, changes)
                yield News(nodes, changes, f"file-{hash(text) & 0xFFFFFFFF:08x}")
        await clock.sleep(POLL_SECONDS)


async def publish_mac(api: Api, name: str) -> None:
    """Write this node's tunnel MAC address on its Node, for others to see; failing is no harm: it can be computed."""
    try:
        await publish(api, name, {fabric.MAC_ANNOTATION: fabric.computed_mac(name).hex(":")})
    except ApiError as error:
        log.get("cni").warning("the tunnel's MAC address was not published", node=name, why=str(error))


async def publish(api: Api, name: str, annotations: Mapping[str, str | None]) -> None:
    """Write annotations on this node's Node unless it says so already; None takes one away."""
    node = await api.get(types.NODES, name)
    have = node["metadata"].get("annotations") or {}
    if any(have.get(key) != value for key, value in annotations.items()):
        body = {"metadata": {"annotations": dict(annotations)}}
        await api.patch(types.NODES, name, body, kind="merge", field_manager="netplane-cni")


def _apply(nodes: dict[str, Node], changes: Mapping[str, Node | None]) -> None:
    for name, node in changes.items():
        if node is None:
            nodes.pop(name, None)
        else:
            nodes[name] = node


def _changed(path: Path, seen: str) -> tuple[str, Nodes]:
    """Return the file's text, and its nodes unless the text is that which was seen. UserError when there are none."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return text, _read(path, text) if text != seen else {}


def _read(path: Path, text: str) -> Nodes:
    try:
        content = json.loads(text)
        nodes = [decode.node(item) for item in (content["items"] if isinstance(content, dict) else content)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a list of Nodes as `kubectl get nodes -o json` prints: {error}") from error
    return {node.name: node for node in nodes}
