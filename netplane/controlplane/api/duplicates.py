"""Find fields that a body gives twice, of which only the last one counts. Pure.

Decoding proper (`bodies`) does not see them, and looking for them costs as much as several decodings: most bodies are
known to have none by their colons (`registry.schema.twice`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import yaml

from netplane.controlplane.api import http, options, status
from netplane.controlplane.registry.schema import twice
from netplane.kube import protobuf

_JSON_STARTS = (b"{", b"[")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check(request: http.Request, body: bytes, decoded: Any, *, of: str) -> None:
    """Raise 400 for a body with a field given twice, or warn of it, as the request's `fieldValidation` says.

    `of` begins the message: what cannot be handled as what. The body has been decoded without error, to `decoded`.
    """
    if is_single(body, decoded, request.content_type):
        return
    asked = options.text(request.query, "fieldValidation")
    if asked == "Ignore":
        return
    try:
        told = list(dict.fromkeys(found(body)))
    except RecursionError:
        raise status.bad_request(f"{of}the body is nested too deeply") from None
    if told and asked == "Strict":
        raise status.bad_request(f"{of}strict decoding error: {', '.join(told)}")
    request.warnings += told


def is_single(body: bytes, decoded: Any, content_type: str) -> bool:
    """Whether a body surely says nothing twice. What is not plain JSON is to be looked at."""
    if not body.startswith(_JSON_STARTS):
        return body.startswith(protobuf.MAGIC)
    if content_type.endswith("yaml"):
        try:
            decoded = orjson.loads(body)  # a flow of YAML begins like JSON, and may have fields without a colon
        except ValueError:
            return False
    return twice.is_single(body, decoded)


def found(body: bytes) -> Iterator[str]:
    """Yield what a JSON or YAML document says twice: `duplicate field "data.a"`. A protobuf body says nothing twice."""
    if not body.lstrip().startswith(_JSON_STARTS):
        yield from _in_yaml(body)
        return
    try:
        document = json.loads(body, object_pairs_hook=_Pairs)
    except ValueError:
        yield from _in_yaml(body)  # a flow of YAML begins like JSON
        return
    yield from _in_json(document, "")


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON as it is written, every field of it."""


def _in_json(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for name, each in value:
            inner = f"{path}.{name}" if path else name
            if name in seen:
                yield f'duplicate field "{inner}"'
            seen.add(name)
            yield from _in_json(each, inner)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _in_json(each, f"{path}[{index}]")


def _in_yaml(body: bytes) -> Iterator[str]:
    try:
        root = yaml.compose(body, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    seen: set[int] = set()
    waiting = [root] if root is not None else []
    while waiting:  # nodes that an alias leads to again are looked at once
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            yield from _twice(node)
            waiting += [value for _, value in reversed(node.value)]


def _twice(node: yaml.MappingNode) -> Iterator[str]:
    keys: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                yield f'line {key.start_mark.line + 1}: key "{key.value}" already set in map'
            keys.add(key.value)
