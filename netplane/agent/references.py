"""Follow the ConfigMaps and Secrets that pods of this node refer to, one watch each, and ask for their tokens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from netplane.agent.pods.environment import Reference
from netplane.agent.pods.spec import Pod
from netplane.agent.volumes.content import Token
from netplane.kube import errors
from netplane.kube.api import Api
from netplane.kube.informer import Informers, Query
from netplane.kube.types import SERVICEACCOUNTS, Object, Resource
from netplane.lib import clock as clocks

LIMIT = 10.0
"""How long a pod's first question may take; it is asked again later."""

Key = tuple[Resource, str, str]


@dataclass(slots=True)
class _Followed:
    informers: Informers
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    pods: set[str] = field(default_factory=set)
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class _Issued:
    token: str
    renew_at: datetime


class References:
    """The objects that pods refer to. `changed` is called with the UIDs of the pods that look at a changed one."""

    def __init__(self, api: Api, changed: Callable[[Collection[str]], None], clock: clocks.Clock) -> None:
        self._api = api
        self._changed = changed
        self._clock = clock
        self._followed: dict[Key, _Followed] = {}
        self._tokens: dict[tuple[str, Token], _Issued] = {}
        self._group: asyncio.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def opened(self):  # type: ignore[no-untyped-def]  # an async context manager of itself
        """Follow, until the block is left."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield self
            finally:
                self._group = None
                for followed in self._followed.values():
                    if followed.task:
                        followed.task.cancel()

    async def get(self, pod: Pod, reference: Reference) -> Object | None:
        """Return the object, None when there is none; from now on it is followed for the pod. Raises ApiError."""
        resource, name = reference
        key = (resource, pod.namespace, name)
        followed = self._followed.get(key) or self._follow(key)
        followed.pods.add(pod.uid)
        try:
            async with asyncio.timeout(LIMIT):
                await followed.ready.wait()
        except TimeoutError as error:
            raise errors.Timeout(504, "Timeout", f"{resource.plural} {name}: no answer from the API server") from error
        found: Object | None = followed.informers.store(resource).get((pod.namespace, name))
        return found

    async def token(self, pod: Pod, wanted: Token) -> str:
        """Return a token of the pod's service account, bound to the pod; a new one when four fifths are over."""
        issued = self._tokens.get((pod.uid, wanted))
        if issued is None or self._clock.now() >= issued.renew_at:
            issued = await self._issue(pod, wanted)
            self._tokens[pod.uid, wanted] = issued
        return issued.token

    def forget(self, uid: str) -> None:
        """Stop following what only this pod referred to."""
        for key in [key for key, followed in self._followed.items() if uid in followed.pods]:
            followed = self._followed[key]
            followed.pods.discard(uid)
            if not followed.pods:
                del self._followed[key]
                if followed.task:
                    followed.task.cancel()
        for entry in [entry for entry in self._tokens if entry[0] == uid]:
            del self._tokens[entry]

    def _follow(self, key: Key) -> _Followed:
        if self._group is None:
            raise RuntimeError("not opened")
        resource, namespace, name = key
        query = Query(resource, namespace=namespace, field_selector=f"metadata.name={name}")
        followed = _Followed(Informers(self._api, [query], clock=self._clock))
        followed.task = self._group.create_task(self._watch(followed))
        self._followed[key] = followed
        return followed

    async def _watch(self, followed: _Followed) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(followed.informers.run())
            async for _ in followed.informers.batches():
                if followed.ready.is_set():
                    self._changed(tuple(followed.pods))
                followed.ready.set()

    async def _issue(self, pod: Pod, wanted: Token) -> _Issued:
        audience, seconds = wanted
        account = str(pod.spec.get("serviceAccountName") or "default")
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": pod.namespace},
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid},
            },
        }
        answer = await self._api.create(
            SERVICEACCOUNTS, request, namespace=pod.namespace, name=account, subresource="token"
        )
        now = self._clock.now()
        expires = answer["status"].get("expirationTimestamp")
        lifetime = clocks.parse(expires) - now if expires else timedelta(seconds=seconds)
        return _Issued(answer["status"]["token"], now + lifetime * 0.8)
