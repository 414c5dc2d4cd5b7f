"""storage.k8s.io: kept as data."""

from __future__ import annotations

from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.storage.v1."

TYPES = (
    ResourceType(
        resource=Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False),
        singular="storageclass",
        definition=_DEFINITIONS + "StorageClass",
        short_names=("sc",),
    ),
)
