"""Judge writes by the cluster's ValidatingAdmissionPolicies: expressions that an administrator binds to resources.

After k8s.io/apiserver/pkg/admission/plugin/policy/validating.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from netplane.controlplane.api import conditions, converting, hooks, render, status, webhooks
from netplane.controlplane.registry import catalog, types
from netplane.controlplane.registry.cel import engine
from netplane.controlplane.registry.cluster.policies import VARIABLES
from netplane.controlplane.store import protocol
from netplane.kube import select
from netplane.kube.types import Object

POLICIES = f"validatingadmissionpolicies.{hooks.GROUP}"
BINDINGS = f"validatingadmissionpolicybindings.{hooks.GROUP}"
_CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}


@dataclass(frozen=True, slots=True)
class Bound:
    """A policy and one of its bindings."""

    policy: Object
    binding: Object

    @property
    def name(self) -> str:
        """The policy's name."""
        return str(self.policy["metadata"]["name"])

    @property
    def is_ignorable(self) -> bool:
        """Whether what cannot be evaluated counts as fulfilled."""
        return bool(self.policy["spec"].get("failurePolicy") == "Ignore")


@dataclass(frozen=True, slots=True)
class Failure:
    """A validation that does not hold, or cannot be evaluated."""

    message: str
    reason: str = "Invalid"


class Policies:
    """The cluster's policies. Reads them anew only when one has changed."""

    def __init__(self, store: protocol.Store, converter: converting.Converter) -> None:
        self._store = store
        self._converter = converter
        self._known: tuple[int, int, tuple[Bound, ...]] = (-1, -1, ())

    def any(self) -> bool:
        """Whether any policy is bound at all."""
        return bool(self._store.cache(BINDINGS).records)

    async def check(self, call: hooks.Call, registry: catalog.Registry, told: webhooks.Told) -> None:
        """Judge a write; raise what forbids it."""
        if call.of.group == hooks.GROUP:
            return
        for bound in self._bound():
            of = self._concerned(bound, call, registry)
            if of is None:
                continue
            failures = await self._failures(bound, await self._converter.call(call, of), of, registry, told)
            _enforce(bound, call, failures, told)

    def _bound(self) -> tuple[Bound, ...]:
        policies, bindings = self._store.cache(POLICIES), self._store.cache(BINDINGS)
        if self._known[:2] != (policies.window.end, bindings.window.end):
            by_name = {record.key[1]: orjson.loads(record.value) for record in policies.range()}
            read: Iterator[Object] = (orjson.loads(record.value) for record in bindings.range())
            found = tuple(
                Bound(by_name[each["spec"]["policyName"]], each)
                for each in read
                if each["spec"]["policyName"] in by_name
            )
            self._known = (policies.window.end, bindings.window.end, found)
        return self._known[2]

    def _concerned(self, bound: Bound, call: hooks.Call, registry: catalog.Registry) -> types.ResourceType | None:
        labels: Mapping[str, str] = {}
        record = self._store.cache("namespaces").records.get(("", call.namespace))
        if record is not None:
            labels = record.index.labels
        versions = [each for each in registry.all() if each.is_stored and each.stored == call.of.stored]
        of = _matching(bound.policy["spec"]["matchConstraints"], call, versions, labels)
        narrowed = bound.binding["spec"].get("matchResources")
        if of is not None and narrowed and _matching(narrowed, call, versions, labels) is None:
            return None
        return of

    async def _failures(
        self, bound: Bound, call: hooks.Call, of: types.ResourceType, registry: catalog.Registry, told: webhooks.Told
    ) -> list[Failure]:
        variables: dict[str, Any] = conditions.variables_of(call, of)
        record = self._store.cache("namespaces").records.get(("", call.namespace))
        variables["namespaceObject"] = orjson.loads(record.value) if record is not None else None
        variables |= {"params": None, "variables": {}}
        budget = engine.Budget()
        try:
            stated = bound.policy["spec"].get("matchConditions") or ()
            if stated and not conditions.all_hold(stated, variables, budget, VARIABLES):
                return []
            found: list[Failure] = []
            for params in await self._params(bound, call, registry):
                found += _validations(bound, variables | {"params": params}, budget, told)
        except hooks.BadAnswer as error:
            return [] if bound.is_ignorable else [Failure(str(error))]
        return found

    async def _params(self, bound: Bound, call: hooks.Call, registry: catalog.Registry) -> list[Object | None]:
        kind, reference = bound.policy["spec"].get("paramKind"), bound.binding["spec"].get("paramRef")
        if not kind or not reference:
            return [None]
        group, _, version = str(kind["apiVersion"]).rpartition("/")
        of = registry.find_kind(group, version, kind["kind"])
        if of is None:
            raise hooks.BadAnswer(
                f"failed to find resource referenced by paramKind: {kind['apiVersion']}/{kind['kind']}"
            )
        namespace = (reference.get("namespace") or call.namespace) if of.namespaced else ""
        cache = self._store.cache(of.stored.group_resource)
        if "name" in reference:
            record = cache.records.get((namespace, reference["name"]))
            records = [record] if record is not None else []
        else:
            chosen = reference["selector"]
            records = [each for each in cache.range(namespace=namespace) if select.matches(chosen, each.index.labels)]
        if not records and reference.get("parameterNotFoundAction") == "Deny":
            raise hooks.BadAnswer("failed to configure binding: no params found for policy binding with `Deny` action")
        return [render.decoded(of, each) for each in await self._converter.records(of, records)]


