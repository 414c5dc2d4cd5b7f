"""discovery.k8s.io: EndpointSlice."""

from __future__ import annotations

from netplane.controlplane.registry.services import columns, defaults, slices
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.discovery.v1."

TYPES = (
    ResourceType(
        resource=Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
        singular="endpointslice",
        definition=_DEFINITIONS + "EndpointSlice",
        has_generation=True,
        columns=columns.ENDPOINT_SLICE,
        cells=columns.endpoint_slice,
        default=defaults.endpoint_slice,
        validate=slices.endpoint_slice,
        validate_update=slices.endpoint_slice_update,
    ),
)
