"""autoscaling: HorizontalPodAutoscaler."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults, validate
from netplane.controlplane.registry.groups.shared import ALL, STATUS
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.autoscaling.v2."

TYPES = (
    ResourceType(
        resource=Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
        singular="horizontalpodautoscaler",
        definition=_DEFINITIONS + "HorizontalPodAutoscaler",
        short_names=("hpa",),
        subresources=(STATUS,),
        categories=ALL,
        columns=columns.named("Reference", "Targets", "MinPods", "MaxPods", "Replicas"),
        cells=columns.autoscaler,
        default=defaults.horizontal_pod_autoscaler,
        validate=validate.autoscaler,
    ),
)
