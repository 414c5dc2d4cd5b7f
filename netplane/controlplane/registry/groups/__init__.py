"""One module for each API group: its resource types as rows of data."""

from __future__ import annotations

from netplane.controlplane.registry.groups import (
    admissionregistration,
    apiextensions,
    apps,
    authentication,
    authorization,
    autoscaling,
    batch,
    certificates,
    coordination,
    core,
    discovery,
    events,
    metrics,
    networking,
    policy,
    rbac,
    scheduling,
    storage,
)
from netplane.controlplane.registry.types import ResourceType

_MODULES = (
    core, apps, events, authentication, authorization, autoscaling, batch, certificates, networking, policy, rbac,
    storage, admissionregistration, apiextensions, scheduling, coordination, discovery, metrics,
)  # fmt: skip


def all_types() -> list[ResourceType]:
    """Return every built-in type, in the order of the real API's discovery."""
    return [each for module in _MODULES for each in module.TYPES]
