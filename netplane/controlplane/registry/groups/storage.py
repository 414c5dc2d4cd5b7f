"""storage.k8s.io: kept as data."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults, validate
from netplane.controlplane.registry.groups.shared import read
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.storage.v1."

TYPES = (
    ResourceType(
        resource=Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False),
        singular="storageclass",
        definition=_DEFINITIONS + "StorageClass",
        short_names=("sc",),
        columns=columns.named("Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion"),
        cells=columns.with_age(
            read("provisioner"),
            read("reclaimPolicy"),
            read("volumeBindingMode"),
            lambda obj: bool(obj.get("allowVolumeExpansion")),
        ),
        default=defaults.storage_class,
        validate=validate.storage_class,
    ),
)
