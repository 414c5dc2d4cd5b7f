"""apps: what keeps pods running."""

from __future__ import annotations

from netplane.controlplane.registry.groups.shared import ALL, SCALE, STATUS, read
from netplane.controlplane.registry.types import ResourceType, ScalePaths
from netplane.controlplane.registry.workloads import columns, defaults, validate
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.apps.v1."

TYPES = (
    ResourceType(
        resource=Resource("apps", "v1", "controllerrevisions", "ControllerRevision"),
        singular="controllerrevision",
        definition=_DEFINITIONS + "ControllerRevision",
        columns=columns.CONTROLLER_REVISION,
        cells=columns.controller_revision,
        validate=validate.revision,
        validate_update=validate.revision_update,
    ),
    ResourceType(
        resource=Resource("apps", "v1", "daemonsets", "DaemonSet"),
        singular="daemonset",
        definition=_DEFINITIONS + "DaemonSet",
        short_names=("ds",),
        subresources=(STATUS,),
        categories=ALL,
        has_generation=True,
        columns=columns.DAEMON_SET,
        cells=columns.daemon_set,
        default=defaults.daemon_set,
        validate=validate.daemon_set,
        validate_update=validate.selector_update,
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
        columns=columns.DEPLOYMENT,
        cells=columns.deployment,
        default=defaults.deployment,
        scale=ScalePaths(),
        validate=validate.deployment,
        validate_update=validate.selector_update,
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
        columns=columns.REPLICA_SET,
        cells=columns.replica_set,
        default=defaults.replica_set,
        scale=ScalePaths(),
        validate=validate.replica_set,
        validate_update=validate.selector_update,
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
        columns=columns.STATEFUL_SET,
        cells=columns.stateful_set,
        default=defaults.stateful_set,
        scale=ScalePaths(),
        validate=validate.stateful_set,
        validate_update=validate.stateful_set_update,
    ),
)
