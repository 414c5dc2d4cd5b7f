"""Ask the admission webhooks over HTTPS: mutating ones in turn, validating ones at once. What to ask is hooks'."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import orjson

from netplane.controlplane.api import access, callers, converting, hooks, status
from netplane.controlplane.registry import strategy, types
from netplane.controlplane.store import protocol
from netplane.kube import patch as patches
from netplane.kube.types import Object
from netplane.lib import log

_LOG = log.get("webhooks")
_KEPT = ("name", "namespace", "uid", "resourceVersion")
_FAILURES = (hooks.BadAnswer, aiohttp.ClientError, TimeoutError, OSError)

Versions = Callable[[types.ResourceType], Sequence[types.ResourceType]]
"""A type to all its versions that are served."""


class Conditions(Protocol):
    """Decides whether a webhook's matchConditions hold; raises BadAnswer when one cannot be evaluated."""

    def __call__(self, conditions: Sequence[Mapping[str, Any]], call: hooks.Call, of: types.ResourceType) -> bool: ...


@dataclass(slots=True)
class Told:
    """What webhooks said beside yes and no: warnings for the client, annotations for the audit log."""

    warnings: list[str]
    annotations: dict[str, str] = field(default_factory=dict)


class Webhooks:
    """The cluster's webhooks. Reads the configurations anew only when one has changed."""

    def __init__(
        self,
        store: protocol.Store,
        caller: callers.Caller,
        converter: converting.Converter,
        *,
        versions: Versions,
        conditions: Conditions,
        new_uid: Callable[[], str],
    ) -> None:
        self._store = store
        self._caller = caller
        self._converter = converter
        self._versions = versions
        self._conditions = conditions
        self._new_uid = new_uid
        self._known: dict[str, tuple[int, tuple[hooks.Hook, ...]]] = {}

    async def close(self) -> None:
        """Close what is open."""
        await self._caller.close()

    def any_mutating(self) -> bool:
        """Whether there are mutating webhooks at all."""
        return bool(self._store.cache(hooks.MUTATING).records)

    def any_validating(self) -> bool:
        """Whether there are validating webhooks at all."""
        return bool(self._store.cache(hooks.VALIDATING).records)

    async def mutate(self, call: hooks.Call, told: Told) -> Object | None:
        """Return the object as the mutating webhooks want it; raise what forbids the write."""
        asked: list[hooks.Hook] = []
        again: list[hooks.Hook] = []
        for hook in self._hooks(hooks.MUTATING):
            of = await self._concerned(hook, call)
            if of is None:
                continue
            changed = await self._mutated(hook, call, of, told)
            if changed != call.obj:
                call = dataclasses.replace(call, obj=changed)
                # Those before have not seen this change: the ones that ask for it are asked once more.
                again = [each for each in asked if each.spec.get("reinvocationPolicy") == "IfNeeded"]
            asked.append(hook)
        for hook in again:
            of = await self._concerned(hook, call)
            if of is not None:
                call = dataclasses.replace(call, obj=await self._mutated(hook, call, of, told))
        return call.obj

    async def validate(self, call: hooks.Call, told: Told) -> None:
        """Ask the validating webhooks; raise what forbids the write."""
        found = [(hook, await self._concerned(hook, call)) for hook in self._hooks(hooks.VALIDATING)]
        asked = [
            self._ask(hook, await self._converter.call(call, of), of, told) for hook, of in found if of is not None
        ]
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _hooks(self, storage: str) -> tuple[hooks.Hook, ...]:
        cache = self._store.cache(storage)
        end, known = self._known.get(storage, (-1, ()))
        if end != cache.window.end:
            known = hooks.hooks(orjson.loads(record.value) for record in cache.range())
            self._known[storage] = (cache.window.end, known)
        return known

    async def _concerned(self, hook: hooks.Hook, call: hooks.Call) -> types.ResourceType | None:
        record = self._store.cache("namespaces").records.get(("", call.namespace))
        labels: Mapping[str, str] = record.index.labels if record is not None else {}
        of = hooks.concerned(hook, call, self._versions(call.of), labels)
        if of is None or not hook.spec.get("matchConditions"):
            return of
        try:
            asked = await self._converter.call(call, of)
            return of if self._conditions(hook.spec["matchConditions"], asked, of) else None
        except hooks.BadAnswer as error:
            if hook.is_ignorable:
                return None
            raise status.forbidden(
                f'admission webhook "{hook.name}": match conditions cannot be evaluated: {error}'
            ) from error

    async def _mutated(self, hook: hooks.Hook, call: hooks.Call, of: types.ResourceType, told: Told) -> Object | None:
        asked = await self._converter.call(call, of)
        verdict = await self._ask(hook, asked, of, told, is_mutating=True)
        if not verdict.patch or asked.obj is None:
            return call.obj
        try:
            new = patches.json(copy.deepcopy(asked.obj), verdict.patch)
        except patches.PatchError as error:
            raise status.internal(
                f'admission webhook "{hook.name}" sent a patch that does not apply: {error}'
            ) from error
        if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            raise status.internal(f'admission webhook "{hook.name}" made no object of it')
        if any(new["metadata"].get(name) != asked.obj["metadata"].get(name) for name in _KEPT):
            raise status.internal(f'admission webhook "{hook.name}" changed the name, namespace, uid or revision')
        if call.kind is None:
            outcome = strategy.read(of, new, validation="Ignore")
            if outcome.error:
                raise status.internal(f'admission webhook "{hook.name}" made an object that cannot be: {outcome.error}')
        return await self._converter.between(new, of, call.of)

    async def _ask(
        self, hook: hooks.Hook, call: hooks.Call, of: types.ResourceType, told: Told, *, is_mutating: bool = False
    ) -> hooks.Verdict:
        if call.is_dry_run and not hook.is_harmless:
            raise status.bad_request(f'admission webhook "{hook.name}" does not support dry run')
        try:
            verdict = await self._call(hook, call, of, is_mutating=is_mutating)
        except _FAILURES as error:
            why = str(error) or f"no answer within {hook.seconds:g} s"
            _LOG.warning("webhook failed", hook=hook.name, configuration=hook.configuration, why=why)
            if hook.is_ignorable:
                told.annotations[f"failed-open.{hook.name}"] = why
                return hooks.Verdict(is_allowed=True)
            raise status.internal(f'failed calling webhook "{hook.name}": {why}') from error
        told.warnings += verdict.warnings
        told.annotations.update({f"{hook.name}/{key}": value for key, value in verdict.annotations.items()})
        if not verdict.is_allowed:
            raise hooks.denial(hook, verdict)
        return verdict

    async def _call(
        self, hook: hooks.Hook, call: hooks.Call, of: types.ResourceType, *, is_mutating: bool
    ) -> hooks.Verdict:
        uid = self._new_uid()
        asked = hooks.review(call, of, uid, access.info(call.user))
        body = await self._caller.post(hook.spec["clientConfig"], orjson.dumps(asked), seconds=hook.seconds)
        return hooks.verdict(body, uid, is_mutating=is_mutating)
