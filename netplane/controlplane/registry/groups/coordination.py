"""coordination.k8s.io: Lease."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, validate
from netplane.controlplane.registry.groups.shared import read
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.coordination.v1."

TYPES = (
    ResourceType(
        resource=Resource("coordination.k8s.io", "v1", "leases", "Lease"),
        singular="lease",
        definition=_DEFINITIONS + "Lease",
        columns=columns.named("Holder"),
        cells=columns.with_age(read("spec", "holderIdentity")),
        allows_unconditional_update=False,
        validate=validate.lease,
    ),
)
