"""apps: what keeps pods running."""

from __future__ import annotations

from netplane.controlplane.registry.groups.shared import ALL, SCALE, STATUS, read
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.apps.v1."

TYPES = (
    ResourceType(
        resource=Resource("apps", "v1", "controllerrevisions", "ControllerRevision"),
        singular="controllerrevision",
        definition=_DEFINITIONS + "ControllerRevision",
    ),
    ResourceType(
        resource=Resource("apps", "v1", "daemonsets", "DaemonSet"),
        singular="daemonset",
        definition=_DEFINITIONS + "DaemonSet",
        short_names=("ds",),
        subresources=(STATUS,),
        categories=ALL,
        has_generation=True,
    ),
    ResourceType(
        resource=Resource("apps", "v1", "deployments", "Deployment"),
        singular="deployment",
        definition=_DEFINITIONS + "Deployment",
        short_names=("deploy",),
        subresources=(
            SCALE,
            STATUS,
        ),
        categories=ALL,
        has_generation=True,
    ),
    ResourceType(
        resource=Resource("apps", "v1", "replicasets", "ReplicaSet"),
        singular="replicaset",
        definition=_DEFINITIONS + "ReplicaSet",
        short_names=("rs",),
        subresources=(
            SCALE,
            STATUS,
        ),
        categories=ALL,
        has_generation=True,
        field_labels={"status.replicas": read("status", "replicas", default="0")},
    ),
    ResourceType(
        resource=Resource("apps", "v1", "statefulsets", "StatefulSet"),
        singular="statefulset",
        definition=_DEFINITIONS + "StatefulSet",
        short_names=("sts",),
        subresources=(
            SCALE,
            STATUS,
        ),
        categories=ALL,
        has_generation=True,
    ),
)
