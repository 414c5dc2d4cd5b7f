"""What the controllers need to be told. Who reads it from flags is `controlplane.main`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """The cluster's ranges, its certificate authority, and how patient the controllers are (in seconds)."""

    cluster_cidrs: tuple[str, ...] = ()
    node_mask_v4: int = 24
    node_mask_v6: int = 64
    ca_pem: str = ""
    node_monitor_grace: float = 40.0
    node_startup_grace: float = 60.0
    orphan_grace: float = 2.0
    terminated_pods: int = 12_500