def _matching(
    match: Mapping[str, Any], call: hooks.Call, versions: Sequence[types.ResourceType], labels: Mapping[str, str]
) -> types.ResourceType | None:
    """Return the version of the type in which a write is to be judged, None when it is no concern of the policy's."""
    if not hooks.is_chosen(match, call, labels):
        return None
    if any(hooks.covers(rule, call, call.of) for rule in match.get("excludeResourceRules") or ()):
        return None
    rules = match.get("resourceRules")
    if not rules:
        return call.of
    others = () if match.get("matchPolicy") == "Exact" else tuple(each for each in versions if each is not call.of)
    found = (of for of in (call.of, *others) if any(hooks.covers(rule, call, of) for rule in rules))
    return next(found, None)


def _validations(bound: Bound, variables: dict[str, Any], budget: engine.Budget, told: webhooks.Told) -> list[Failure]:
    spec, found = bound.policy["spec"], [Failure("")][:0]
    size = conditions.size_of(variables)
    composed: dict[str, Any] = {}
    variables = variables | {"variables": composed}
    for each in spec.get("variables") or ():
        try:
            composed[each["name"]] = _value(each["expression"], variables, budget, size)
        except engine.EvaluationError:
            continue  # whoever reads it finds it missing, and says so
    for each in spec.get("validations") or ():
        try:
            if _value(each["expression"], variables, budget, size) is True:
                continue
            found.append(Failure(_message(each, variables, budget, size), each.get("reason") or "Invalid"))
        except engine.EvaluationError as error:
            if not bound.is_ignorable:
                found.append(Failure(f"expression '{each['expression']}' resulted in error: {error}"))
    for each in spec.get("auditAnnotations") or ():
        try:
            value = _value(each["valueExpression"], variables, budget, size)
        except engine.EvaluationError:
            continue
        if value is not None:
            told.annotations[f"{bound.name}/{each['key']}"] = str(value)
    return found


def _value(expression: str, variables: Mapping[str, Any], budget: engine.Budget, size: engine.Size) -> Any:
    try:
        return conditions.program(expression, VARIABLES).evaluate(variables, budget, size)
    except engine.CompileError as error:
        raise engine.EvaluationError(str(error)) from error


def _message(stated: Object, variables: Mapping[str, Any], budget: engine.Budget, size: engine.Size) -> str:
    if stated.get("messageExpression"):
        try:
            text = _value(stated["messageExpression"], variables, budget, size)
        except engine.EvaluationError:
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text.strip()
    return str(stated.get("message") or f"failed expression: {stated['expression'].strip()}")


def _enforce(bound: Bound, call: hooks.Call, failures: list[Failure], told: webhooks.Told) -> None:
    """Do with what failed as the binding says: warn, note, refuse."""
    actions = bound.binding["spec"].get("validationActions") or ()
    binding = bound.binding["metadata"]["name"]
    for failure in failures:
        if "Warn" in actions:
            told.warnings.append(
                f"Validation failed for ValidatingAdmissionPolicy '{bound.name}' with binding '{binding}':"
                f" {failure.message}"
            )
    if failures and "Audit" in actions:
        noted = [{"message": each.message, "policy": bound.name, "binding": binding} for each in failures]
        told.annotations["validation.policy.admission.k8s.io/validation_failure"] = orjson.dumps(noted).decode()
    if failures and "Deny" in actions:
        raise _denied(bound.name, binding, call, failures[0])


def _denied(policy: str, binding: str, call: hooks.Call, failure: Failure) -> status.ApiStatus:
    why = f"ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {failure.message}"
    of = call.of
    message = f'{of.resource.group_resource} "{call.name}" is forbidden: {why}'
    cause: Object = {"message": why}
    details: Object = {"name": call.name, "kind": of.plural, "causes": [cause]}
    if of.group:
        details["group"] = of.group
    return status.ApiStatus(_CODES.get(failure.reason, 422), failure.reason, message, details=details)
