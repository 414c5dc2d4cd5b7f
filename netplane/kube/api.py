"""Say what a Kubernetes API client can do. `client` speaks to a server, `fake` keeps the objects in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from netplane.kube import watch as watching
from netplane.kube.types import Object, Resource

PatchKind = Literal["merge", "strategic", "json", "apply"]

Patch = Object | list[Object]
"""An object, or for the JSON kind a list of operations."""


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A list as one moment saw it; `resource_version` is where a watch goes on from it."""

    items: list[Object]
    resource_version: str
    read: Sequence[watching.Read] = ()
    """What a reader made of further items."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return orjson.loads(self.body)


class Api(Protocol):
    """The verbs. Every method raises `errors.ApiError`; deleting what is missing raises `errors.NotFound`."""

    async def get(self, resource: Resource, name: str, *, namespace: str = "", subresource: str = "") -> Object:
        """Return one object."""

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> ObjectList:
        """Return all objects, fetched in pages of `limit`."""

    def pages(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        reader: watching.Reader | None = None,
    ) -> AsyncGenerator[ObjectList, None]:
        """Yield the objects page by page, so that a large list is never in memory whole.

        What the `reader` understands may come as `read` instead of among the items.
        """

    async def create(
        self,
        resource: Resource,
        obj: Object,
        *,
        namespace: str | None = None,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Create the object, or POST it to a subresource of `name`; return what the server made of it."""

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace the object; its resourceVersion, if there, guards against a lost update."""

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        *,
        namespace: str = "",
        kind: PatchKind = "merge",
        subresource: str = "",
        field_manager: str = "netplane",
        force: bool = False,
    ) -> Object:
        """Change the object and return it."""

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        grace_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
    ) -> None:
        """Delete the object, if it still has this uid and resourceVersion where given."""

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int | None = None,
        send_initial_events: bool = False,
        reader: watching.Reader | None = None,
    ) -> AsyncGenerator[watching.Event, None]:
        """Yield changes after `resource_version` until the server ends the watch; raises `errors.Gone` when too old.

        A bookmark at the given `resource_version` comes first, once the server has agreed.
        With `send_initial_events` (WatchList) first what there is as ADDED, then a bookmark that says so.
        What the `reader` understands may come as `read` instead of as object.
        """

    def unread(self) -> contextlib.AbstractContextManager[None]:
        """Let what the watches send lie until the block ends, as far as there is room: to read it then costs less."""
