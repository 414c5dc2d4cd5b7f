"""Bring custom resources into other versions, by the webhook that their definition names.

The wire format is ConversionReview of apiextensions.k8s.io/v1 (v1beta1 where the definition takes no other). What is
read in a version is converted once for each revision and remembered; sending is webhooks'. Where versions differ in
their name alone, as among built-in types and with the strategy None, nobody is asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import orjson

from netplane.controlplane.api import hooks, status
from netplane.controlplane.registry import types
from netplane.controlplane.registry.rules import metadata as rules
from netplane.controlplane.store import history
from netplane.kube.types import Key, Object
from netplane.lib import log

_LOG = log.get("converting")
_GROUP = "apiextensions.k8s.io"
_KNOWN_VERSIONS = ("v1", "v1beta1")
_SECONDS = 30.0
_MOST_AT_ONCE = 500
_MOST_BYTES = 2 << 20
_REMEMBERED = 4096
_KEPT = (("name", "name"), ("namespace", "namespace"), ("uid", "UID"))
_FAILURES = (hooks.BadAnswer, aiohttp.ClientError, TimeoutError, OSError)
_Place = tuple[str, int, str, Key, int]
"""The definition's uid and generation, the version, the object's key and revision."""


class Post(Protocol):
    """Sends JSON to the place that a `clientConfig` names; raises BadAnswer, aiohttp's and the system's errors."""

    def __call__(self, config: Mapping[str, Any], body: bytes, *, seconds: float) -> Awaitable[bytes]: ...


class Converter:
    """Converts objects and remembers what it read last."""

    def __init__(self, post: Post, new_uid: Callable[[], str]) -> None:
        self._post = post
        self._new_uid = new_uid
        self._known: OrderedDict[_Place, history.Record] = OrderedDict()
        self._watched: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @staticmethod
    def is_asked(of: types.ResourceType) -> bool:
        """Whether a webhook converts what is stored into this version."""
        return of.conversion is not None and of.conversion.webhook is not None

    async def record(self, of: types.ResourceType, record: history.Record) -> history.Record:
        """Return a stored record as it reads in the version that is asked for."""
        return (await self.records(of, (record,)))[0]

    async def records(self, of: types.ResourceType, records: Sequence[history.Record]) -> Sequence[history.Record]:
        """Return stored records as they read in the version that is asked for; raise 500 when that cannot be had."""
        if not self.is_asked(of):
            return records
        found = {record.key: self._remembered(of, record) for record in records}
        missing = [record for record in records if found[record.key] is None]
        for batch in _batches(missing):
            objs = await self._asked(of, [orjson.loads(record.value) for record in batch], of.api_version)
            for record, obj in zip(batch, objs, strict=True):
                self._fit(of, obj)
                made = history.Record(record.key, record.revision, orjson.dumps(obj), _index(record, obj))
                found[record.key] = self._remember(of, made)
        return [each for record in records if (each := found[record.key]) is not None]

    async def events(
        self, of: types.ResourceType, events: list[history.Event], *, with_old: bool
    ) -> list[history.Event]:
        """Return events with their records in the version that is asked for, the old ones too `with_old`.

        Many watch the same: one asks, and the others take what it was told.
        """
        if not events or not self.is_asked(of):
            return events
        name = f"{of.stored.group_resource}/{of.version}"
        lock = self._watched.get(name) or self._watched.setdefault(name, asyncio.Lock())
        async with lock:
            return [await self._event(of, event, with_old=with_old) for event in events]

    async def _event(self, of: types.ResourceType, event: history.Event, *, with_old: bool) -> history.Event:
        last = await self.record(of, event.last)
        old = await self.record(of, event.old) if with_old and event.old is not None else event.old
        return history.Event(revision=event.revision, old=old, new=last if event.new is not None else None, last=last)

    async def stored(self, of: types.ResourceType, obj: Object) -> Object:
        """Return an object as the store keeps it."""
        if of.conversion is None:
            return obj
        if of.conversion.webhook is None:
            return of.conversion.to_stored(obj)
        return (await self._asked(of, [obj], of.stored.api_version))[0]

    async def shown(self, of: types.ResourceType, obj: Object) -> Object:
        """Return an object that is as the store keeps it in the version that is asked for."""
        if of.conversion is None:
            return obj
        if of.conversion.webhook is None:
            return of.conversion.from_stored(obj)
        made: Object = (await self._asked(of, [obj], of.api_version))[0]
        self._fit(of, made)
        return made

    async def between(self, obj: Object, source: types.ResourceType, target: types.ResourceType) -> Object:
        """Return an object in another version of its type."""
        if source is target:
            return obj
        for each in (source, target):
            if each.conversion is not None and each.conversion.webhook is not None:
                made: Object = (await self._asked(source, [obj], target.api_version))[0]
                self._fit(target, made)
                return made
        if source.conversion is not None:
            obj = source.conversion.to_stored(obj)
        return target.conversion.from_stored(obj) if target.conversion is not None else obj

    async def call(self, call: hooks.Call, of: types.ResourceType) -> hooks.Call:
        """Return a write with its objects in the version in which it is asked about."""
        if of is call.of:
            return call
        obj = await self.between(call.obj, call.of, of) if call.obj is not None else None
        old = await self.between(call.old, call.of, of) if call.old is not None else None
        return dataclasses.replace(call, obj=obj, old=old)

    def is_current(self, of: types.ResourceType, record: history.Record) -> bool:
        """Whether a record is kept in the version in which its type is stored now."""
        if of.crd is None or of.conversion is None:
            return True
        return bool(orjson.loads(record.value).get("apiVersion") == of.stored.api_version)

    def _remembered(self, of: types.ResourceType, record: history.Record) -> history.Record | None:
        place = _place(of, record)
        if place in self._known:
            self._known.move_to_end(place)
        return self._known.get(place)

    def _remember(self, of: types.ResourceType, record: history.Record) -> history.Record:
        self._known[_place(of, record)] = record
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return record

    def _fit(self, of: types.ResourceType, obj: Object) -> None:
        """Drop what the version does not know and fill in its defaults, as with everything that is read."""
        found = of.read(obj).errors if of.read is not None else []
        if found:
            raise _failed(obj, f"returned an invalid object: {found[0]}")
        of.default(obj)

    async def _asked(self, of: types.ResourceType, objs: list[Object], wanted: str) -> list[Object]:
        """Return objects of any versions in the wanted one; only those of another one are sent."""
        sent = [obj for obj in objs if obj.get("apiVersion") != wanted]
        if not sent:
            return objs
        assert of.conversion is not None or of.crd is not None
        webhook = (of.crd or {})["spec"]["conversion"]["webhook"]
        uid = self._new_uid()
        version = next(
            each for each in webhook.get("conversionReviewVersions") or _KNOWN_VERSIONS if each in _KNOWN_VERSIONS
        )
        head = {"apiVersion": f"{_GROUP}/{version}", "kind": "ConversionReview"}
        review = {**head, "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": sent}}
        try:
            body = await self._post(webhook["clientConfig"], orjson.dumps(review), seconds=_SECONDS)
            answer = iter(judged(body, head, uid, sent, wanted))
        except _FAILURES as error:
            why = str(error) or f"no answer within {_SECONDS:g} s"
            _LOG.warning("conversion failed", definition=of.stored.group_resource, to=wanted, why=why)
            raise _failed(sent[0], why) from error
        return [next(answer) if obj.get("apiVersion") != wanted else obj for obj in objs]


def judged(body: bytes, head: Mapping[str, str], uid: str, sent: Sequence[Object], wanted: str) -> list[Object]:
    """Return the objects of an answer, with the metadata that was sent but labels and annotations; raise BadAnswer.

    After apiextensions' webhook_converter.go: getConvertedObjectsFromResponse, validateConvertedObject,
    restoreObjectMeta.
    """
    review = _object(_decoded(body), "the answer")
    told = {name: review.get(name) for name in ("apiVersion", "kind")}
    if told != head:
        raise hooks.BadAnswer(
            f"expected webhook response of {head['apiVersion']}, Kind={head['kind']},"
            f" got {told['apiVersion']}, Kind={told['kind']}"
        )
    if review.get("response") is None:
        raise hooks.BadAnswer("no response provided")
    response = _object(review["response"], "response")
    if response.get("uid") != uid and head["apiVersion"].endswith("/v1"):
        raise hooks.BadAnswer(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    result = _object(response.get("result") or {}, "response.result")
    if result.get("status") != "Success":
        raise hooks.BadAnswer(str(result.get("message") or "response.result.status was not Success"))
    objs = response.get("convertedObjects") or []
    if not isinstance(objs, list) or len(objs) != len(sent):
        count = len(objs) if isinstance(objs, list) else 0
        raise hooks.BadAnswer(f"returned {count} objects, expected {len(sent)}")
    return [
        _restored(index, before, after, wanted) for index, (before, after) in enumerate(zip(sent, objs, strict=True))
    ]


def _restored(index: int, before: Object, after: Any, wanted: str) -> Object:
    """Return a converted object with the metadata that it had, but labels and annotations."""
    at = f"returned invalid converted object at index {index}"
    after = _object(after, at)
    if after.get("apiVersion") != wanted:
        raise hooks.BadAnswer(f"{at}: invalid groupVersion (expected {wanted}, received {after.get('apiVersion', '')})")
    if after.get("kind") != before.get("kind"):
        raise hooks.BadAnswer(f"{at}: must have the same kind: {after.get('kind', '')} != {before.get('kind', '')}")
    new, old = _object(after.get("metadata"), f"{at}: metadata"), before.get("metadata") or {}
    for field, name in _KEPT:
        if (new.get(field) or "") != (old.get(field) or ""):
            raise hooks.BadAnswer(f"{at}: must have the same {name}: {new.get(field, '')} != {old.get(field, '')}")
    kept = dict(old)
    for field in ("labels", "annotations"):
        kept.pop(field, None)
        texts = new.get(field) or {}
        if not isinstance(texts, dict) or not all(isinstance(each, str) for each in texts.values()):
            raise hooks.BadAnswer(f"{at}: metadata.{field}: must be a map of strings")
        if field == "labels" and (faults := rules.label_faults(texts, "metadata.labels")):
            raise hooks.BadAnswer(f"{at}: {faults[0]}")
        if texts:
            kept[field] = texts
    return {**after, "metadata": kept}


def _decoded(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise hooks.BadAnswer(f"the answer is no JSON: {error}") from error


def _object(value: Any, what: str) -> Object:
    if not isinstance(value, dict):
        raise hooks.BadAnswer(f"{what} is no object")
    return value


def _index(record: history.Record, obj: Object) -> history.Index:
    """Return what selectors look at of a converted object: the labels may be others; fields are read of its bytes."""
    labels = obj["metadata"].get("labels") or {}
    return record.index if labels == record.index.labels else history.Index(labels, record.index.fields)


def _place(of: types.ResourceType, record: history.Record) -> _Place:
    definition = (of.crd or {})["metadata"]
    return (
        str(definition.get("uid", "")), int(definition.get("generation") or 0), of.version, record.key, record.revision,
    )  # fmt: skip


def _batches(records: Sequence[history.Record]) -> list[list[history.Record]]:
    batches: list[list[history.Record]] = []
    size = 0
    for record in records:
        size += len(record.value)
        if not batches or len(batches[-1]) == _MOST_AT_ONCE or size > _MOST_BYTES:
            batches.append([])
            size = len(record.value)
        batches[-1].append(record)
    return batches


def _failed(obj: Object, why: str) -> status.ApiStatus:
    return status.internal(f"conversion webhook for {obj.get('apiVersion')}, Kind={obj.get('kind')} failed: {why}")
