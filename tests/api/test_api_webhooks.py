"""Admission webhooks, asked over real HTTPS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import admission_hooks, apiserver
from tests.support.http_client import Client

GROUP = "/apis/admissionregistration.k8s.io/v1"
Register = Callable[..., None]
RULE = {"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[admission_hooks.Hooks]:
    with admission_hooks.serving(tmp_path, "guard.default.svc") as running:
        yield running


@pytest.fixture
def register(api: Client, namespace: str) -> Iterator[Register]:
    """Make a configuration of one webhook that sees only the test's namespace; it goes with the test."""
    made: list[str] = []

    def add(kind: str, name: str, config: dict[str, Any], *rules: dict[str, Any], **more: Any) -> None:
        chosen = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        hook = {
            "name": f"{name}.example.com",
            "clientConfig": config,
            "rules": list(rules) or [RULE],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "namespaceSelector": chosen,
            **more,
        }
        path = f"{GROUP}/{kind}webhookconfigurations"
        code, answer = api.ask("POST", path, {"metadata": {"name": f"{name}-{namespace}"}, "webhooks": [hook]})
        assert code == 201, answer
        made.append(f"{path}/{name}-{namespace}")

    yield add
    for path in made:
        api.ask("DELETE", path)


def config_map(name: str = "one", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def path(namespace: str, name: str = "") -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{name}" if name else "")


def test_a_mutating_webhook_patches_what_is_stored(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/patch"] = admission_hooks.patching({"op": "add", "path": "/data/added", "value": "yes"})
    register("mutating", "patch", hooks.url("/patch"))
    code, made = api.ask("POST", path(namespace), config_map(a="b"))
    assert (code, made["data"]) == (201, {"a": "b", "added": "yes"})
    (asked,) = hooks.asked("/patch")
    assert asked["operation"] == "CREATE"
    assert asked["namespace"] == namespace
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert asked["userInfo"]["username"] == "kubernetes-admin"
    assert asked["object"]["data"] == {"a": "b"}


def test_a_webhook_that_asks_for_it_sees_the_changes_of_those_after_it(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/first"] = admission_hooks.allow
    hooks.answers["/second"] = admission_hooks.patching({"op": "add", "path": "/data/added", "value": "yes"})
    register("mutating", "a-first", hooks.url("/first"), reinvocationPolicy="IfNeeded")
    register("mutating", "b-second", hooks.url("/second"))
    api.ask("POST", path(namespace), config_map(a="b"))
    assert [asked["object"]["data"].get("added") for asked in hooks.asked("/first")] == [None, "yes"]


def test_a_validating_webhook_forbids_with_its_own_words_and_warns(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/no"] = lambda request: {
        "allowed": request["operation"] != "DELETE" and request["object"]["data"].get("a") != "bad",
        "status": {"message": "no bad maps", "code": 422, "reason": "Invalid"},
        "warnings": ["looked at it"],
    }
    register("validating", "no", hooks.url("/no"), {**RULE, "operations": ["*"]})
    code, refused, headers = api.raw("POST", path(namespace), config_map(a="bad"))
    assert code == 422
    assert b"denied the request: no bad maps" in refused
    assert headers["warning"] == '299 - "looked at it"'
    assert api.ask("POST", path(namespace), config_map(a="good"))[0] == 201
    assert api.ask("DELETE", path(namespace, "one"))[0] == 422
    assert api.ask("DELETE", path(namespace))[0] == 422
    deletions = [asked for asked in hooks.asked("/no") if asked["operation"] == "DELETE" and asked["name"] == "one"]
    assert deletions[0]["oldObject"]["data"] == {"a": "good"}


def test_an_update_shows_the_old_object_and_the_new(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/see"] = admission_hooks.allow
    api.ask("POST", path(namespace), config_map(a="b"))
    register("validating", "see", hooks.url("/see"))
    headers = {"Content-Type": "application/merge-patch+json"}
    code, _ = api.ask("PATCH", path(namespace, "one"), {"data": {"a": "c"}}, headers=headers)
    (asked,) = hooks.asked("/see")
    assert (code, asked["operation"]) == (200, "UPDATE")
    assert (asked["oldObject"]["data"], asked["object"]["data"]) == ({"a": "b"}, {"a": "c"})


@pytest.mark.parametrize(("policy", "code"), [("Fail", 500), ("Ignore", 201)])
def test_a_webhook_that_does_not_answer_in_time_counts_as_its_policy_says(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register, policy: str, code: int
) -> None:
    released = threading.Event()

    def late(_: dict[str, Any]) -> dict[str, Any]:
        released.wait(10)
        return {"allowed": True}

    hooks.answers["/late"] = late
    register("validating", "late", hooks.url("/late"), failurePolicy=policy, timeoutSeconds=1)
    started = time.monotonic()
    found, answer = api.ask("POST", path(namespace), config_map())
    released.set()
    assert found == code
    assert time.monotonic() - started < 5
    if code == 500:
        assert 'failed calling webhook "late.example.com"' in answer["message"]


def test_a_certificate_of_another_authority_is_not_believed(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register, server: apiserver.Server
) -> None:
    import base64

    hooks.answers["/ok"] = admission_hooks.allow
    other = base64.b64encode((server.data_dir / "pki" / "ca.crt").read_bytes()).decode()
    register("validating", "ok", {**hooks.url("/ok"), "caBundle": other})
    code, refused = api.ask("POST", path(namespace), config_map())
    assert code == 500
    assert "certificate verify failed" in refused["message"]
    assert not hooks.asked("/ok")


def test_a_dry_run_says_so(api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register) -> None:
    hooks.answers["/ok"] = admission_hooks.allow
    register("validating", "harmless", hooks.url("/ok"))
    assert api.ask("POST", path(namespace) + "?dryRun=All", config_map())[0] == 201
    assert hooks.asked("/ok")[0]["dryRun"] is True


@pytest.mark.parametrize(
    ("field", "value"),
    [("sideEffects", "Some"), ("failurePolicy", "Perhaps"), ("matchPolicy", "x"), ("timeoutSeconds", 31),
     ("clientConfig", {"url": "http://127.0.0.1/"}), ("rules", [{**RULE, "operations": ["READ"]}])],
)  # fmt: skip
def test_a_configuration_that_cannot_work_is_refused_with_its_field(api: Client, field: str, value: object) -> None:
    hook = {"name": "a.example.com", "clientConfig": {"url": "https://127.0.0.1/"}, "rules": [RULE],
            "sideEffects": "None", "admissionReviewVersions": ["v1"], field: value}  # fmt: skip
    body = {"metadata": {"name": "refused"}, "webhooks": [hook]}
    code, answer = api.ask("POST", f"{GROUP}/validatingwebhookconfigurations", body)
    assert code == 422
    assert f"webhooks[0].{field}" in answer["message"]


def test_selectors_of_objects_and_rules_choose_who_is_asked(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/no"] = lambda _: {"allowed": False}
    register("validating", "no", hooks.url("/no"), objectSelector={"matchLabels": {"guarded": "yes"}})
    assert api.ask("POST", path(namespace), config_map("free"))[0] == 201
    guarded = {"metadata": {"name": "held", "labels": {"guarded": "yes"}}}
    assert api.ask("POST", path(namespace), guarded)[0] == 403
    assert api.ask("POST", f"/api/v1/namespaces/{namespace}/secrets", guarded)[0] == 201


def test_a_rule_for_one_version_covers_the_others(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/see"] = admission_hooks.allow
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["events"]}
    register("validating", "see", hooks.url("/see"), rule)
    event = {
        "metadata": {"name": "e1"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "c",
        "reportingInstance": "i",
        "action": "a",
        "reason": "r",
        "type": "Normal",
    }
    code, answer = api.ask("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)
    assert code == 201, answer
    (asked,) = hooks.asked("/see")
    assert (asked["resource"]["group"], asked["requestResource"]["group"]) == ("", "events.k8s.io")
    assert asked["object"]["involvedObject"]["name"] == "p"


def test_a_service_reference_is_resolved_and_its_name_must_be_in_the_certificate(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/guard"] = lambda _: {"allowed": False, "status": {"message": "found me"}}
    services = "/api/v1/namespaces/default/services"

    def config(name: str) -> dict[str, Any]:
        service = {"namespace": "default", "name": name, "path": "/guard", "port": hooks.port}
        return {"service": service, "caBundle": hooks.ca_bundle}

    for name in ("guard", "imposter"):
        made = {"metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": "localhost"}}
        assert api.ask("POST", services, made)[0] == 201
    try:
        register("validating", "imposter", config("imposter"), failurePolicy="Ignore")
        register("validating", "nobody", config("nobody"), failurePolicy="Ignore")
        assert api.ask("POST", path(namespace), config_map("before"))[0] == 201
        register("validating", "guard", config("guard"))
        assert "found me" in api.ask("POST", path(namespace), config_map())[1]["message"]
    finally:
        for name in ("guard", "imposter"):
            api.ask("DELETE", f"{services}/{name}")


def test_two_services_never_get_one_address_while_a_webhook_thinks(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    both = threading.Barrier(2, timeout=5)

    def together(_: dict[str, Any]) -> dict[str, Any]:
        both.wait()
        return {"allowed": True}

    hooks.answers["/wait"] = together
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["services"]}
    register("validating", "wait", hooks.url("/wait"), rule)
    at, codes = f"/api/v1/namespaces/{namespace}/services", []

    def make(name: str) -> None:
        body = {"metadata": {"name": name}, "spec": {"clusterIP": "10.96.200.200", "ports": [{"port": 80}]}}
        codes.append(api.ask("POST", at, body)[0])

    threads = [threading.Thread(target=make, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [201, 422]


def test_webhooks_are_not_asked_about_webhooks(
    api: Client, namespace: str, hooks: admission_hooks.Hooks, register: Register
) -> None:
    hooks.answers["/no"] = lambda _: {"allowed": False}
    rule = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "scope": "Cluster"}
    register("validating", "no", hooks.url("/no"), rule, namespaceSelector={})
    try:
        assert api.ask("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", {"metadata": {"name": "x"}})[0] == 403
    finally:
        assert api.ask("DELETE", f"{GROUP}/validatingwebhookconfigurations/no-{namespace}")[0] == 200
