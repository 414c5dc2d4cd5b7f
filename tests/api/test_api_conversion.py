"""Custom resources of several versions: converted by a real webhook over HTTPS, or in their name alone."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import admission_hooks, apiserver
from tests.support.http_client import Client

PATIENCE = 20
MERGE = {"Content-Type": "application/merge-patch+json"}
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[admission_hooks.Hooks]:
    with admission_hooks.serving(tmp_path, "convert.default.svc") as running:
        running.answers["/convert"] = converting(_converted)
        yield running


def _converted(obj: dict[str, Any], wanted: str) -> dict[str, Any]:
    """v1 has `spec.host` and `spec.port`; v2 has `spec.address`, which is both."""
    made = copy.deepcopy(obj)
    made["apiVersion"], spec = wanted, made["spec"]
    if wanted.endswith("/v2"):
        spec["address"] = f"{spec.pop('host', '')}:{spec.pop('port', '')}"
    else:
        spec["host"], _, spec["port"] = spec.pop("address", ":").partition(":")
    return made


def converting(convert: Callable[[dict[str, Any], str], dict[str, Any]]) -> admission_hooks.Answer:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        objs = [convert(obj, request["desiredAPIVersion"]) for obj in request["objects"]]
        return {"result": {"status": "Success"}, "convertedObjects": objs}

    return answer


def _version(name: str, *fields: str, is_storage: bool) -> dict[str, Any]:
    properties = {field: {"type": "string"} for field in fields}
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": properties},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        },
    }
    return {
        "name": name, "served": True, "storage": is_storage, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }  # fmt: skip


class Doors:
    """A definition served as v1 and v2, and its objects in the test's namespace."""

    def __init__(self, api: Client, namespace: str, conversion: dict[str, Any]) -> None:
        self.api = api
        self.namespace = namespace
        self.group = f"{namespace}.example.com"
        versions = [
            _version("v1", "host", "port", is_storage=True),
            {**_version("v2", "address", is_storage=False), "selectableFields": [{"jsonPath": ".spec.address"}]},
        ]
        names = {"plural": "doors", "singular": "door", "kind": "Door"}
        self.crd = f"{CRDS}/doors.{self.group}"
        spec = {"group": self.group, "scope": "Namespaced", "names": names, "versions": versions}
        code, made = api.ask(
            "POST", CRDS, {"metadata": {"name": f"doors.{self.group}"}, "spec": {**spec, "conversion": conversion}}
        )
        assert code == 201, made
        until(lambda: api.ask("GET", self.path("v2"))[0] == 200)

    def path(self, version: str, name: str = "") -> str:
        return f"/apis/{self.group}/{version}/namespaces/{self.namespace}/doors" + (f"/{name}" if name else "")

    def make(self, version: str, name: str, **spec: str) -> dict[str, Any]:
        code, made = self.api.ask("POST", self.path(version), {"metadata": {"name": name}, "spec": spec})
        assert code == 201, made
        return dict(made)

    def store_as(self, version: str) -> None:
        """Make another version the one that is stored, and wait until the server goes by it."""
        _, crd = self.api.ask("GET", self.crd)
        for each in crd["spec"]["versions"]:
            each["storage"] = each["name"] == version
        code, changed = self.api.ask("PATCH", self.crd, {"spec": {"versions": crd["spec"]["versions"]}}, headers=MERGE)
        assert code == 200, changed
        until(lambda: version in self.api.ask("GET", self.crd)[1]["status"]["storedVersions"])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


def webhook(hooks: admission_hooks.Hooks, path: str = "/convert", *reviews: str) -> dict[str, Any]:
    return {
        "strategy": "Webhook",
        "webhook": {"clientConfig": hooks.url(path), "conversionReviewVersions": list(reviews or ("v1",))},
    }


@pytest.fixture
def doors(api: Client, namespace: str, hooks: admission_hooks.Hooks) -> Iterator[Doors]:
    made = Doors(api, namespace, webhook(hooks))
    yield made
    api.ask("DELETE", made.crd)


def test_what_is_written_in_one_version_reads_in_the_other(doors: Doors, hooks: admission_hooks.Hooks) -> None:
    made = doors.make("v2", "front", address="a.example:80")
    assert (made["apiVersion"], made["spec"]) == (f"{doors.group}/v2", {"address": "a.example:80"})
    code, read = doors.api.ask("GET", doors.path("v1", "front"))
    assert (code, read["apiVersion"]) == (200, f"{doors.group}/v1")
    assert read["spec"] == {"host": "a.example", "port": "80"}
    first = hooks.asked("/convert")[0]
    assert first["desiredAPIVersion"] == f"{doors.group}/v1"
    assert first["objects"][0]["metadata"]["uid"] == made["metadata"]["uid"]


