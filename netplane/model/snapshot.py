"""All facts a decision needs, as of one revision of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.model.node import Node
from netplane.model.service import EndpointSlice, Key, Service


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The Services, the EndpointSlices by their own key, and the nodes by name, as of `revision`."""

    revision: str = ""
    services: Mapping[Key, Service] = field(default_factory=dict)
    slices: Mapping[Key, EndpointSlice] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)

    def slices_by_service(self) -> dict[Key, tuple[EndpointSlice, ...]]:
        """Group the slices by the Service they serve, each group in the order of slice names."""
        grouped: dict[Key, list[EndpointSlice]] = {}
        for key in sorted(self.slices):
            piece = self.slices[key]
            if piece.service:
                grouped.setdefault(piece.service_key, []).append(piece)
        return {key: tuple(pieces) for key, pieces in grouped.items()}
