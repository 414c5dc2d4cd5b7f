"""Hold what all workers share: the runtime, the API, the volumes, and what the node is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from netplane.agent.pods.config import NodeFacts
from netplane.agent.pods.spec import Pod
from netplane.agent.probes.checks import Checks
from netplane.agent.references import References
from netplane.agent.runtime.protocol import Runtime
from netplane.agent.volumes.run import Volumes
from netplane.kube.api import Api
from netplane.kube.events import Recorder
from netplane.lib.clock import Clock

AT_ONCE = 4
"""How many sandboxes and containers are made at the same time: more only wait for each other's processor time."""


@dataclass(slots=True)
class Services:
    """The shared parts. `service_objects` gives the cluster's Services, `pods` by UID what the node has promised."""

    node: NodeFacts
    api: Api
    runtime: Runtime
    volumes: Volumes
    references: References
    checks: Checks
    recorder: Recorder
    clock: Clock
    service_objects: Callable[[], Iterable[Mapping[str, Any]]]
    pods: dict[str, Pod] = field(default_factory=dict)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