def test_every_way_to_change_an_object_keeps_it_in_the_stored_version(doors: Doors) -> None:
    doors.make("v1", "front", host="a.example", port="80")
    code, read = doors.api.ask("GET", doors.path("v2", "front"))
    read["spec"]["address"] = "b.example:81"
    assert doors.api.ask("PUT", doors.path("v2", "front"), read)[0] == 200
    assert doors.api.ask("GET", doors.path("v1", "front"))[1]["spec"] == {"host": "b.example", "port": "81"}
    code, changed = doors.api.ask(
        "PATCH", doors.path("v2", "front"), {"spec": {"address": "c.example:82"}}, headers=MERGE
    )
    assert (code, changed["spec"]) == (200, {"address": "c.example:82"})
    apply = {"Content-Type": "application/apply-patch+yaml"}
    config = {"apiVersion": f"{doors.group}/v2", "kind": "Door", "spec": {"address": "d.example:83"}}
    asked = doors.path("v2", "front") + "?fieldManager=me&force=true"
    code, applied = doors.api.ask("PATCH", asked, config, headers=apply)
    assert (code, applied["spec"]) == (200, {"address": "d.example:83"})
    code, shown = doors.api.ask(
        "PATCH", doors.path("v2", "front") + "/status", {"status": {"phase": "open"}}, headers=MERGE
    )
    assert (code, shown["status"]) == (200, {"phase": "open"})
    read = doors.api.ask("GET", doors.path("v1", "front"))[1]
    assert (read["spec"], read["status"]) == ({"host": "d.example", "port": "83"}, {"phase": "open"})


def test_a_list_shows_all_in_the_version_it_was_asked_in(doors: Doors) -> None:
    for number in range(3):
        doors.make("v1", f"d{number}", host="h", port=str(number))
    code, listed = doors.api.ask("GET", doors.path("v2"))
    assert (code, [each["spec"]["address"] for each in listed["items"]]) == (200, ["h:0", "h:1", "h:2"])
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    code, shown = doors.api.ask("GET", doors.path("v2") + "?includeObject=Object&limit=2", headers=table)
    assert [row["object"]["spec"]["address"] for row in shown["rows"]] == ["h:0", "h:1"]


def test_a_watch_tells_the_version_it_was_asked_in(doors: Doors) -> None:
    doors.make("v1", "old", host="h", port="1")
    with doors.api.watch(doors.path("v2") + "?watch=true&resourceVersion=0") as events:
        seen = [next(events)]
        doors.make("v1", "new", host="h", port="2")
        doors.api.ask("PATCH", doors.path("v1", "new"), {"spec": {"port": "3"}}, headers=MERGE)
        doors.api.ask("DELETE", doors.path("v1", "new"))
        seen += [next(events) for _ in range(3)]
    assert [(each["type"], each["object"]["spec"]["address"]) for each in seen] == [
        ("ADDED", "h:1"), ("ADDED", "h:2"), ("MODIFIED", "h:3"), ("DELETED", "h:3"),
    ]  # fmt: skip
    assert {each["object"]["apiVersion"] for each in seen} == {f"{doors.group}/v2"}


