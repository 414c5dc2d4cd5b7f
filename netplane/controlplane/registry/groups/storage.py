"""storage.k8s.io: kept as data."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults, storage, volumes
from netplane.controlplane.registry.groups.shared import STATUS, read
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
        validate=storage.storage_class,
        validate_update=storage.storage_class_update,
    ),
    ResourceType(
        resource=Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False),
        singular="csidriver",
        definition=_DEFINITIONS + "CSIDriver",
        columns=volumes.DRIVER_COLUMNS,
        cells=volumes.driver_cells,
        default=volumes.driver_defaults,
        validate=volumes.driver,
        validate_update=volumes.driver_update,
    ),
    ResourceType(
        resource=Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False),
        singular="csinode",
        definition=_DEFINITIONS + "CSINode",
        columns=volumes.NODE_COLUMNS,
        cells=volumes.node_cells,
        validate=volumes.node,
    ),
    ResourceType(
        resource=Resource("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity"),
        singular="csistoragecapacity",
        definition=_DEFINITIONS + "CSIStorageCapacity",
        columns=volumes.CAPACITY_COLUMNS,
        cells=volumes.capacity_cells,
        validate=volumes.capacity,
        validate_update=volumes.capacity_update,
    ),
    ResourceType(
        resource=Resource("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False),
        singular="volumeattachment",
        definition=_DEFINITIONS + "VolumeAttachment",
        subresources=(STATUS,),
        columns=volumes.ATTACHMENT_COLUMNS,
        cells=volumes.attachment_cells,
        validate=volumes.attachment,
        validate_update=volumes.attachment_update,
    ),
)
