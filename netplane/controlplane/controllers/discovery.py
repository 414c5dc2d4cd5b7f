"""Find out which types of objects the API serves, so that every one of them can be watched, emptied and collected."""

from __future__ import annotations

from typing import Any, Protocol

from netplane.kube.api import Response
from netplane.kube.types import Resource


class Source(Protocol):
    """Whatever answers raw requests: `kube.client.Client`."""

    async def request(self, method: str, path: str) -> Response:
        """Send a request and return its answer of success."""


async def served(source: Source) -> list[Resource]:
    """Return the preferred version of every type that can be listed and watched, Events left out, sorted."""
    found = _resources((await source.request("GET", "/api/v1")).json(), "", "v1")
    groups = (await source.request("GET", "/apis")).json().get("groups") or ()
    for group in groups:
        version = (group.get("preferredVersion") or group["versions"][0])["version"]
        answer = await source.request("GET", f"/apis/{group['name']}/{version}")
        found += _resources(answer.json(), group["name"], version)
    return sorted(found)


def _resources(answer: Any, group: str, version: str) -> list[Resource]:
    return [
        Resource(group, version, entry["name"], entry["kind"], namespaced=bool(entry.get("namespaced")))
        for entry in answer.get("resources") or ()
        if "/" not in entry["name"] and entry["name"] != "events" and {"list", "watch"} <= set(entry.get("verbs") or ())
    ]
