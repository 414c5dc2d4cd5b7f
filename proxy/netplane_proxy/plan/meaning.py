"""Follow the facts as they change, and replan only the Services they touch. What a plan says is forwarding's."""

from __future__ import annotations

from collections.abc import Mapping

from netplane.model.service import EndpointSlice, Key, Service
from netplane_proxy.plan import forwarding
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts, PortForwarding, PortKey
from netplane_proxy.plan.health import HealthCheck, of_service
from netplane_proxy.plan.ledger import Ledger, Step, Steps

_NO_SLICES: Mapping[Key, EndpointSlice] = {}


class Meaning:
    """The facts taken so far and what they mean. Any order, batch or repetition of the same facts ends the same."""

    def __init__(self, node: NodeFacts) -> None:
        """Start with a node and nothing else."""
        self.node = node
        self.services: dict[Key, Service] = {}
        self.slices_by_service: dict[Key, dict[Key, EndpointSlice]] = {}
        self.health_checks: dict[Key, HealthCheck] = {}
        self.has_new_checks = False
        """Whether `health_checks` changed; the one who looks resets it."""
        self._service_by_slice: dict[Key, Key] = {}
        self._ledger = Ledger()
        self._touched: dict[Key, bool] = {}
        """Which Services to decide for anew, and whether more than their slices changed."""

    @property
    def ports(self) -> Mapping[PortKey, PortForwarding]:
        """What was decided at the last `settle`."""
        return self._ledger.ports

    @property
    def touched(self) -> int:
        """How many Services wait for `settle`."""
        return len(self._touched)

    def take_service(self, key: Key, service: Service | None) -> None:
        """Take a Service as it is now; None when it is gone."""
        if service is None:
            self.services.pop(key, None)
        else:
            self.services[key] = service
        self._touched[key] = True

    def take_slice(self, key: Key, piece: EndpointSlice | None) -> None:
        """Take an EndpointSlice as it is now; None when it is gone. It may have moved to another Service."""
        former = self._service_by_slice.get(key)
        if piece is not None and former is not None and former == piece.service_key:
            self.slices_by_service[former][key] = piece
            self._touched.setdefault(former, False)
            return
        owner = piece.service_key if piece is not None and piece.service else None
        if former is not None and former != owner:
            pieces = self.slices_by_service[former]
            del pieces[key]
            if not pieces:
                del self.slices_by_service[former]
            del self._service_by_slice[key]
            self._touched.setdefault(former, False)
        if owner is not None and piece is not None:
            self.slices_by_service.setdefault(owner, {})[key] = piece
            self._service_by_slice[key] = owner
            self._touched.setdefault(owner, False)

    def take_node(self, node: NodeFacts) -> bool:
        """Take the node's facts. Returns whether they changed; every Service is then planned anew."""
        if node == self.node:
            return False
        self.node = node
        self._touched.update(dict.fromkeys(self.services, True))
        return True

    def settle(self) -> Steps:
        """Decide for all touched Services. Returns each Service port that differs now from what it was before."""
        steps: Steps = {}
        is_mixed = False
        for key in sorted(self._touched):
            service = self.services.get(key)
            slices = tuple(self.slices_by_service.get(key, _NO_SLICES).values())
            if service is None or self._touched[key]:
                rows = forwarding.of_service(service, slices, self.node)
            else:
                rows = forwarding.of_slices(self._ledger.wanted(key), service, slices, self.node)
            for port, step in self._ledger.replace(key, rows).items():
                if port in steps:
                    is_mixed = True
                    step = Step(steps[port].former, step.now)
                steps[port] = step
            if (service is not None and service.health_check_node_port) or key in self.health_checks:
                self._watch_health(key, of_service(service, slices, self.node))
        self._touched = {}
        if not is_mixed:
            return steps
        return {port: step for port, step in steps.items() if step.former != step.now}

    def forwarding(self, revision: str) -> Forwarding:
        """Return all that was decided, as of a revision."""
        return Forwarding(revision, self._ledger.ports, self.node)

    def _watch_health(self, key: Key, check: HealthCheck | None) -> None:
        if check == self.health_checks.get(key):
            return
        self.has_new_checks = True
        if check is None:
            del self.health_checks[key]
        else:
            self.health_checks[key] = check
