"""events.k8s.io: the newer face of core events, kept as those."""

from __future__ import annotations

from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.events.v1."

TYPES = (
    ResourceType(
        resource=Resource("events.k8s.io", "v1", "events", "Event"),
        singular="event",
        definition=_DEFINITIONS + "Event",
        short_names=("ev",),
    ),
)
