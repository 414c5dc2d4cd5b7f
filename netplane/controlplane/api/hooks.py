"""Decide which admission webhooks a write concerns, what they are asked, and what their answers mean. Pure.

The wire format is admission.k8s.io/v1. Calling them is webhooks'.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from netplane.controlplane.api import access, status
from netplane.controlplane.registry import types
from netplane.kube import select
from netplane.kube.types import Object

GROUP = "admissionregistration.k8s.io"
MUTATING = f"mutatingwebhookconfigurations.{GROUP}"
VALIDATING = f"validatingwebhookconfigurations.{GROUP}"
_VERSION = "admission.k8s.io/v1"
_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


class BadAnswer(Exception):
    """A webhook did not answer as the protocol demands; the message says how."""


@dataclass(frozen=True, slots=True)
class Call:
    """A write that webhooks may be asked about. `obj` is None for a deletion, `old` for a creation.

    `kind` is the object's (group, version, kind) where it is not the type's own, as the Eviction of a pod.
    """

    operation: str
    of: types.ResourceType
    user: access.User
    namespace: str
    name: str
    obj: Object | None
    old: Object | None
    subresource: str = ""
    is_dry_run: bool = False
    kind: tuple[str, str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def subject(self) -> tuple[str, str, str]:
        """The (group, version, kind) of the object."""
        return self.kind or (self.of.group, self.of.version, self.of.kind)


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of a configuration, as it is stored."""

    configuration: str
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The webhook's own name."""
        return str(self.spec["name"])

    @property
    def seconds(self) -> float:
        """How long it may take to answer."""
        return float(self.spec.get("timeoutSeconds") or 10)

    @property
    def is_ignorable(self) -> bool:
        """Whether a webhook that cannot be asked counts as one that allows."""
        return self.spec.get("failurePolicy") == "Ignore"

    @property
    def is_harmless(self) -> bool:
        """Whether it may be asked about a write that is not meant."""
        return self.spec.get("sideEffects") in ("None", "NoneOnDryRun")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a webhook said. `patch` is the JSON patch it wants."""

    is_allowed: bool
    message: str = ""
    reason: str = ""
    code: int = 403
    patch: Sequence[Any] = ()
    warnings: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)


def hooks(configurations: Iterable[Object]) -> tuple[Hook, ...]:
    """Return the webhooks of configurations, in the order in which they are asked."""
    ordered = sorted(configurations, key=lambda each: str(each["metadata"]["name"]))
    return tuple(Hook(each["metadata"]["name"], spec) for each in ordered for spec in each.get("webhooks") or ())


def concerned(
    hook: Hook, call: Call, versions: Sequence[types.ResourceType], namespace_labels: Mapping[str, str]
) -> types.ResourceType | None:
    """Return the version of the type in which the webhook is to be asked, None when the write is no concern of its.

    A webhook with matchPolicy Equivalent is asked about every version of what its rules name, in the named one.
    """
    if call.of.group == GROUP:
        return None  # a webhook that could forbid its own removal would lock the cluster
    if not is_chosen(hook.spec, call, namespace_labels):
        return None
    is_exact = hook.spec.get("matchPolicy") == "Exact" or call.kind is not None
    others = () if is_exact else tuple(each for each in versions if each is not call.of)
    for of in (call.of, *others):
        if any(covers(rule, call, of) for rule in hook.spec.get("rules") or ()):
            return of
    return None


def is_chosen(spec: Mapping[str, Any], call: Call, namespace_labels: Mapping[str, str]) -> bool:
    """Whether `namespaceSelector` and `objectSelector` both meet the write."""
    if call.of.namespaced or (call.of.kind == "Namespace" and not call.of.group):
        known = namespace_labels if call.of.namespaced else _labels(call.obj or call.old)
        if not select.matches(spec.get("namespaceSelector") or {}, known):
            return False
    chosen = spec.get("objectSelector") or {}
    return any(select.matches(chosen, _labels(each)) for each in (call.obj, call.old) if each is not None)


def _labels(obj: Object | None) -> Mapping[str, str]:
    return ((obj or {}).get("metadata") or {}).get("labels") or {}


def covers(rule: Mapping[str, Any], call: Call, of: types.ResourceType) -> bool:
    """Whether a rule names the write, were it one of this version of the type."""
    scope = rule.get("scope") or "*"
    names = rule.get("resourceNames")
    return (
        _has(rule.get("operations"), call.operation)
        and _has(rule.get("apiGroups"), of.group)
        and _has(rule.get("apiVersions"), of.version)
        and scope in ("*", "Namespaced" if of.namespaced else "Cluster")
        and any(_names(each, of.plural, call.subresource) for each in rule.get("resources") or ())
        and (not names or call.name in names)
    )


def _has(values: Sequence[str] | None, value: str) -> bool:
    return "*" in (values or ()) or value in (values or ())


def _names(pattern: str, plural: str, subresource: str) -> bool:
    """Whether `pods`, `pods/status`, `pods/*`, `*`, `*/status` or `*/*` names the resource."""
    resource, slash, part = pattern.partition("/")
    if resource not in ("*", plural):
        return False
    return part in ("*", subresource) if slash else not subresource


def review(call: Call, of: types.ResourceType, uid: str, user_info: Object) -> Object:
    """Return the AdmissionReview that is sent; `of` is the version in which the webhook is asked."""
    asked: Object = {
        "uid": uid,
        **attributes(call, of, user_info),
        "object": call.obj,
        "oldObject": call.old,
    }
    return {"apiVersion": _VERSION, "kind": "AdmissionReview", "request": asked}


def attributes(call: Call, of: types.ResourceType, user_info: Object) -> Object:
    """Return what is said of a write beside its objects; expressions see the same as `request`."""
    sent = call.kind or (of.group, of.version, of.kind)
    asked: Object = {
        "kind": _kind(sent),
        "resource": {"group": of.group, "version": of.version, "resource": of.plural},
        "requestKind": _kind(call.subject()),
        "requestResource": {"group": call.of.group, "version": call.of.version, "resource": call.of.plural},
        "name": call.name,
        "operation": call.operation,
        "userInfo": user_info,
        "dryRun": call.is_dry_run,
    }
    if call.operation in _OPTIONS:
        asked["options"] = {"apiVersion": "meta.k8s.io/v1", "kind": _OPTIONS[call.operation], **call.options}
    if call.namespace:
        asked["namespace"] = call.namespace
    if call.subresource:
        asked["subResource"] = asked["requestSubResource"] = call.subresource
    return asked


def _kind(subject: tuple[str, str, str]) -> Object:
    group, version, kind = subject
    return {"group": group, "version": version, "kind": kind}


def verdict(body: bytes, uid: str, *, is_mutating: bool) -> Verdict:
    """Read a webhook's answer; raise BadAnswer."""
    try:
        told = orjson.loads(body)
        answer = told["response"]
        if told.get("apiVersion") != _VERSION or told.get("kind") != "AdmissionReview" or answer.get("uid") != uid:
            raise BadAnswer(f"expected response of {_VERSION}, Kind=AdmissionReview with uid={uid}")
        shown = answer.get("status") or {}
        code = int(shown.get("code") or 403)
        return Verdict(
            answer.get("allowed") is True,
            str(shown.get("message") or ""),
            str(shown.get("reason") or ""),
            code if 400 <= code < 600 else 403,
            _patch(answer) if is_mutating else (),
            tuple(str(each) for each in answer.get("warnings") or ()),
            {str(key): str(value) for key, value in (answer.get("auditAnnotations") or {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadAnswer(f"the answer is no AdmissionReview: {type(error).__name__}: {error}") from error


def _patch(answer: Mapping[str, Any]) -> Sequence[Any]:
    if not answer.get("patch"):
        return ()
    if answer.get("patchType") != "JSONPatch":
        raise BadAnswer(f"patchType {answer.get('patchType')!r} is not JSONPatch")
    try:
        patch = orjson.loads(base64.b64decode(answer["patch"], validate=True))
    except (binascii.Error, ValueError) as error:
        raise BadAnswer(f"the patch cannot be read: {error}") from error
    if not isinstance(patch, list):
        raise BadAnswer("the patch is no list of operations")
    return patch


def denial(hook: Hook, told: Verdict) -> status.ApiStatus:
    """Return the refusal that a webhook's denial is for the client."""
    why = f": {told.message}" if told.message else " without explanation"
    if not told.message and told.reason:
        why = f": {told.reason}"
    message = f'admission webhook "{hook.name}" denied the request{why}'
    return status.ApiStatus(told.code, told.reason or ("Forbidden" if told.code == 403 else "BadRequest"), message)
