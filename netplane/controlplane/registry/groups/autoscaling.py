"""autoscaling: HorizontalPodAutoscaler."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import autoscalers, columns, defaults, scaling
from netplane.controlplane.registry.groups.shared import ALL, STATUS
from netplane.controlplane.registry.types import Conversion, ResourceType

_DEFINITIONS = "io.k8s.api.autoscaling.v2."

TYPES = (
    ResourceType(
        resource=autoscalers.STORED,
        singular="horizontalpodautoscaler",
        definition=_DEFINITIONS + "HorizontalPodAutoscaler",
        short_names=("hpa",),
        subresources=(STATUS,),
        categories=ALL,
        columns=columns.named("Reference", "Targets", "MinPods", "MaxPods", "Replicas"),
        cells=columns.autoscaler,
        default=defaults.horizontal_pod_autoscaler,
        validate=scaling.autoscaler,
    ),
    ResourceType(
        resource=autoscalers.SERVED,
        singular="horizontalpodautoscaler",
        definition="io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
        short_names=("hpa",),
        subresources=(STATUS,),
        categories=ALL,
        columns=columns.named("Reference", "Targets", "MinPods", "MaxPods", "Replicas"),
        cells=autoscalers.cells,
        default=autoscalers.default,
        validate=autoscalers.check,
        conversion=Conversion(autoscalers.STORED, autoscalers.to_stored, autoscalers.from_stored),
    ),
)
