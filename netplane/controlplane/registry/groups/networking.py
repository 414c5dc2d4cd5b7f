"""networking.k8s.io: ingresses, policies, and the addresses of Services."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults
from netplane.controlplane.registry.groups.shared import STATUS, read
from netplane.controlplane.registry.services import columns as service_columns
from netplane.controlplane.registry.services import ingress as rules
from netplane.controlplane.registry.services import ranges
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
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "ipaddresses", "IPAddress", namespaced=False),
        singular="ipaddress",
        definition=_DEFINITIONS + "IPAddress",
        short_names=("ip",),
        columns=columns.named("ParentRef"),
        cells=columns.with_age(ranges.parent),
        name_faults=ranges.address_faults,
        validate=ranges.ip_address,
        validate_update=ranges.ip_address_update,
    ),
    ResourceType(
        resource=Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False),
        singular="servicecidr",
        definition=_DEFINITIONS + "ServiceCIDR",
        subresources=(STATUS,),
        columns=columns.named("CIDRs"),
        cells=columns.with_age(ranges.cidrs),
        prepare_create=ranges.guarded,
        validate=ranges.service_cidr,
        validate_update=ranges.service_cidr_update,
    ),
)
