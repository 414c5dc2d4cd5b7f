"""A part whose JSON is known is a part like any other, but for what it costs to encode and that it stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import orjson
import pytest

from netplane.kube import known
from netplane.kube.types import Object

SPEC = b'{"b":1,"a":{"c":[1,2]}}'


class Text(str):
    """A text that is more than one."""


def test_what_is_known_is_encoded_as_its_text() -> None:
    obj: Object = {"metadata": {"name": "a"}, "spec": known.Known({}, SPEC)}
    assert known.encoded(obj) == b'{"metadata":{"name":"a"},"spec":' + SPEC + b"}"


def test_an_object_with_known_parts_is_encoded_as_one_without() -> None:
    obj: Object = {"spec": known.read(SPEC), "kind": Text("Pod"), "list": [known.read(b"{}"), None, 1.5]}
    assert known.encoded(obj) == orjson.dumps(obj) == b'{"spec":' + SPEC + b',"kind":"Pod","list":[{},null,1.5]}'


def test_what_is_known_equals_what_it_says() -> None:
    assert known.read(SPEC) == {"a": {"c": [1, 2]}, "b": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part.update(b=2),
        lambda part: part.pop("b"),
        lambda part: part.setdefault("d", 1),
        lambda part: part.__setitem__("b", 2),
        lambda part: part.__delitem__("b"),
        lambda part: part.clear(),
    ],
)
def test_what_is_known_is_not_changed(change: Callable[[Object], object]) -> None:
    part = known.read(SPEC)
    with pytest.raises(TypeError, match="take a copy"):
        change(part)
    assert part == orjson.loads(SPEC)


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part["a"].update(b=2),
        lambda part: part["a"]["c"].append(3),
        lambda part: part["a"]["c"].__iadd__([3]),
        lambda part: part["a"]["c"].sort(),
    ],
)
def test_within_what_is_shared_nothing_is_changed_either(change: Callable[[Object], object]) -> None:
    part = known.shared(SPEC)
    with pytest.raises(TypeError, match="take a copy"):
        change(part)
    assert part == orjson.loads(SPEC)
    assert known.encoded({"within": part["a"]}) == b'{"within":{"c":[1,2]}}'
    plain = copy.deepcopy(part)
    plain["a"]["c"].append(3)
    assert plain == {"b": 1, "a": {"c": [1, 2, 3]}}


def test_a_copy_around_what_is_known_keeps_it_and_what_is_thawed_may_be_changed() -> None:
    obj: Object = {"metadata": {"labels": {}}, "spec": known.shared(SPEC)}
    other = known.copied(obj)
    other["metadata"]["labels"]["a"] = "b"
    known.thaw(other, "spec")
    known.thaw(other, "metadata")
    other["spec"]["a"]["c"].append(3)
    assert obj == {"metadata": {"labels": {}}, "spec": orjson.loads(SPEC)}
    assert other == {"metadata": {"labels": {"a": "b"}}, "spec": {"b": 1, "a": {"c": [1, 2, 3]}}}


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, dict, known.Known.copy])
def test_a_copy_is_plain_and_may_be_changed(copied: Callable[[Object], Object]) -> None:
    part = copied(known.read(SPEC))
    part["b"] = 2
    assert known.encoded({"spec": part}) == b'{"spec":{"b":2,"a":{"c":[1,2]}}}'
