"""events.k8s.io: the newer face of core events, kept as those."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from netplane.controlplane.registry.cluster import columns, validate
from netplane.controlplane.registry.groups.shared import read
from netplane.controlplane.registry.types import Conversion, ResourceType
from netplane.kube.types import EVENTS, Object, Resource

_RESOURCE = Resource("events.k8s.io", "v1", "events", "Event")
_CORE_NAMES = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_NAMES = {core: name for name, core in _CORE_NAMES.items()}


def _to_core(obj: Object) -> Object:
    return {**{_CORE_NAMES.get(key, key): value for key, value in obj.items()}, "apiVersion": EVENTS.api_version}


def _from_core(obj: Object) -> Object:
    return {**{_NAMES.get(key, key): value for key, value in obj.items()}, "apiVersion": _RESOURCE.api_version}


def _cells(obj: Object, now: datetime) -> list[Any]:
    return columns.event(_to_core(obj), now)


TYPES = (
    ResourceType(
        resource=_RESOURCE,
        singular="event",
        definition="io.k8s.api.events.v1.Event",
        short_names=("ev",),
        columns=columns.EVENT,
        cells=_cells,
        field_labels={
            **{
                f"regarding.{name}": read("regarding", name)
                for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
            },
            "reason": read("reason"),
            "reportingController": read("reportingController"),
            "type": read("type"),
        },
        validate=lambda obj: validate.event(_to_core(obj)),
        validate_create=validate.new_event,
        conversion=Conversion(EVENTS, to_stored=_to_core, from_stored=_from_core),
    ),
)
