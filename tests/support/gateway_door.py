"""A door that follows the Gateway API, and a namespace for each test of it, as fixtures that tests import."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from netplane.edge.gateway import crds
from netplane.kube.types import Object
from tests.support import gateway_objects as g
from tests.support import gateway_reader, ingress
from tests.support import ingress_objects as o

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ingress.Door]:
    """A door that follows the Gateway API, and a class of ours."""
    with ingress.door(tmp_path_factory.mktemp("door"), starts=False) as made:
        for definition in crds.definitions():
            made.api.apply(definition)
        made.until(lambda: made.api.apply(g.gateway_class()))
        made.start()
        yield made


class Place:
    """A namespace of a test, and what the test asks there."""

    def __init__(self, door: ingress.Door, namespace: str) -> None:
        self.door = door
        self.namespace = namespace
        self._made: list[Object] = []

    def apply(self, obj: Object, *, namespace: str = "") -> Object:
        """Put an object into the namespace."""
        obj["metadata"].setdefault("namespace", self.namespace)
        obj["metadata"]["namespace"] = namespace or self.namespace
        self._made.append(obj)
        return self.door.api.apply(obj)

    def services(self, *names: str) -> None:
        """Make Services with a pod each."""
        for name in names:
            self.door.service(name, namespace=self.namespace)

    def of(self, answer: ingress.Answer) -> str:
        """Return the Service that answered, without our namespace; the status when it was none."""
        return self.door.backend(answer).removeprefix(f"{self.namespace}/") or str(answer.status)

    def ask(self, url: str, **asked: Any) -> str:
        """Return which Service answers now."""
        return self.of(self.door.ask(f"http://{url}", **asked))

    def expect(self, url: str, by: str, **asked: Any) -> ingress.Answer:
        """Wait until a Service, or a status, answers."""

        def is_so() -> ingress.Answer:
            answer = self.door.ask(f"http://{url}", **asked)
            assert self.of(answer) == by, f"{url}: {self.of(answer)} and not {by}"
            return answer

        return self.door.until(is_so)

    def table(self, *rows: tuple[str, str] | tuple[str, str, Mapping[str, Any]]) -> None:
        """Wait until all rows hold together: URL, who answers, how it is asked.

        Routes, Services and endpoints come over watches of their own, and what they say reaches the engine by turns.
        """

        def all_hold() -> bool:
            found = [(row[0], self.ask(row[0], **(row[2] if len(row) == 3 else {}))) for row in rows]
            wrong = [(one, row[1]) for one, row in zip(found, rows, strict=True) if one[1] != row[1]]
            assert not wrong, f"(found, wanted): {wrong}"
            return True

        self.door.until(all_hold)

    def route_status(self, name: str, *, namespace: str = "") -> dict[str, str]:
        """Return the conditions of a route's only parent, in short."""
        parents = self._status("HTTPRoute", name, namespace=namespace).get("parents") or []
        assert len(parents) == 1, parents
        return gateway_reader.conditions(parents[0]["conditions"])

    def listener(self, name: str, gateway: str = "door") -> Object:
        """Return a listener's status."""
        listeners = self._status("Gateway", gateway).get("listeners") or []
        found: list[Object] = [each for each in listeners if each["name"] == name]
        assert found, f"no status of listener {name} yet: {listeners}"
        return found[0]

    def listener_status(self, name: str, gateway: str = "door") -> dict[str, str]:
        """Return a listener's conditions, in short."""
        return gateway_reader.conditions(self.listener(name, gateway)["conditions"])

    def gateway_status(self, gateway: str = "door") -> dict[str, str]:
        """Return a Gateway's conditions, in short."""
        return gateway_reader.conditions(self._status("Gateway", gateway).get("conditions") or [])

    def _status(self, kind: str, name: str, *, namespace: str = "") -> Object:
        status: Object = self.door.api.get(kind, name, namespace=namespace or self.namespace).get("status") or {}
        return status

    def told(self, claim: Callable[[], object]) -> None:
        """Wait until a claim about what is written or answered holds, for all of that comes in its own time."""
        self.door.until(claim)

    def close(self) -> None:
        """Take down what was made, the newest first."""
        for obj in reversed(self._made):
            self.door.api.delete(obj["kind"], obj["metadata"]["name"], namespace=obj["metadata"]["namespace"])


@pytest.fixture
def place(door: ingress.Door) -> Iterator[Place]:
    """A namespace with a Gateway `door` that listens for HTTP on port 80, and three Services."""
    number = next(_NUMBERS)
    door.api.apply(o.namespace(f"test-{number}", purpose="test"))
    made = Place(door, f"test-{number}")
    made.services("v1", "v2", "v3")
    try:
        yield made
    finally:
        made.close()


def routed(place: Place, *rules: Object, listeners: tuple[Object, ...] = (), refs: str = "True", **route: Any) -> None:
    """Make the Gateway and a route of these rules; wait until it is served as accepted, its references being `refs`."""
    place.apply(g.gateway("door", *listeners))
    place.apply(g.route("route", *rules, **route))
    place.told(lambda: place.route_status("route") == {"Accepted": "True", "ResolvedRefs": refs})
