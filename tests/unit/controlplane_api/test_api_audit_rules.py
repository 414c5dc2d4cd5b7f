"""Which rule of an audit policy decides about a request, and what a policy may not say."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.controlplane.api import access, auditrules, route

JANE = access.User("jane", ("devs", access.AUTHENTICATED))


def level(rule: dict[str, Any], path: str, *, verb: str = "get", user: access.User | None = JANE) -> str:
    """Return what a policy of one rule says of a request; a rule that does not match says None."""
    made = auditrules.policy(policy({"level": "Request", **rule}))
    return made.rule_for(user, verb, path, route.parse(path)).level


def policy(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **more}


POD, LOG, PODS = "/api/v1/namespaces/a/pods/p", "/api/v1/namespaces/a/pods/p/log", "/api/v1/pods"


@pytest.mark.parametrize(
    ("rule", "path", "is_meant"),
    [
        ({}, POD, True),
        ({}, "/version", True),
        ({"users": ["jane"], "userGroups": ["devs"], "verbs": ["get"]}, POD, True),
        ({"users": ["joe"]}, POD, False),
        ({"userGroups": ["ops"]}, POD, False),
        ({"verbs": ["list"]}, POD, False),
        ({"namespaces": ["a"]}, POD, True),
        ({"namespaces": ["a"]}, PODS, False),
        ({"namespaces": [""]}, PODS, True),
        ({"namespaces": ["a"]}, "/api/v1/namespaces/a", True),
        ({"namespaces": ["a"]}, "/version", False),
        ({"resources": [{"group": ""}]}, LOG, True),
        ({"resources": [{"group": "apps"}]}, POD, False),
        ({"resources": [{"resources": ["pods"]}]}, POD, True),
        ({"resources": [{"resources": ["pods"]}]}, LOG, False),
        ({"resources": [{"resources": ["pods/log"]}]}, LOG, True),
        ({"resources": [{"resources": ["pods/*"]}]}, POD, True),
        ({"resources": [{"resources": ["*/log"]}]}, LOG, True),
        ({"resources": [{"resources": ["*"]}]}, LOG, True),
        ({"resources": [{"resources": ["pods"], "resourceNames": ["p"]}]}, POD, True),
        ({"resources": [{"resources": ["pods"], "resourceNames": ["q"]}]}, POD, False),
        ({"nonResourceURLs": ["/version"]}, "/version", True),
        ({"nonResourceURLs": ["/health*", "/ver*"]}, "/version", True),
        ({"nonResourceURLs": ["*"]}, POD, False),
    ],
)
def test_a_rule_is_for_what_it_names(rule: dict[str, Any], path: str, is_meant: bool) -> None:
    assert level(rule, path) == ("Request" if is_meant else "None")


def test_the_first_rule_that_matches_decides_and_omits_what_the_policy_omits_too() -> None:
    first = {"level": "Metadata", "verbs": ["get"], "omitStages": ["Panic"], "omitManagedFields": False}
    given = policy(first, {"level": "Request"}, omitStages=["RequestReceived"], omitManagedFields=True)
    read, others = (auditrules.policy(given).rule_for(JANE, verb, POD, route.parse(POD)) for verb in ("get", "list"))
    assert (read.level, read.omitted, read.omits_managed_fields) == (
        "Metadata",
        frozenset({"RequestReceived", "Panic"}),
        False,
    )
    assert (others.level, others.omitted, others.omits_managed_fields) == (
        "Request",
        frozenset({"RequestReceived"}),
        True,
    )


def test_who_is_not_known_is_no_user_of_a_rule() -> None:
    assert level({"users": ["jane"]}, POD, user=None) == "None"
    assert level({}, POD, user=None) == "Request"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "the policy: must be an object"),
        ({"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}, "rules: at least one"),
        ({**policy({"level": "None"}), "kind": "Rules"}, "apiVersion and kind"),
        (policy({}), r"rules\[0\].level"),
        (policy({"level": "All"}), r"rules\[0\].level: must be one of None, Metadata"),
        (policy({"level": "None", "user": ["x"]}), r"rules\[0\]: unknown field 'user'"),
        (policy({"level": "None", "users": "x"}), r"rules\[0\].users: must be a list of texts"),
        (policy({"level": "None", "nonResourceURLs": ["version"]}), "must begin with a '/'"),
        (policy({"level": "None", "nonResourceURLs": ["/a*b"]}), "must be the final character"),
        (policy({"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}), "cannot apply to both"),
        (policy({"level": "None", "resources": [{"resourceNames": ["x"]}]}), "requires at least one resource"),
        (policy({"level": "None", "resources": [{"group": "apps/v1"}]}), r"resources\[0\].group"),
        (policy({"level": "None"}, omitStages=["Sometimes"]), "omitStages: 'Sometimes'"),
        (policy({"level": "None", "omitManagedFields": "no"}), "omitManagedFields: must be true or false"),
    ],
)
def test_a_policy_that_says_what_it_may_not_is_refused_with_the_field(given: Any, why: str) -> None:
    with pytest.raises(auditrules.PolicyError, match=why):
        auditrules.policy(given)
