"""ValidatingAdmissionPolicies, and the matchConditions of webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import apiserver
from tests.support.http_client import Client

GROUP = "/apis/admissionregistration.k8s.io/v1"
RULE = {"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
Bind = Callable[..., str]


@pytest.fixture
def api(server: apiserver.Server) -> Client:
    return Client(server)


@pytest.fixture
def bind(api: Client, namespace: str) -> Iterator[Bind]:
    """Make a policy bound to the test's namespace; both go with the test."""
    made: list[str] = []

    def add(*validations: dict[str, Any], actions: tuple[str, ...] = ("Deny",), **more: Any) -> str:
        binding_more = more.pop("binding", {})
        constraints = {"resourceRules": [RULE]}
        policy = {"metadata": {"name": namespace}, "spec": {"validations": list(validations), **more}}
        policy["spec"].setdefault("matchConstraints", constraints)
        chosen = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        spec = {"policyName": namespace, "validationActions": list(actions), "matchResources": chosen, **binding_more}
        for plural, body in (
            ("validatingadmissionpolicies", policy),
            ("validatingadmissionpolicybindings", {"metadata": {"name": namespace}, "spec": spec}),
        ):
            code, answer = api.ask("POST", f"{GROUP}/{plural}", body)
            assert code == 201, answer
            made.append(f"{GROUP}/{plural}/{namespace}")
        return f"/api/v1/namespaces/{namespace}/configmaps"

    yield add
    for path in made:
        api.ask("DELETE", path)


def config_map(name: str = "one", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def test_a_policy_refuses_what_its_expression_does_not_allow(api: Client, bind: Bind) -> None:
    path = bind({"expression": "object.data.size() < 2", "messageExpression": "'has ' + string(object.data.size())"})
    assert api.ask("POST", path, config_map(a="1"))[0] == 201
    code, refused = api.ask("POST", path, config_map("two", a="1", b="2"))
    assert code == 422
    assert "denied request: has 2" in refused["message"]


def test_variables_parameters_and_the_request_are_known_to_expressions(api: Client, bind: Bind, namespace: str) -> None:
    api.ask("POST", f"/api/v1/namespaces/{namespace}/configmaps", config_map("limits", most="1"))
    path = bind(
        {"expression": "variables.count <= int(params.data.most)", "reason": "Forbidden", "message": "too many"},
        {"expression": "request.userInfo.username == 'kubernetes-admin'"},
        {"expression": "namespaceObject.metadata.name == object.metadata.namespace"},
        variables=[{"name": "count", "expression": "object.data.size()"}],
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
        binding={"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}},
    )
    assert api.ask("POST", path, config_map(a="1"))[0] == 201
    code, refused = api.ask("POST", path, config_map("two", a="1", b="2"))
    assert (code, refused["reason"]) == (403, "Forbidden")
    assert "too many" in refused["message"]


def test_a_binding_may_warn_in_place_of_refusing(api: Client, bind: Bind) -> None:
    path = bind({"expression": "false", "message": "mind this"}, actions=("Warn",))
    code, _, headers = api.raw("POST", path, config_map())
    assert code == 201
    assert "mind this" in headers["warning"]


def test_conditions_choose_what_a_policy_is_about(api: Client, bind: Bind) -> None:
    only = [{"name": "only-guarded", "expression": "object.metadata.name.startsWith('guarded')"}]
    path = bind({"expression": "false"}, matchConditions=only)
    assert api.ask("POST", path, config_map("free"))[0] == 201
    assert api.ask("POST", path, config_map("guarded"))[0] == 422


@pytest.mark.parametrize(("policy", "code"), [("Fail", 422), ("Ignore", 201)])
def test_what_cannot_be_evaluated_counts_as_the_policy_says(api: Client, bind: Bind, policy: str, code: int) -> None:
    path = bind({"expression": "object.data.missing == 'x'"}, failurePolicy=policy)
    assert api.ask("POST", path, config_map(a="1"))[0] == code


def test_a_policy_that_does_not_compile_is_refused(api: Client) -> None:
    spec = {"matchConstraints": {"resourceRules": [RULE]}, "validations": [{"expression": "object.a =="}]}
    body = {"metadata": {"name": "broken"}, "spec": spec}
    code, refused = api.ask("POST", f"{GROUP}/validatingadmissionpolicies", body)
    assert (code, refused["details"]["causes"][0]["field"]) == (422, "spec.validations[0].expression")


def test_a_webhook_is_asked_only_where_its_conditions_hold(api: Client, namespace: str) -> None:
    large = f"request.namespace == '{namespace}' && object.data.size() > 1"
    hook = {
        "name": "nobody.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [RULE],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "matchConditions": [{"name": "only", "expression": large}],
    }
    path = f"{GROUP}/validatingwebhookconfigurations"
    code, answer = api.ask("POST", path, {"metadata": {"name": namespace}, "webhooks": [hook]})
    assert code == 201, answer
    try:
        maps = f"/api/v1/namespaces/{namespace}/configmaps"
        assert api.ask("POST", maps, config_map("small", a="1"))[0] == 201
        assert api.ask("POST", maps, config_map("large", a="1", b="2"))[0] == 500
    finally:
        api.ask("DELETE", f"{path}/{namespace}")
