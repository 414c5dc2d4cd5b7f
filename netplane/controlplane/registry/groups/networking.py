"""networking.k8s.io: ingresses and policies."""

from __future__ import annotations

from netplane.controlplane.registry.groups.shared import STATUS
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.networking.v1."

TYPES = (
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False),
        singular="ingressclass",
        definition=_DEFINITIONS + "IngressClass",
        has_generation=True,
    ),
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "ingresses", "Ingress"),
        singular="ingress",
        definition=_DEFINITIONS + "Ingress",
        short_names=("ing",),
        subresources=(STATUS,),
        has_generation=True,
    ),
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
        singular="networkpolicy",
        definition=_DEFINITIONS + "NetworkPolicy",
        short_names=("netpol",),
        has_generation=True,
    ),
)
