"""Converting custom resources: what a webhook is asked, how often, and what its answer must be."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from netplane.controlplane.api import converting, hooks, status
from netplane.controlplane.registry.crd import resource
from netplane.controlplane.registry.types import ResourceType
from netplane.controlplane.store import history

GROUP = "example.com"
HEAD = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"}


def types(*, stored: str = "v1", kept: tuple[str, ...] = ("v1",), generation: int = 1) -> dict[str, ResourceType]:
    """Return version to type of a definition that asks a webhook."""
    size = {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": size}}}
    crd = {
        "metadata": {"name": f"doors.{GROUP}", "uid": "u", "generation": generation},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"plural": "doors", "singular": "door", "kind": "Door", "listKind": "DoorList"},
            "versions": [
                {"name": name, "served": True, "storage": name == stored, "schema": schema} for name in ("v1", "v2")
            ],
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://hook"}}},
        },
        "status": {"storedVersions": list(kept)},
    }
    return {each.version: each for each in resource.types(crd)}


def record(name: str, revision: int = 1, version: str = "v1") -> history.Record:
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(revision)}
    obj = {"apiVersion": f"{GROUP}/{version}", "kind": "Door", "metadata": metadata, "spec": {"size": revision}}
    return history.Record(("n", name), revision, orjson.dumps(obj), history.Index({}, {}))


class Webhook:
    """Relabels what it is sent and remembers the names in each request."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def __call__(self, config: Mapping[str, Any], body: bytes, *, seconds: float) -> bytes:
        request = orjson.loads(body)["request"]
        self.asked.append([each["metadata"]["name"] for each in request["objects"]])
        await asyncio.sleep(0)
        objs = [{**each, "apiVersion": request["desiredAPIVersion"]} for each in request["objects"]]
        response = {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objs}
        return orjson.dumps({**HEAD, "response": response})


def version_of(record: history.Record) -> str:
    return str(orjson.loads(record.value)["apiVersion"])


async def test_a_list_is_one_question_and_what_was_answered_is_not_asked_again() -> None:
    webhook, served = Webhook(), types()
    converter = converting.Converter(webhook, lambda: "1")
    await converter.records(served["v2"], [record("a"), record("b")])
    found = await converter.records(served["v2"], [record("a"), record("b", 2), record("c")])
    assert webhook.asked == [["a", "b"], ["b", "c"]]
    assert [(each.key[1], each.revision, version_of(each)) for each in found] == [
        ("a", 1, "example.com/v2"), ("b", 2, "example.com/v2"), ("c", 1, "example.com/v2"),
    ]  # fmt: skip


async def test_long_lists_are_asked_about_in_parts() -> None:
    webhook = Webhook()
    converter = converting.Converter(webhook, lambda: "1")
    found = await converter.records(types()["v2"], [record(f"d{number}") for number in range(1001)])
    assert [len(each) for each in webhook.asked] == [500, 500, 1]
    assert len(found) == 1001


async def test_a_changed_definition_is_asked_anew() -> None:
    webhook = Webhook()
    converter = converting.Converter(webhook, lambda: "1")
    for generation in (1, 2):
        await converter.records(types(generation=generation)["v2"], [record("a")])
    assert webhook.asked == [["a"], ["a"]]


async def test_what_is_kept_in_the_version_itself_is_not_sent() -> None:
    webhook = Webhook()
    converter = converting.Converter(webhook, lambda: "1")
    both = [record("old"), record("new", version="v2")]
    found = await converter.records(types(stored="v2", kept=("v1", "v2"))["v2"], both)
    assert webhook.asked == [["old"]]
    assert {version_of(each) for each in found} == {"example.com/v2"}
    assert types()["v1"].conversion is None


async def test_many_watchers_of_one_event_ask_once() -> None:
    webhook, served = Webhook(), types()
    converter = converting.Converter(webhook, lambda: "1")
    event = history.Event(revision=1, old=None, new=record("a"), last=record("a"))
    asking = (converter.events(served["v2"], [event], with_old=False) for _ in range(5))
    assert [version_of(found[0].last) for found in await asyncio.gather(*asking)] == ["example.com/v2"] * 5
    assert webhook.asked == [["a"]]


async def test_what_a_version_does_not_know_goes_and_its_defaults_come() -> None:
    async def post(config: Mapping[str, Any], body: bytes, *, seconds: float) -> bytes:
        request = orjson.loads(body)["request"]
        obj = request["objects"][0] | {"apiVersion": request["desiredAPIVersion"], "spec": {"frob": 1}}
        response = {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": [obj]}
        return orjson.dumps({**HEAD, "response": response})

    found = await converting.Converter(post, lambda: "1").record(types()["v2"], record("a"))
    assert orjson.loads(found.value)["spec"] == {"size": 1}


async def test_a_webhook_that_is_silent_is_an_error_of_the_server() -> None:
    async def post(config: Mapping[str, Any], body: bytes, *, seconds: float) -> bytes:
        raise TimeoutError

    with pytest.raises(status.ApiStatus) as caught:
        await converting.Converter(post, lambda: "1").record(types()["v2"], record("a"))
    assert caught.value.code == 500
    assert "conversion webhook for example.com/v1, Kind=Door failed: no answer within 30 s" in caught.value.message


SENT = [orjson.loads(record("a").value)]
GOOD = [{**SENT[0], "apiVersion": "example.com/v2"}]


def answer(**response: Any) -> bytes:
    return orjson.dumps({**HEAD, "response": {"uid": "1", "result": {"status": "Success"}, **response}})


def changed(**metadata: Any) -> list[Any]:
    made = copy.deepcopy(GOOD)
    made[0]["metadata"] |= metadata
    return made


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "the answer is no JSON"),
        (b"7", "the answer is no object"),
        (orjson.dumps(HEAD), "no response provided"),
        (orjson.dumps({**HEAD, "kind": "Other"}), "expected webhook response of apiextensions.k8s.io/v1, Kind=Conv"),
        (answer(uid="2"), 'expected response.uid="1", got "2"'),
        (answer(result={"status": "Failure", "message": "no"}), "no"),
        (answer(result={}), "response.result.status was not Success"),
        (answer(convertedObjects=[]), "returned 0 objects, expected 1"),
        (answer(convertedObjects=SENT), "expected example.com/v2, received example.com/v1"),
        (answer(convertedObjects=[{**GOOD[0], "kind": "Gate"}]), "must have the same kind: Gate != Door"),
        (answer(convertedObjects=changed(namespace="m")), "must have the same namespace: m != n"),
        (answer(convertedObjects=changed(uid="z")), "must have the same UID: z != a"),
        (answer(convertedObjects=changed(labels={"a": 1})), "metadata.labels: must be a map of strings"),
        (answer(convertedObjects=changed(labels={"a b": "c"})), "metadata.labels"),
    ],
)
def test_an_answer_that_is_none_says_why(body: bytes, why: str) -> None:
    with pytest.raises(hooks.BadAnswer, match=why.replace("(", r"\(")):
        converting.judged(body, HEAD, "1", SENT, "example.com/v2")


def test_only_labels_and_annotations_of_the_metadata_are_taken() -> None:
    told = changed(labels={"a": "b"}, annotations={"c": "d"}, finalizers=["x"], resourceVersion="9")
    (made,) = converting.judged(answer(convertedObjects=told), HEAD, "1", SENT, "example.com/v2")
    assert made["metadata"] == {**SENT[0]["metadata"], "labels": {"a": "b"}, "annotations": {"c": "d"}}
