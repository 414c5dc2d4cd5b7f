"""admissionregistration.k8s.io: webhooks, kept as data."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults, hooks
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.admissionregistration.v1."

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
)
