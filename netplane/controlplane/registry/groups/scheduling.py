"""scheduling.k8s.io: PriorityClass."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults, validate
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.scheduling.v1."

TYPES = (
    ResourceType(
        resource=Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False),
        singular="priorityclass",
        definition=_DEFINITIONS + "PriorityClass",
        short_names=("pc",),
        columns=columns.PRIORITY_CLASS,
        cells=columns.priority_class,
        default=defaults.priority_class,
        validate=validate.priority_class,
        validate_update=validate.priority_class_update,
    ),
)
