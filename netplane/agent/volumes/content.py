"""Say which files a volume holds, from the objects it shows. Putting them on disk is `run`'s."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netplane.agent.pods import fields
from netplane.agent.pods.environment import Reference
from netplane.agent.pods.fields import Surroundings
from netplane.agent.pods.spec import Pod
from netplane.kube.types import CONFIGMAPS, SECRETS, Object

DEFAULT_MODE = 0o644
SHOWN = ("configMap", "secret", "downwardAPI", "projected")
"""The kinds of volume that are files made from objects."""


class VolumeError(Exception):
    """A volume cannot be made; the message is for a FailedMount event."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a volume."""

    content: bytes
    mode: int


Token = tuple[str, int]
"""A service-account token's audience ("" for the API server's own) and its lifetime in seconds."""

Files = dict[str, File]
"""Files by their path inside the volume."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What volumes show: objects (None: not there), tokens, and what the pod and node are."""

    objects: Mapping[Reference, Object | None]
    tokens: Mapping[Token, str]
    around: Surroundings


def is_shown(volume: Mapping[str, Any]) -> bool:
    """Say whether the volume's files are made from objects."""
    return any(kind in volume for kind in SHOWN)


def references(volume: Mapping[str, Any]) -> frozenset[Reference]:
    """Return the objects that the volume shows."""
    found: set[Reference] = set()
    for source in _sources(volume):
        if config := source.get("configMap"):
            found.add((CONFIGMAPS, config["name"]))
        if secret := source.get("secret"):
            found.add((SECRETS, secret.get("secretName") or secret.get("name")))
    return frozenset(found)


def tokens(volume: Mapping[str, Any]) -> frozenset[Token]:
    """Return the tokens that the volume shows."""
    found = (source.get("serviceAccountToken") for source in _sources(volume))
    return frozenset((t.get("audience") or "", int(t.get("expirationSeconds") or 3600)) for t in found if t)


def holds_secrets(volume: Mapping[str, Any]) -> bool:
    """Whether its files belong into memory, never onto a disk."""
    return bool(tokens(volume)) or any(source.get("secret") for source in _sources(volume))


def files(pod: Pod, volume: Mapping[str, Any], sources: Sources) -> Files:
    """Return the files of a volume. Raises VolumeError."""
    default = (volume.get("projected") or {}).get("defaultMode")
    result: Files = {}
    for source in _sources(volume):
        result |= _of_source(pod, source, sources, default)
    return result


def _sources(volume: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if projected := volume.get("projected"):
        return tuple(projected.get("sources") or ())
    return (volume,)


def _of_source(pod: Pod, source: Mapping[str, Any], sources: Sources, default: int | None) -> Files:
    if config := source.get("configMap"):
        return _of_object(pod, config, config["name"], CONFIGMAPS, sources, default)
    if secret := source.get("secret"):
        return _of_object(pod, secret, secret.get("secretName") or secret["name"], SECRETS, sources, default)
    if (downward := source.get("downwardAPI")) is not None:
        mode = _first(default, downward.get("defaultMode"))
        return {item["path"]: _downward(pod, item, sources, mode) for item in downward.get("items") or ()}
    if token := source.get("serviceAccountToken"):
        wanted = (token.get("audience") or "", int(token.get("expirationSeconds") or 3600))
        return {token["path"]: File(sources.tokens[wanted].encode(), _first(default))}
    raise VolumeError("the projected source is of a kind that is not known")


def _of_object(
    pod: Pod, source: Mapping[str, Any], name: str, kind: Any, sources: Sources, default: int | None
) -> Files:
    obj = sources.objects.get((kind, name))
    word = "configmap" if kind == CONFIGMAPS else "secret"
    mode = _first(default, source.get("defaultMode"))
    if obj is None:
        if source.get("optional"):
            return {}
        raise VolumeError(f'{word} "{name}" not found')
    values = _values(obj, is_secret=kind == SECRETS)
    items = source.get("items")
    if not items:
        return {key: File(value, mode) for key, value in values.items()}
    result: Files = {}
    for item in items:
        if item["key"] in values:
            result[item["path"]] = File(values[item["key"]], _first(item.get("mode"), mode))
        elif not source.get("optional"):
            raise VolumeError(f"{word} references non-existent {_key_word(word)} key: {item['key']}")
    return result


def _key_word(word: str) -> str:
    return "config" if word == "configmap" else "secret"


def _values(obj: Object, *, is_secret: bool) -> dict[str, bytes]:
    data = obj.get("data") or {}
    if is_secret:
        return {key: base64.b64decode(value) for key, value in sorted(data.items())}
    binary = {key: base64.b64decode(value) for key, value in (obj.get("binaryData") or {}).items()}
    return {**{key: str(value).encode() for key, value in sorted(data.items())}, **binary}


def _downward(pod: Pod, item: Mapping[str, Any], sources: Sources, mode: int) -> File:
    try:
        if ref := item.get("fieldRef"):
            value = fields.field(pod, ref["fieldPath"], sources.around)
        else:
            value = fields.resource(pod, None, item.get("resourceFieldRef") or {}, sources.around)
    except ValueError as error:
        raise VolumeError(str(error)) from error
    return File(value.encode(), _first(item.get("mode"), mode))


def _first(*modes: int | None) -> int:
    return next((mode for mode in modes if mode is not None), DEFAULT_MODE)
