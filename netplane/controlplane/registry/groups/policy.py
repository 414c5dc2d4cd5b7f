"""policy: PodDisruptionBudget."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, validate
from netplane.controlplane.registry.groups.shared import STATUS
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.policy.v1."

TYPES = (
    ResourceType(
        resource=Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
        singular="poddisruptionbudget",
        definition=_DEFINITIONS + "PodDisruptionBudget",
        short_names=("pdb",),
        subresources=(STATUS,),
        has_generation=True,
        columns=columns.named("Min Available", "Max Unavailable", "Allowed Disruptions"),
        cells=columns.disruption_budget,
        allows_unconditional_update=False,
        validate=validate.disruption_budget,
    ),
)
