"""admissionregistration.k8s.io: webhooks and policies, which the API asks before it stores."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults, hooks, policies
from netplane.controlplane.registry.groups.shared import STATUS
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Object, Resource

_DEFINITIONS = "io.k8s.api.admissionregistration.v1."


def _validations(obj: Object) -> int:
    return len(obj["spec"].get("validations") or ())


def _param_kind(obj: Object) -> str:
    kind = obj["spec"].get("paramKind")
    return f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}" if kind else "<unset>"


def _policy_name(obj: Object) -> str:
    return str(obj["spec"].get("policyName", ""))


def _param_ref(obj: Object) -> str:
    reference = obj["spec"].get("paramRef")
    if not reference:
        return "<unset>"
    name = reference.get("name") or "*"
    return f"{reference['namespace']}/{name}" if reference.get("namespace") else str(name)


TYPES = (
    ResourceType(
        resource=Resource(
            "admissionregistration.k8s.io",
            "v1",
            "mutatingwebhookconfigurations",
            "MutatingWebhookConfiguration",
            namespaced=False,
        ),
        singular="mutatingwebhookconfiguration",
        definition=_DEFINITIONS + "MutatingWebhookConfiguration",
        has_generation=True,
        columns=columns.named("Webhooks"),
        cells=columns.with_age(lambda obj: len(obj.get("webhooks") or ())),
        default=defaults.mutating_webhooks,
        validate=hooks.validate,
    ),
    ResourceType(
        resource=Resource(
            "admissionregistration.k8s.io",
            "v1",
            "validatingwebhookconfigurations",
            "ValidatingWebhookConfiguration",
            namespaced=False,
        ),
        singular="validatingwebhookconfiguration",
        definition=_DEFINITIONS + "ValidatingWebhookConfiguration",
        has_generation=True,
        columns=columns.named("Webhooks"),
        cells=columns.with_age(lambda obj: len(obj.get("webhooks") or ())),
        default=defaults.validating_webhooks,
        validate=hooks.validate,
    ),
    ResourceType(
        resource=Resource(
            "admissionregistration.k8s.io",
            "v1",
            "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy",
            namespaced=False,
        ),
        singular="validatingadmissionpolicy",
        definition=_DEFINITIONS + "ValidatingAdmissionPolicy",
        subresources=(STATUS,),
        has_generation=True,
        columns=columns.named("Validations", "ParamKind"),
        cells=columns.with_age(_validations, _param_kind),
        default=policies.default_policy,
        validate=policies.validate_policy,
    ),
    ResourceType(
        resource=Resource(
            "admissionregistration.k8s.io",
            "v1",
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            namespaced=False,
        ),
        singular="validatingadmissionpolicybinding",
        definition=_DEFINITIONS + "ValidatingAdmissionPolicyBinding",
        has_generation=True,
        columns=columns.named("PolicyName", "ParamRef"),
        cells=columns.with_age(_policy_name, _param_ref),
        default=policies.default_binding,
        validate=policies.validate_binding,
    ),
)
