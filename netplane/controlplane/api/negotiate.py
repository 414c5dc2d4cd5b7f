"""Read the Accept header: plain object, Table, metadata only, or YAML. Pure."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from netplane.controlplane.api import status

Shape = Literal["object", "table", "metadata"]


@dataclass(frozen=True, slots=True)
class Format:
    """How the client wants the answer."""

    shape: Shape = "object"
    is_yaml: bool = False
    version: str = "v1"


_SHAPES: dict[str, Shape] = {
    "Table": "table",
    "PartialObjectMetadata": "metadata",
    "PartialObjectMetadataList": "metadata",
}


def media_types(accept: str) -> list[tuple[str, dict[str, str]]]:
    """Return the media types of an Accept header with their parameters, in the client's order."""
    out = []
    for part in accept.split(","):
        name, *pairs = (piece.strip() for piece in part.split(";"))
        parameters = {key.strip(): value.strip() for key, _, value in (pair.partition("=") for pair in pairs)}
        if name:
            out.append((name.lower(), parameters))
    return out


@functools.lru_cache(maxsize=512)
def parse(accept: str) -> Format:
    """Return the first format we can answer in.

    Protobuf answers are not made: clients that ask for it take JSON too (measured for every kubectl and client-go),
    so JSON goes out even when it alone was asked for.
    """
    if not accept:
        return Format()
    known = False
    for name, parameters in media_types(accept):
        if name == "application/yaml":
            return Format(is_yaml=True)
        if name in ("application/json", "*/*", "application/*"):
            wanted = parameters.get("as", "")
            if not wanted:
                return Format()
            shape = _SHAPES.get(wanted)
            if shape and parameters.get("g") == "meta.k8s.io" and parameters.get("v") in ("v1", "v1beta1"):
                return Format(shape=shape, version=parameters["v"])
        known = known or name.startswith("application/vnd.kubernetes.protobuf")
    if known:
        return Format()
    raise status.ApiStatus(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    )
