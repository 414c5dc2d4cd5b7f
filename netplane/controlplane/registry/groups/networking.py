"""networking.k8s.io: ingresses and policies."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults
from netplane.controlplane.registry.groups.shared import STATUS, read
from netplane.controlplane.registry.services import columns as service_columns
from netplane.controlplane.registry.services import ingress as rules
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.networking.v1."

TYPES = (
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False),
        singular="ingressclass",
        definition=_DEFINITIONS + "IngressClass",
        has_generation=True,
        columns=columns.named("Controller", "Parameters"),
        cells=columns.with_age(read("spec", "controller"), columns.parameters),
        default=defaults.ingress_class,
        validate=rules.ingress_class,
        validate_update=rules.ingress_class_update,
    ),
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "ingresses", "Ingress"),
        singular="ingress",
        definition=_DEFINITIONS + "Ingress",
        short_names=("ing",),
        subresources=(STATUS,),
        has_generation=True,
        columns=service_columns.INGRESS,
        cells=service_columns.ingress,
        validate=rules.ingress,
    ),
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
        singular="networkpolicy",
        definition=_DEFINITIONS + "NetworkPolicy",
        short_names=("netpol",),
        has_generation=True,
        columns=columns.named("Pod-Selector"),
        cells=columns.with_age(columns.pod_selector),
        default=defaults.network_policy,
        validate=rules.network_policy,
    ),
)
