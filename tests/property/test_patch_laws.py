"""Laws of the patches: merge (RFC 7386), JSON (RFC 6902), strategic as kubectl makes them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.registry import builtin, schema
from netplane.kube import patch
from netplane.kube.patch.merge import equal
from tests.support import strategic_diff

KEYS = st.sampled_from(["a", "b", "c", "d/e", "~f"])
SCALARS = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from(["", "x", "y"]))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
PATCHES: st.SearchStrategy[Any] = st.dictionaries(
    KEYS, st.recursive(st.one_of(st.none(), VALUES), lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=4
)


@settings(max_examples=60)
@given(DOCUMENTS, DOCUMENTS)
def test_the_merge_patch_of_two_documents_turns_one_into_the_other(old: Any, new: Any) -> None:
    assert equal(patch.merge(old, patch.diff(old, new)), new)


@settings(max_examples=60)
@given(DOCUMENTS, PATCHES)
def test_merging_twice_is_merging_once(document: Any, change: Any) -> None:
    once = patch.merge(document, change)
    assert equal(patch.merge(once, change), once)


@settings(max_examples=60)
@given(DOCUMENTS, PATCHES)
def test_no_patch_changes_its_document(document: Any, change: Any) -> None:
    kept = copy.deepcopy(document)
    patch.merge(document, change)
    assert equal(document, kept)


@settings(max_examples=60)
@given(DOCUMENTS)
def test_a_document_differs_from_itself_by_nothing(document: Any) -> None:
    assert patch.diff(document, document) == {}


@settings(max_examples=60)
@given(DOCUMENTS, KEYS, VALUES)
def test_what_a_json_patch_adds_a_test_finds_and_remove_takes_away(document: Any, key: str, value: Any) -> None:
    path = "/" + key.replace("~", "~0").replace("/", "~1")
    added = patch.json(
        document, [{"op": "add", "path": path, "value": value}, {"op": "test", "path": path, "value": value}]
    )
    removed = patch.json(added, [{"op": "remove", "path": path}])
    assert equal(removed, {name: each for name, each in document.items() if name != key})


NAMES = st.sampled_from(["web", "log", "job", "db"])


def _listed(items: st.SearchStrategy[dict[str, Any]], key: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(items, max_size=4, unique_by=lambda each: each[key])


def _with(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


VARIABLES = _listed(_with({"name": st.sampled_from("ABC")}, {"value": st.sampled_from("xyz")}), "name")
PORTS = _listed(_with({"containerPort": st.integers(1, 4)}, {"name": NAMES}), "containerPort")
CONTAINERS = _listed(
    _with(
        {"name": NAMES, "image": st.sampled_from(["i:1", "i:2"])},
        {"env": VARIABLES, "ports": PORTS, "args": st.lists(NAMES)},
    ),
    "name",
)
VOLUMES = _listed(
    st.one_of(
        _with({"name": NAMES, "emptyDir": st.just({})}, {}),
        _with({"name": NAMES, "hostPath": st.just({"path": "/x"})}, {}),
    ),
    "name",
)
LABELS = st.dictionaries(NAMES, st.sampled_from(["1", "2"]), max_size=3)
PODS = st.fixed_dictionaries(
    {
        "metadata": _with({"name": st.just("p")}, {"labels": LABELS, "finalizers": st.lists(NAMES, unique=True)}),
        "spec": _with(
            {"containers": CONTAINERS}, {"volumes": VOLUMES, "nodeName": NAMES, "tolerations": st.lists(st.just({}))}
        ),
    }
)


def _pod_shape() -> Any:
    rt = builtin().find("", "v1", "pods")
    assert rt is not None
    return schema.shape_of(rt)


@settings(max_examples=60)
@given(PODS, PODS)
def test_kubectls_patch_turns_the_object_into_the_modified_one(original: Any, modified: Any) -> None:
    shape = _pod_shape()
    change = strategic_diff.two_way(original, modified, shape)
    assert patch.strategic(original, change, shape) == modified


@settings(max_examples=60)
@given(PODS, PODS)
def test_a_strategic_patch_applied_twice_is_applied_once(original: Any, modified: Any) -> None:
    shape = _pod_shape()
    change = strategic_diff.two_way(original, modified, shape)
    once = patch.strategic(original, change, shape)
    assert patch.strategic(once, change, shape) == once


@settings(max_examples=60)
@given(PODS, PODS, st.dictionaries(st.sampled_from(["other", "more"]), st.just("kept"), min_size=1))
def test_three_way_apply_keeps_what_others_added(original: Any, modified: Any, added: dict[str, str]) -> None:
    shape = _pod_shape()
    current = copy.deepcopy(original)
    current["metadata"]["annotations"] = added
    result = patch.strategic(current, strategic_diff.three_way(original, modified, current, shape), shape)
    assert result["metadata"]["annotations"] == added
    result["metadata"].pop("annotations")
    assert result["metadata"] == modified["metadata"]
    assert result["spec"].get("nodeName") == modified["spec"].get("nodeName")
