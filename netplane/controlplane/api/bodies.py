"""Decode request bodies: JSON, YAML, Kubernetes' protobuf. Pure; what the object means is the verbs'."""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from netplane.controlplane.api import status
from netplane.kube import protobuf
from netplane.kube.types import Object

PLAIN = frozenset({"", "application/json"})
"""The media types that are nothing but JSON."""
_ACCEPTED = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
_PROTOBUF_MAGIC = b"k8s\x00"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def obj(body: bytes, content_type: str) -> Object:
    """Return the object in a body; raise 400 when it is none, 415 for another media type."""
    decoded = _decode(body, content_type)
    if not isinstance(decoded, dict):
        raise status.bad_request("the body of the request is not an object")
    return decoded


def _decode(body: bytes, content_type: str) -> Any:
    if body.startswith(_PROTOBUF_MAGIC) or content_type == "application/vnd.kubernetes.protobuf":
        try:
            return protobuf.decode(body)
        except ValueError as error:
            raise status.bad_request(f"the protobuf body cannot be decoded: {error}") from error
    if content_type in PLAIN or content_type.endswith("+json"):
        return json(body)
    if content_type in ("application/yaml", "text/yaml") or content_type.endswith("+yaml"):
        return from_yaml(body)
    raise status.unsupported_media_type(content_type, _ACCEPTED)


def json(body: bytes) -> Any:
    """Return decoded JSON; raise 400."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise status.bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def from_yaml(body: bytes) -> Any:
    """Return decoded YAML (JSON is YAML too, and much the faster of the two); raise 400."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return yaml.load(body, Loader=_Loader)
    except yaml.YAMLError as error:
        raise status.bad_request(f"error decoding YAML: {error}".replace("\n", " ")) from error
