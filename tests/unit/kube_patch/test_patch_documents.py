"""JSON, merge and strategic patches: what they do, and why they cannot."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.controlplane.registry import schema
from netplane.kube import patch
from tests.support.registry_objects import type_of

POD = schema.shape_of(type_of("pods"))
DEPLOYMENT = schema.shape_of(type_of("deployments.apps"))
SERVICE = schema.shape_of(type_of("services"))


@pytest.mark.parametrize(
    ("document", "change", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_rfc_7386(document: Any, change: Any, result: Any) -> None:
    assert patch.merge(document, change) == result


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
        ({"foo": {"a": 1}}, [{"op": "move", "from": "/foo/a", "path": "/b"}], {"foo": {}, "b": 1}),
        ({"foo": [1, 2, 3]}, [{"op": "move", "from": "/foo/0", "path": "/foo/2"}], {"foo": [2, 3, 1]}),
        ({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": 2}], {"a": 2}),
        (
            {"a/b": 1, "m~n": 2},
            [{"op": "remove", "path": "/a~1b"}, {"op": "test", "path": "/m~0n", "value": 2}],
            {"m~n": 2},
        ),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": None}, [{"op": "test", "path": "/a", "value": None}], {"a": None}),
    ],
)
def test_the_examples_of_rfc_6902(document: Any, operations: Any, result: Any) -> None:
    assert patch.json(document, operations) == result


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (
            {"op": "remove", "path": "/x"},
            "remove operation does not apply: Unable to remove nonexistent key: x: missing value",
        ),
        (
            {"op": "replace", "path": "/x", "value": 1},
            'replace operation does not apply: doc is missing path: "/x": missing value',
        ),
        (
            {"op": "add", "path": "/x/y", "value": 1},
            'add operation does not apply: doc is missing path: "/x/y": missing value',
        ),
        ({"op": "add", "path": "/list/9", "value": 1}, "Unable to access invalid index: 9"),
        ({"op": "add", "path": "/list/01", "value": 1}, "bad index '01'"),
        ({"op": "test", "path": "/a", "value": True}, "testing value /a failed: test failed"),
        ({"op": "move", "from": "/a", "path": "/a/b"}, "cannot move into itself"),
        ({"op": "frob", "path": "/a"}, "Unexpected kind: frob"),
        ({"op": "add", "path": "a", "value": 1}, "add operation has no valid path: 'a'"),
    ],
)
def test_a_json_patch_that_does_not_fit_says_why(operation: Any, reason: str) -> None:
    with pytest.raises(patch.PatchError) as raised:
        patch.json({"a": 1, "list": []}, [operation])
    assert reason in str(raised.value)


def test_a_failed_operation_changes_nothing() -> None:
    document = {"a": 1}
    with pytest.raises(patch.PatchError):
        patch.json(document, [{"op": "add", "path": "/b", "value": 2}, {"op": "remove", "path": "/x"}])
    assert document == {"a": 1}


def containers(*items: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": list(items)}}


def test_items_merge_by_their_key_and_new_ones_join() -> None:
    result = patch.strategic(
        containers({"name": "a", "image": "1", "tty": True}),
        containers({"name": "a", "image": "2"}, {"name": "b"}),
        POD,
    )
    assert result == containers({"name": "a", "image": "2", "tty": True}, {"name": "b"})


def test_items_are_deleted_and_replaced_by_directive() -> None:
    live = containers({"name": "a"}, {"name": "b", "tty": True})
    assert patch.strategic(live, containers({"name": "a", "$patch": "delete"}), POD) == containers(
        {"name": "b", "tty": True}
    )
    replaced = patch.strategic(live, containers({"name": "b", "$patch": "replace", "image": "x"}), POD)
    assert replaced == containers({"name": "a"}, {"name": "b", "image": "x"})


def test_a_whole_list_or_map_is_replaced_by_directive() -> None:
    live = containers({"name": "a"}, {"name": "b"})
    assert patch.strategic(live, containers({"name": "c"}, {"$patch": "replace"}), POD) == containers({"name": "c"})
    assert patch.strategic(live, {"spec": {"$patch": "replace", "nodeName": "n"}}, POD) == {"spec": {"nodeName": "n"}}
    assert patch.strategic(live, {"spec": {"$patch": "delete"}}, POD) == {"spec": {}}


def test_the_order_of_a_list_can_be_set() -> None:
    change = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    live = containers({"name": "a"}, {"name": "server-side"}, {"name": "b"})
    assert patch.strategic(live, change, POD) == containers({"name": "b"}, {"name": "a"}, {"name": "server-side"})


def test_primitive_lists_gain_and_lose_values() -> None:
    live = {"metadata": {"finalizers": ["a", "b"]}}
    change = {"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}}
    assert patch.strategic(live, change, POD)["metadata"]["finalizers"] == ["b", "c"]


def test_lists_without_a_key_are_replaced() -> None:
    live = {"spec": {"tolerations": [{"key": "a"}]}}
    change = {"spec": {"tolerations": [{"key": "b"}]}}
    assert patch.strategic(live, change, POD) == change


def test_retained_keys_drive_out_the_others() -> None:
    live = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    change = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert patch.strategic(live, change, DEPLOYMENT) == {"spec": {"strategy": {"type": "Recreate"}}}


def test_service_ports_merge_by_port() -> None:
    live = {"spec": {"ports": [{"port": 80, "nodePort": 30000}, {"port": 443}]}}
    change = {"spec": {"ports": [{"port": 80, "name": "http"}]}}
    assert patch.strategic(live, change, SERVICE)["spec"]["ports"] == [
        {"port": 80, "nodePort": 30000, "name": "http"},
        {"port": 443},
    ]


@pytest.mark.parametrize(
    ("change", "reason", "is_malformed"),
    [
        (containers({"image": "x"}), r"map: map\[image:x\] does not contain declared merge key: name", False),
        ({"spec": {"$patch": "frob"}}, "Unknown patch type found: frob", True),
        ({"spec": {"$retainKeys": "x"}}, "invalid patch format of retainKeys", True),
    ],
)
def test_a_strategic_patch_that_is_none_says_why(change: Any, reason: str, is_malformed: bool) -> None:
    with pytest.raises(patch.PatchError, match=reason.replace("$", r"\$")) as raised:
        patch.strategic(containers({"name": "a"}), change, POD)
    assert raised.value.is_malformed is is_malformed
