"""Whether a body says a field twice is known without looking at each of its fields."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.controlplane.api import duplicates
from netplane.controlplane.registry import builtin, strategy

JSON = "application/json"
TEXTS = st.text(st.sampled_from('a:"\\\\{é'), max_size=4)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(TEXTS, VALUES), max_size=4), st.booleans())
def test_a_json_body_is_single_if_looking_at_each_field_finds_none_twice(
    fields: list[tuple[str, Any]], is_ascii: bool
) -> None:
    written = (f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=is_ascii)}" for name, value in fields)
    body = ("{" + ", ".join(written) + "}").encode()
    has_twice = bool(list(duplicates.found(body)))
    assert duplicates.is_single(body, orjson.loads(body), JSON) == (not has_twice and b"\\u" not in body)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"a": "\\u003a", "b": 1, "b": 2}', JSON),
        (b"{a, b: 1, b: 2}", "application/yaml"),
        (b"a: 1", "application/yaml"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, JSON),
    ],
)
def test_what_cannot_be_told_by_its_colons_is_looked_at(body: bytes, kind: str) -> None:
    decoded = {"a": None, "b": 2} if kind != JSON else orjson.loads(body)
    assert not duplicates.is_single(body, decoded, kind)


SPEC = '{"containers": [{"name": "c", "image": "i:1"}]}'
META = '{"name": "p", "labels": {"a": "b:c"}}'


@pytest.mark.parametrize(
    ("text", "is_single"),
    [
        (f'{{"apiVersion": "v1", "kind": "Pod", "metadata": {META}, "spec": {SPEC}}}', True),
        (f'{{"apiVersion": "v1", "kind": "Pod", "metadata": {META}, "spec": {SPEC}, "status": {{}}}}', True),
        (f'{{"apiVersion": "v1", "kind": "Pod", "kind": "Pod", "metadata": {META}, "spec": {SPEC}}}', False),
        (f'{{"apiVersion": "v1", "kind": "Pod", "metadata": {META}, "spec": {SPEC}, "spec": {SPEC}}}', False),
        (f'{{"apiVersion": "v1", "kind": "Pod", "metadata": {META[:-1]}, "name": "p"}}, "spec": {SPEC}}}', False),
        (f'{{"apiVersion": "v1", "kind": "Pod", "metadata": {META}, "spec": {SPEC[:-3]}, "name": "c"}}]}}}}', False),
    ],
)
def test_a_pod_is_known_by_its_bytes_only_if_they_say_nothing_twice(text: str, is_single: bool) -> None:
    of = builtin().find("", "v1", "pods")
    assert of is not None
    assert (strategy.begun(of, text.encode()) is not None) == is_single