def test_what_is_stored_in_an_old_version_reads_in_the_new_and_is_rewritten_by_any_write(
    doors: Doors, hooks: admission_hooks.Hooks
) -> None:
    made = doors.make("v1", "front", host="h", port="1")
    doors.store_as("v2")
    _, read = doors.api.ask("GET", doors.path("v2", "front"))
    assert (read["apiVersion"], read["spec"]) == (f"{doors.group}/v2", {"address": "h:1"})
    assert read["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    code, same = doors.api.ask("PUT", doors.path("v2", "front"), read)
    assert (code, same["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]) == (200, True)
    hooks.answers["/convert"] = lambda _: {"result": {"status": "Failure", "message": "not needed"}}
    assert doors.api.ask("GET", doors.path("v2", "front"))[1]["spec"] == {"address": "h:1"}  # as it is kept now


def test_of_the_metadata_only_labels_and_annotations_are_the_webhooks(
    doors: Doors, hooks: admission_hooks.Hooks
) -> None:
    def decorating(obj: dict[str, Any], wanted: str) -> dict[str, Any]:
        made = _converted(obj, wanted)
        made["metadata"] |= {"labels": {"was": "v1"}, "finalizers": ["example.com/mine"], "generation": 99}
        return made

    hooks.answers["/convert"] = converting(decorating)  # before the controllers have read it in this version
    doors.make("v1", "front", host="h", port="1")
    metadata = doors.api.ask("GET", doors.path("v2", "front"))[1]["metadata"]
    assert (metadata["labels"], metadata["generation"]) == ({"was": "v1"}, 1)
    assert "finalizers" not in metadata


def test_selectors_look_at_the_version_that_is_asked_for(doors: Doors, hooks: admission_hooks.Hooks) -> None:
    def labelling(obj: dict[str, Any], wanted: str) -> dict[str, Any]:
        made = _converted(obj, wanted)
        made["metadata"]["labels"] = {"reads": wanted.rpartition("/")[2]}
        return made

    def chosen(version: str, selector: str) -> list[str]:
        code, listed = doors.api.ask("GET", f"{doors.path(version)}?{selector}")
        assert code == 200, listed
        return [each["metadata"]["name"] for each in listed["items"]]

    hooks.answers["/convert"] = converting(labelling)
    for number in range(3):
        doors.make("v1", f"d{number}", host="h", port=str(number))
    assert chosen("v2", "labelSelector=reads%3Dv2&limit=2") == ["d0", "d1"]
    assert chosen("v1", "labelSelector=reads%3Dv2") == []
    assert chosen("v2", "fieldSelector=spec.address%3Dh:1") == ["d1"]
    assert chosen("v2", "fieldSelector=metadata.name%3Dd2&labelSelector=reads") == ["d2"]
    watched = (
        f"{doors.path('v2')}?watch=true&resourceVersion=0&labelSelector=reads%3Dv2&fieldSelector=spec.address%3Dh:7"
    )
    with doors.api.watch(watched) as events:
        doors.api.ask("PATCH", doors.path("v1", "d1"), {"spec": {"port": "7"}}, headers=MERGE)
        doors.api.ask("PATCH", doors.path("v1", "d1"), {"spec": {"port": "8"}}, headers=MERGE)
        seen = [next(events) for _ in range(2)]
    assert [(each["type"], each["object"]["spec"]["address"]) for each in seen] == [
        ("ADDED", "h:7"),
        ("DELETED", "h:7"),
    ]
    doors.api.ask("DELETE", f"{doors.path('v2')}?fieldSelector=spec.address%3Dh:8")
    assert chosen("v1", "") == ["d0", "d2"]


def _renamed(obj: dict[str, Any], wanted: str) -> dict[str, Any]:
    made = _converted(obj, wanted)
    made["metadata"]["name"] = "other"
    return made


REFUSALS: list[tuple[admission_hooks.Answer, str]] = [
    (lambda _: {"result": {"status": "Failure", "message": "no such door"}}, "failed: no such door"),
    (lambda _: {"result": {"status": "Success"}, "convertedObjects": []}, "returned 0 objects, expected 1"),
    (converting(_renamed), "at index 0: must have the same name: other != front"),
    (converting(lambda obj, _: obj), "invalid groupVersion (expected "),
    (lambda _: {"result": {"status": "Success"}, "convertedObjects": [7]}, "at index 0 is no object"),
]


@pytest.mark.parametrize(("answer", "why"), REFUSALS)
def test_a_webhook_that_fails_is_named_with_its_words(
    doors: Doors, hooks: admission_hooks.Hooks, answer: admission_hooks.Answer, why: str
) -> None:
    hooks.answers["/convert"] = answer  # before there is anything: the controllers read it too, and it is remembered
    doors.make("v1", "front", host="h", port="1")
    for path in (doors.path("v2", "front"), doors.path("v2")):
        code, told = doors.api.ask("GET", path)
        assert (code, told["reason"]) == (500, "InternalError")
        assert f"conversion webhook for {doors.group}/v1, Kind=Door failed: " in told["message"]
        assert why in told["message"]
    with doors.api.watch(doors.path("v2") + "?watch=true&resourceVersion=0") as events:
        assert next(events)["object"]["code"] == 500
    assert doors.api.ask("POST", doors.path("v2"), {"metadata": {"name": "b"}, "spec": {"address": "h:1"}})[0] == 500
    assert doors.api.ask("GET", doors.path("v1", "front"))[0] == 200


def test_objects_go_with_their_definition_though_their_webhook_is_gone(
    api: Client, namespace: str, hooks: admission_hooks.Hooks
) -> None:
    doors = Doors(api, namespace, webhook(hooks))
    doors.make("v1", "front", host="h", port="1")
    hooks.answers["/convert"] = lambda _: {"result": {"status": "Failure", "message": "gone"}}
    assert doors.api.ask("DELETE", doors.path("v2", "front"))[0] == 200
    doors.make("v1", "back", host="h", port="2")
    api.ask("DELETE", doors.crd)
    until(lambda: api.ask("GET", doors.crd)[0] == 404)


def test_an_old_review_is_sent_to_who_takes_no_other(api: Client, namespace: str, hooks: admission_hooks.Hooks) -> None:
    doors = Doors(api, namespace, webhook(hooks, "/convert", "v1beta1"))
    with contextlib.closing(_Deleting(api, doors.crd)):
        doors.make("v1", "front", host="h", port="1")
        assert api.ask("GET", doors.path("v2", "front"))[1]["spec"] == {"address": "h:1"}


class _Deleting:
    def __init__(self, api: Client, path: str) -> None:
        self._api, self._path = api, path

    def close(self) -> None:
        self._api.ask("DELETE", self._path)


def test_without_a_webhook_versions_differ_in_their_name_alone(api: Client, namespace: str) -> None:
    doors = Doors(api, namespace, {"strategy": "None"})
    with contextlib.closing(_Deleting(api, doors.crd)):
        doors.make("v1", "front", host="h", port="1")
        doors.store_as("v2")
        for version in ("v1", "v2"):
            read = api.ask("GET", doors.path(version, "front"))[1]
            assert (read["apiVersion"], read["spec"]) == (f"{doors.group}/{version}", {"host": "h", "port": "1"})


@pytest.mark.parametrize(
    ("conversion", "fault"),
    [
        ({"strategy": "Webhook"}, "spec.conversion.webhook.clientConfig: Required value"),
        (
            {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": []}},
            "spec.conversion.webhook.conversionReviewVersions: Required value",
        ),
        (
            {
                "strategy": "Webhook",
                "webhook": {"clientConfig": {"url": "http://x"}, "conversionReviewVersions": ["v1"]},
            },
            "'https' is the only allowed URL scheme",
        ),
        (
            {
                "strategy": "Webhook",
                "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v9"]},
            },
            "must include at least one of v1, v1beta1",
        ),
        (
            {"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}},
            "spec.conversion.webhook: Forbidden",
        ),
    ],
)  # fmt: skip
def test_a_conversion_that_cannot_work_is_refused(
    api: Client, namespace: str, conversion: dict[str, Any], fault: str
) -> None:
    group = f"{namespace}.example.com"
    spec = {
        "group": group,
        "scope": "Namespaced",
        "names": {"plural": "doors", "kind": "Door"},
        "versions": [_version("v1", "host", is_storage=True)],
        "conversion": conversion,
    }
    code, told = api.ask("POST", CRDS, {"metadata": {"name": f"doors.{group}"}, "spec": spec})
    assert code == 422
    assert fault in told["message"]


def test_declared_fields_of_custom_resources_choose_them(api: Client, namespace: str) -> None:
    group = f"{namespace}.example.com"
    version = _version("v1", "host", is_storage=True) | {"selectableFields": [{"jsonPath": ".spec.host"}]}
    names = {"plural": "doors", "singular": "door", "kind": "Door"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    crd = f"{CRDS}/doors.{group}"
    assert api.ask("POST", CRDS, {"metadata": {"name": f"doors.{group}"}, "spec": spec})[0] == 201
    with contextlib.closing(_Deleting(api, crd)):
        path = f"/apis/{group}/v1/namespaces/{namespace}/doors"
        until(lambda: api.ask("GET", path)[0] == 200)
        for name, host in (("a", "x"), ("b", "y")):
            api.ask("POST", path, {"metadata": {"name": name}, "spec": {"host": host}})
        chosen = api.ask("GET", f"{path}?fieldSelector=spec.host%3Dy")[1]["items"]
        assert [each["metadata"]["name"] for each in chosen] == ["b"]
        with api.watch(f"{path}?fieldSelector=spec.host%3Dy&watch=true&resourceVersion=0") as events:
            assert next(events)["object"]["metadata"]["name"] == "b"
        assert api.ask("GET", f"{path}?fieldSelector=spec.other%3Dy")[0] == 400
