"""The controllers as rows: what each decides by, and which changes make it decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from netplane.controlplane.controllers import (
    addresses,
    clusterroles,
    daemonset,
    deployment,
    disruption,
    endpoints,
    endpointslice,
    eviction,
    garbage,
    job,
    mirroring,
    namespace,
    nodeipam,
    nodelifecycle,
    podgc,
    protection,
    replicaset,
    serviceaccount,
    servicecidrs,
    statefulset,
    triggers,
    writes,
)
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.controlplane.controllers.view import View
from netplane.kube.types import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DAEMONSETS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    LEASES,
    NAMESPACES,
    NODES,
    PODDISRUPTIONBUDGETS,
    PODS,
    REPLICASETS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)

Decide = Callable[[View, Any, datetime], Sequence[writes.Write]]


@dataclass(frozen=True, slots=True)
class Controller:
    """One controller. `triggers` maps the type of what changed (None: any type) to the keys to decide on."""

    name: str
    decide: Decide
    triggers: Mapping[Resource | None, triggers.Trigger]
    workers: int = 4


def controllers(config: ControllerConfig) -> tuple[Controller, ...]:
    """Return all controllers."""
    return (*_WORKLOADS, *_ADDRESSES, *_nodes(config), *_objects(config))


_WORKLOADS: Final = (
    Controller(
        "deployment-controller",
        deployment.decide,
        {
            DEPLOYMENTS: triggers.itself,
            REPLICASETS: triggers.owner(DEPLOYMENTS),
            PODS: triggers.recreating_deployment,
        },
    ),
    Controller(
        "replicaset-controller",
        replicaset.decide,
        {REPLICASETS: triggers.itself, PODS: triggers.owner(REPLICASETS)},
        workers=8,
    ),
    Controller(
        "daemonset-controller",
        daemonset.decide,
        {
            DAEMONSETS: triggers.itself,
            PODS: triggers.owner(DAEMONSETS),
            CONTROLLERREVISIONS: triggers.owner(DAEMONSETS),
            NODES: triggers.relevant_node(DAEMONSETS),
        },
    ),
    Controller(
        "statefulset-controller",
        statefulset.decide,
        {
            statefulset.STATEFULSETS: triggers.itself,
            PODS: triggers.owner(statefulset.STATEFULSETS),
            CONTROLLERREVISIONS: triggers.owner(statefulset.STATEFULSETS),
        },
    ),
    Controller("job-controller", job.decide, {job.JOBS: triggers.itself, PODS: triggers.owner(job.JOBS)}),
    Controller(
        "disruption-controller",
        disruption.decide,
        {PODDISRUPTIONBUDGETS: triggers.itself, PODS: triggers.budgets_of_pod},
    ),
)
"""What keeps as many pods as were asked for."""

_ADDRESSES: Final = (
    Controller(
        "endpoint-slice-controller",
        endpointslice.decide,
        {
            SERVICES: triggers.itself,
            PODS: triggers.services_of_pod,
            NODES: triggers.services_of_node,
            ENDPOINTSLICES: triggers.service_of_slice,
        },
        workers=8,
    ),
    Controller(
        "endpoint-controller",
        endpoints.decide,
        {SERVICES: triggers.itself, PODS: triggers.services_of_pod, ENDPOINTS: triggers.itself},
    ),
    Controller(
        "endpointslicemirroring-controller",
        mirroring.decide,
        {SERVICES: triggers.itself, ENDPOINTS: triggers.itself, ENDPOINTSLICES: triggers.service_of_slice},
    ),
    Controller(
        "service-ip-address-controller",
        addresses.decide,
        {SERVICES: addresses.of_service, addresses.IPADDRESSES: addresses.of_address},
    ),
    Controller(
        "service-cidr-controller",
        servicecidrs.decide,
        {
            addresses.SERVICECIDRS: servicecidrs.of_range,
            addresses.IPADDRESSES: servicecidrs.of_address,
            SERVICES: servicecidrs.of_service,
        },
        workers=1,
    ),
)
"""What tells where Services are."""


def _nodes(config: ControllerConfig) -> tuple[Controller, ...]:
    """Return what looks after nodes, and after the pods of those that fail."""
    return (
        Controller(
            "node-controller",
            partial(nodelifecycle.decide, config=config),
            {NODES: triggers.nodes_of_node, LEASES: triggers.node_of_lease, PODS: triggers.node_of_pod},
        ),
        Controller(
            "taint-eviction-controller",
            eviction.decide,
            {PODS: triggers.bound_pod, NODES: triggers.pods_of_tainted_node},
        ),
        Controller(
            "cidrAllocator", partial(nodeipam.decide, config=config), {NODES: triggers.unserved_nodes}, workers=1
        ),
        Controller(
            "pod-garbage-collector",
            partial(podgc.decide, config=config),
            {PODS: triggers.pod_to_collect, NODES: triggers.pods_of_gone_node},
        ),
    )


def _objects(config: ControllerConfig) -> tuple[Controller, ...]:
    """Return what makes and removes objects that belong to others."""
    return (
        Controller(
            "namespace-controller",
            namespace.decide,
            {None: triggers.terminating_namespace, NAMESPACES: triggers.itself},
        ),
        Controller(
            "clusterrole-aggregation-controller",
            clusterroles.decide,
            {clusterroles.CLUSTERROLES: clusterroles.aggregated},
            workers=1,
        ),
        Controller(
            "persistentvolumeclaim-protection-controller",
            protection.decide_claim,
            {protection.CLAIMS: triggers.itself, PODS: protection.of_pod},
        ),
        Controller(
            "persistentvolume-protection-controller", protection.decide_volume, {protection.VOLUMES: triggers.itself}
        ),
        Controller("garbage-collector", garbage.decide, {None: garbage.touched}, workers=8),
        Controller(
            "serviceaccount-controller",
            partial(serviceaccount.decide, config=config),
            {
                NAMESPACES: triggers.itself,
                SERVICEACCOUNTS: triggers.namespace_of_account,
                CONFIGMAPS: triggers.namespace_of_account,
            },
        ),
    )
