"""ValidatingAdmissionPolicies and their bindings: defaults, and what they must fulfil."""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.cluster import hooks
from netplane.controlplane.registry.faults import Fault
from netplane.kube.types import Object

VARIABLES = (*hooks.VARIABLES, "params", "namespaceObject", "variables")
_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
_ACTIONS = ("Audit", "Deny", "Warn")


def default_policy(obj: Object) -> None:
    """Fill in a ValidatingAdmissionPolicy."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("failurePolicy", "Fail")
    _default_match(spec.get("matchConstraints"))


def default_binding(obj: Object) -> None:
    """Fill in a ValidatingAdmissionPolicyBinding."""
    _default_match(obj.setdefault("spec", {}).get("matchResources"))


def _default_match(match: Object | None) -> None:
    if match is None:
        return
    match.setdefault("matchPolicy", "Equivalent")
    match.setdefault("namespaceSelector", {})
    match.setdefault("objectSelector", {})
    for name in ("resourceRules", "excludeResourceRules"):
        for rule in match.get(name) or ():
            rule.setdefault("scope", "*")


def validate_policy(obj: Object) -> list[Fault]:
    """Return every fault of a ValidatingAdmissionPolicy."""
    spec = obj["spec"]
    found: list[Fault] = []
    if spec["failurePolicy"] not in ("Fail", "Ignore"):
        found.append(faults.not_supported("spec.failurePolicy", spec["failurePolicy"], ("Fail", "Ignore")))
    rules = (spec.get("matchConstraints") or {}).get("resourceRules") or ()
    if not rules:
        found.append(faults.required("spec.matchConstraints.resourceRules"))
    for index, rule in enumerate(rules):
        found += hooks.rule_faults(rule, f"spec.matchConstraints.resourceRules[{index}]")
    found += hooks.conditions(spec.get("matchConditions") or (), "spec.matchConditions", VARIABLES)
    for index, each in enumerate(spec.get("variables") or ()):
        found += hooks.expression(each.get("expression", ""), f"spec.variables[{index}].expression", VARIABLES)
    if not spec.get("validations") and not spec.get("auditAnnotations"):
        found.append(faults.required("spec.validations", "validations or auditAnnotations must be set"))
    for index, each in enumerate(spec.get("validations") or ()):
        found += _validation(each, f"spec.validations[{index}]")
    for index, each in enumerate(spec.get("auditAnnotations") or ()):
        at = f"spec.auditAnnotations[{index}].valueExpression"
        found += hooks.expression(each.get("valueExpression", ""), at, VARIABLES)
    return found


def _validation(stated: Object, at: str) -> list[Fault]:
    found = hooks.expression(stated.get("expression", ""), f"{at}.expression", VARIABLES)
    if stated.get("messageExpression"):
        found += hooks.expression(stated["messageExpression"], f"{at}.messageExpression", VARIABLES)
    if stated.get("reason") and stated["reason"] not in _REASONS:
        found.append(faults.not_supported(f"{at}.reason", stated["reason"], _REASONS))
    return found


def validate_binding(obj: Object) -> list[Fault]:
    """Return every fault of a ValidatingAdmissionPolicyBinding."""
    spec = obj["spec"]
    found: list[Fault] = []
    if not spec.get("policyName"):
        found.append(faults.required("spec.policyName"))
    actions = spec.get("validationActions") or ()
    if not actions:
        found.append(faults.required("spec.validationActions"))
    for index, each in enumerate(actions):
        if each not in _ACTIONS:
            found.append(faults.not_supported(f"spec.validationActions[{index}]", each, _ACTIONS))
    if {"Deny", "Warn"} <= set(actions):
        detail = "must not contain both Deny and Warn (repeating the same validation failure information)"
        found.append(faults.invalid("spec.validationActions", list(actions), detail))
    reference = spec.get("paramRef")
    if reference is not None:
        if ("name" in reference) == ("selector" in reference):
            found.append(faults.required("spec.paramRef.name", "one of name or selector must be specified"))
        if reference.get("parameterNotFoundAction") not in ("Allow", "Deny"):
            found.append(faults.required("spec.paramRef.parameterNotFoundAction"))
    return found
