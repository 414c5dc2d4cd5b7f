"""How Jobs go on and come to their end: indexes, what failures mean, what is success (pkg/apis/batch/validation)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_MODES = ("NonIndexed", "Indexed")
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_OPERATORS = ("In", "NotIn")
_STATUSES = ("False", "True", "Unknown")
_REPLACEMENTS = ("Failed", "TerminatingOrFailed")
_MOST = 100_000
"""Pods of an indexed Job at once, indexes that may fail, and completions before both are bound more tightly."""
_MOST_OF_MANY = 10_000
_MOST_RULES = 20
_MOST_CODES = 255
_MOST_MANAGER = 63
_MOST_INDEXES = 64 * 1024
_domain_path = re.compile(r"[^/]+/.+").fullmatch
_NEITHER = "specifying one of OnExitCodes and OnPodConditions is required"
_BOTH = "specifying both OnExitCodes and OnPodConditions is not supported"


class _Unreadable(Exception):
    """A list of indexes cannot be read: why."""


def progress_faults(spec: Object, path: str) -> list[Fault]:
    """Return every fault of a JobSpec's indexes and policies; counts are known not to be negative."""
    spec = {name: value for name, value in spec.items() if value is not None}
    found = _manager(spec.get("managedBy"), f"{path}.managedBy")
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        found.append(faults.required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified"))
    mode = spec.get("completionMode", "NonIndexed")
    if mode not in _MODES:
        found.append(faults.not_supported(f"{path}.completionMode", mode, _MODES))
    found += _indexed(spec, path) if mode == "Indexed" else _not_indexed(spec, path, mode)
    if "podFailurePolicy" in spec:
        found += _failure_policy(spec, f"{path}.podFailurePolicy")
    if "successPolicy" in spec and mode == "Indexed":
        found += _success_policy(spec["successPolicy"], spec.get("completions", 0), f"{path}.successPolicy")
    replaced = spec.get("podReplacementPolicy")
    supported = ("Failed",) if "podFailurePolicy" in spec else _REPLACEMENTS
    if replaced is not None and replaced not in supported:
        found.append(faults.not_supported(f"{path}.podReplacementPolicy", replaced, supported))
    return found


def restart_faults(spec: Object, path: str) -> list[Fault]:
    """Return the fault of how a Job's pods restart: they must come to an end."""
    policy = (spec["template"].get("spec") or {}).get("restartPolicy", "")
    at = f"{path}.template.spec.restartPolicy"
    if policy in ("", "Always"):
        return [faults.required(at, 'valid values: "OnFailure", "Never"')]
    if policy not in ("OnFailure", "Never"):
        return [faults.not_supported(at, policy, ("OnFailure", "Never"))]
    if spec.get("podFailurePolicy") is not None and policy != "Never":
        return [faults.invalid(at, policy, 'only "Never" is supported when podFailurePolicy is specified')]
    return []


def new_job(obj: Object) -> list[Fault]:
    """Return what a new Job may not have that one which runs may: a name too long for the names of its pods."""
    spec, name = obj["spec"], obj["metadata"].get("name", "")
    if spec.get("completionMode") != "Indexed" or not spec.get("completions"):
        return []
    longest = f"{name}-{spec['completions'] - 1}"
    detail = f"will not able to create pod with invalid DNS label: {longest}"
    return [faults.invalid("metadata.name", name, detail)] if names.label(longest) else []


def _manager(name: str | None, path: str) -> list[Fault]:
    if name is None:
        return []
    if not _domain_path(name) or names.subdomain(name.partition("/")[0]):
        return [faults.invalid(path, name, 'must be a domain-prefixed path (such as "acme.io/foo")')]
    return [faults.too_long(path, _MOST_MANAGER)] if len(name) > _MOST_MANAGER else []


def _not_indexed(spec: Object, path: str, mode: str) -> list[Fault]:
    detail = "requires indexed completion mode"
    given = ("backoffLimitPerIndex", "maxFailedIndexes") if mode == "NonIndexed" else ()
    found = [faults.invalid(f"{path}.{name}", spec[name], detail) for name in given if name in spec]
    if "successPolicy" in spec:
        found.append(faults.invalid(f"{path}.successPolicy", spec["successPolicy"], detail))
    return found


def _indexed(spec: Object, path: str) -> list[Fault]:
    completions, parallelism = spec.get("completions"), spec.get("parallelism", 0)
    failed = spec.get("maxFailedIndexes")
    found: list[Fault] = []
    if completions is None:
        found.append(faults.required(f"{path}.completions", "when completion mode is Indexed"))
    if parallelism > _MOST:
        detail = f"must be less than or equal to {_MOST} when completion mode is Indexed"
        found.append(faults.invalid(f"{path}.parallelism", parallelism, detail))
    if failed is not None and completions is not None and failed > completions:
        found.append(faults.invalid(f"{path}.maxFailedIndexes", failed, "must be less than or equal to completions"))
    if failed is not None and failed > _MOST:
        found.append(faults.invalid(f"{path}.maxFailedIndexes", failed, f"must be less than or equal to {_MOST}"))
    if completions is None or completions <= _MOST or "backoffLimitPerIndex" not in spec:
        return found
    if failed is None:
        detail = f"must be specified when completions is above {_MOST}"
        found.append(faults.required(f"{path}.maxFailedIndexes", detail))
    detail = (
        f"must be less than or equal to {_MOST_OF_MANY} when completions are above {_MOST} and used with backoff limit "
        "per index"
    )
    bound = (("parallelism", parallelism), ("maxFailedIndexes", failed or 0))
    return found + [faults.invalid(f"{path}.{name}", value, detail) for name, value in bound if value > _MOST_OF_MANY]


def _failure_policy(spec: Object, path: str) -> list[Fault]:
    rules = spec["podFailurePolicy"].get("rules") or []
    found = [faults.too_many(f"{path}.rules", len(rules), _MOST_RULES)] if len(rules) > _MOST_RULES else []
    pod = spec["template"].get("spec") or {}
    containers = {
        each.get("name") for kind in ("containers", "initContainers") for each in pod.get(kind) or ()
    }  # fmt: skip
    for index, rule in enumerate(rules):
        at, action = f"{path}.rules[{index}]", rule.get("action", "")
        if action == "FailIndex" and "backoffLimitPerIndex" not in spec:
            detail = "requires the backoffLimitPerIndex to be set"
            found.append(faults.invalid(f"{at}.action", action, detail))
        found += _one_of(action, _ACTIONS, f"{at}.action")
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or []
        if codes is not None:
            found += _exit_codes(codes, f"{at}.onExitCodes", containers)
        if len(conditions) > _MOST_RULES:
            found.append(faults.too_many(f"{at}.onPodConditions", len(conditions), _MOST_RULES))
        for position, each in enumerate(conditions):
            where = f"{at}.onPodConditions[{position}]"
            kind = each.get("type", "")
            found += [faults.invalid(f"{where}.type", kind, text) for text in names.qualified(kind)]
            found += _one_of(each.get("status", ""), _STATUSES, f"{where}.status")
        if (codes is None) == (not conditions):
            found.append(faults.bare(at, _NEITHER if codes is None else _BOTH))
    return found


def _one_of(value: str, supported: Iterable[str], path: str) -> list[Fault]:
    if not value:
        quoted = " ".join(f'"{each}"' for each in supported)
        return [faults.required(path, f"valid values: [{quoted}]")]
    return [] if value in supported else [faults.not_supported(path, value, supported)]


def _exit_codes(codes: Object, path: str, containers: set[Any]) -> list[Fault]:
    operator, values = codes.get("operator", ""), codes.get("values") or []
    found = _one_of(operator, _OPERATORS, f"{path}.operator")
    if codes.get("containerName") is not None and codes["containerName"] not in containers:
        detail = "must be one of the container or initContainer names in the pod template"
        found.append(faults.invalid(f"{path}.containerName", codes["containerName"], detail))
    if not values:
        found.append(faults.invalid(f"{path}.values", values, "at least one value is required"))
    elif len(values) > _MOST_CODES:
        found.append(faults.too_many(f"{path}.values", len(values), _MOST_CODES))
    for index, each in enumerate(values):
        if operator == "In" and each == 0:
            found.append(faults.invalid(f"{path}.values[{index}]", each, "must not be 0 for the In operator"))
        if each in values[:index]:
            found.append(faults.duplicate(f"{path}.values[{index}]", each))
    if values != sorted(values):
        found.append(faults.invalid(f"{path}.values", values, "must be ordered"))
    return found


def _success_policy(policy: Object, completions: int, path: str) -> list[Fault]:
    rules, at = policy.get("rules") or [], f"{path}.rules"
    if not rules:
        return [faults.required(at, "at least one rules must be specified when the successPolicy is specified")]
    found = [faults.too_many(at, len(rules), _MOST_RULES)] if len(rules) > _MOST_RULES else []
    for index, rule in enumerate(rules):
        found += _success_rule(rule, completions, f"{at}[{index}]")
    return found


def _success_rule(rule: Object, completions: int, path: str) -> list[Fault]:
    count, indexes = rule.get("succeededCount"), rule.get("succeededIndexes")
    if count is None and indexes is None:
        return [faults.required(path, "at least one of succeededCount or succeededIndexes must be specified")]
    found: list[Fault] = []
    total = 0
    if indexes is not None:
        at = f"{path}.succeededIndexes"
        if len(indexes) > _MOST_INDEXES:
            found.append(faults.too_long(at, _MOST_INDEXES))
        try:
            total = _total(indexes, completions)
        except _Unreadable as why:
            found.append(faults.invalid(at, indexes, f"error parsing succeededIndexes: {why}"))
    if count is not None:
        at, detail = f"{path}.succeededCount", "must be less than or equal to"
        if count < 0:
            found.append(faults.invalid(at, count, names.NOT_NEGATIVE))
        if count > completions:
            found.append(faults.invalid(at, count, f"{detail} {completions} (the number of specified completions)"))
        if indexes is not None and count > total:
            which = "the number of indexes in the specified succeededIndexes field"
            found.append(faults.invalid(at, count, f"{detail} {total} ({which})"))
    return found


def _total(indexes: str, completions: int) -> int:
    """Return how many indexes a text such as `1,3-5` names."""
    last, total = -1, 0
    for each in indexes.split(",") if indexes else ():
        ends = each.split("-")
        if len(ends) > 2:
            rule = "an index interval can have at most two parts separated by '-'"
            raise _Unreadable(f'the fragment "{each}" violates the requirement that {rule}')
        first, *others = (_index(end, completions) for end in ends)
        end = others[0] if others else first
        if others and first >= end:
            raise _Unreadable(f"non-increasing order, previous: {first}, current: {end}")
        if last >= first:
            raise _Unreadable(f"non-increasing order, previous: {last}, current: {first}")
        last, total = end, total + end - first + 1
    return total


def _index(text: str, completions: int) -> int:
    if not re.fullmatch(r"\+?[0-9]+", text):
        raise _Unreadable(f'cannot convert string to integer for index: "{text}"')
    if int(text) >= completions:
        raise _Unreadable(f'too large index: "{text}"')
    return int(text)
