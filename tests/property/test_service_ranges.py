"""Whatever comes and goes in whatever order: no address is given twice, none is left without a range, all are given."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from netplane.controlplane.api import addresses, status
from netplane.controlplane.controllers import servicecidrs, writes
from netplane.controlplane.controllers.addresses import SERVICECIDRS
from netplane.controlplane.controllers.view import START, View
from netplane.controlplane.registry.services import allocate, defaults, ranges
from netplane.controlplane.store import cache, history
from netplane.kube import patch as patching
from netplane.kube.types import SERVICES, Key, Object
from tests.support.registry_objects import type_of

OWN = (ip_network("10.0.0.0/29"), ip_network("fd00::/125"))
CIDRS = ("10.0.0.0/28", "10.0.1.0/29", "10.0.1.0/30", "fd00::/124")
ASKED = ("", "", "10.0.0.1", "10.0.0.9", "10.0.1.1", "10.0.1.2", "10.9.9.9", "fd00::f")
NAMES = ("kubernetes", "a", "b")
GONE = "2026-01-01T00:00:00Z"
SERVICE = type_of("services")


class Store:
    """What a ledger asks of a store on a file: what is committed, and what is staged."""

    def __init__(self) -> None:
        self._caches: dict[str, cache.Cache] = {}
        self._waiting: list[tuple[str, history.Record, bool]] = []
        self._revision = 0

    def cache(self, storage: str) -> cache.Cache:
        return self._caches.setdefault(storage, cache.Cache(floor=0))

    def staged(self, storage: str) -> list[history.Record]:
        last = {record.key: (record, is_there) for of, record, is_there in self._waiting if of == storage}
        return [record for record, is_there in last.values() if is_there]

    def latest(self, storage: str, key: Key) -> history.Record | None:
        for of, record, is_there in reversed(self._waiting):
            if (of, record.key) == (storage, key):
                return record if is_there else None
        return self.cache(storage).records.get(key)

    def objects(self, storage: str) -> dict[Key, Object]:
        """Return everything as it will be once all is committed."""
        keys = {*self.cache(storage).records, *(record.key for of, record, _ in self._waiting if of == storage)}
        found = {key: self.latest(storage, key) for key in sorted(keys)}
        return {key: orjson.loads(record.value) for key, record in found.items() if record is not None}

    def stage(self, storage: str, obj: Object) -> None:
        self._revision += 1
        obj["metadata"]["resourceVersion"] = str(self._revision)
        metadata = obj["metadata"]
        is_over = metadata.get("deletionTimestamp") and not metadata.get("finalizers")
        key = (metadata.get("namespace", ""), metadata["name"])
        record = history.Record(key, self._revision, orjson.dumps(obj), history.Index({}, {}))
        self._waiting.append((storage, record, not is_over))

    def commit(self, count: int) -> None:
        for storage, record, is_there in self._waiting[:count]:
            self.cache(storage).apply(revision=record.revision, record=record if is_there else None, last=record)
        del self._waiting[:count]


def is_open(obj: Object) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or [{"status": "True"}]
    return "deletionTimestamp" not in obj["metadata"] and conditions[0]["status"] == "True"


def held(service: Object) -> list[str]:
    return sorted(allocate.held(service)[0])


class Cluster(RuleBasedStateMachine):
    """Users that make and delete Services and ranges, the server, and its controller, which sees what is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.ledger = addresses.Ledger(self.store, allocate.Ranges(OWN))  # type: ignore[arg-type]  # the part it needs
        self.count = 0
        for name, cidr in (("kubernetes", ""), ("a", "10.0.1.0/29"), ("b", "10.0.1.0/30")):
            self.make_a_range(name, cidr)
        self.commit(3)

    def known(self) -> dict[str, Object]:
        return {key[1]: obj for key, obj in self.store.objects(ranges.STORAGE).items()}

    def giving(self) -> set[ranges.Network]:
        """Return what addresses may come from: of what is committed, what nobody is about to close."""
        committed = self.store.cache(ranges.STORAGE).records
        seen = [obj for name, obj in self.known().items() if ("", name) in committed and is_open(obj)]
        own = OWN if ("", "kubernetes") not in committed else ()
        return {*own, *(network for obj in seen for network in ranges.networks(obj))}

    def taken(self) -> list[str]:
        return [each for service in self.store.objects("services").values() for each in held(service)]

    @rule(asked=st.sampled_from(ASKED), policy=st.sampled_from(("SingleStack", "PreferDualStack")))
    def make_a_service(self, asked: str, policy: str) -> None:
        self.count += 1
        metadata = {"namespace": "default", "name": f"s{self.count}"}
        spec: Object = {"ports": [{"name": "http", "port": 80}], "ipFamilyPolicy": policy}
        service = {
            "metadata": metadata,
            "spec": {**spec, **({"clusterIP": asked, "clusterIPs": [asked]} if asked else {})},
        }
        defaults.service(service)
        committed = (orjson.loads(record.value) for record in self.store.cache("services").range())
        busy = {*self.taken(), *(each for obj in committed for each in held(obj))}
        given = self.giving()
        try:
            self.ledger.allocate(SERVICE, service, None)
        except status.ApiStatus:
            self._check_refusal(asked, policy, given, busy)
            return
        for each in held(service):
            assert each not in busy
            assert any(ranges.gives(network, ip_address(each)) for network in given)
        assert not asked or asked in held(service)
        self.store.stage("services", service)

    def _check_refusal(self, asked: str, policy: str, given: set[ranges.Network], taken: set[str]) -> None:
        if asked:
            is_inside = any(ranges.gives(network, ip_address(asked)) for network in given)
            if asked in taken or not is_inside:
                return
        families = {4, 6} if policy == "PreferDualStack" else {ip_address(asked).version if asked else 4}
        left = families - ({ip_address(asked).version} if asked else set())
        free = {
            address.version
            for network in given
            for address in network
            if ranges.gives(network, address) and str(address) not in taken
        }
        assert left - free, "an address was to be had"

    @rule(number=st.integers(0, 30))
    def delete_a_service(self, number: int) -> None:
        found = [*self.store.objects("services").values()]
        if found:
            gone = found[number % len(found)]
            gone["metadata"]["deletionTimestamp"] = GONE
            self.store.stage("services", gone)

    @rule(name=st.sampled_from(NAMES), cidr=st.sampled_from(CIDRS))
    def make_a_range(self, name: str, cidr: str) -> None:
        if name in self.known():
            return
        cidrs = [str(each) for each in OWN] if name == "kubernetes" else [cidr]
        made = {"metadata": {"name": name, "uid": name}, "spec": {"cidrs": cidrs}}
        ranges.guarded(made)
        self.store.stage(ranges.STORAGE, made)

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def delete_ranges(self, names: set[str]) -> None:
        for name, gone in self.known().items():
            if name in names and not gone["metadata"].get("deletionTimestamp"):
                gone["metadata"]["deletionTimestamp"] = GONE
                self.store.stage(ranges.STORAGE, gone)

    @rule(name=st.sampled_from(NAMES), value=st.sampled_from(("True", "False")))
    def say_whether_a_range_is_ready(self, name: str, value: str) -> None:
        found = self.known().get(name)
        if found is not None:
            found["status"] = {"conditions": [{"type": "Ready", "status": value}]}
            self.store.stage(ranges.STORAGE, found)

    @rule(count=st.integers(1, 9))
    def commit(self, count: int) -> None:
        self.store.commit(count)

    @rule(names=st.permutations(NAMES))
    def control(self, names: list[str]) -> None:
        """Decide on what is committed; the API takes what was decided on the newest alone."""
        for name in names:
            self._control(name)

    def _control(self, name: str) -> None:
        objects = [
            (resource, orjson.loads(record.value))
            for resource, storage in ((SERVICES, "services"), (SERVICECIDRS, ranges.STORAGE))
            for record in self.store.cache(storage).range()
        ]
        for write in servicecidrs.decide(View(objects), ("", name), START):
            newest = self.known().get(name)
            match write:
                case writes.Vacate():
                    listed = [obj for resource, obj in objects if resource == SERVICES]
                    assert not write.keeps(each for service in listed for each in held(service))
                    self._patch(newest, write.patch)
                case writes.Patch():
                    self._patch(newest, write)
                case writes.UpdateStatus():
                    if newest and newest["metadata"]["resourceVersion"] == write.obj["metadata"]["resourceVersion"]:
                        self.store.stage(ranges.STORAGE, {**newest, "status": write.obj["status"]})
                case _:
                    raise AssertionError(write)

    def _patch(self, newest: Object | None, write: writes.Patch) -> None:
        guard = write.patch["metadata"]["resourceVersion"]
        if newest is not None and newest["metadata"]["resourceVersion"] == guard:
            self.store.stage(ranges.STORAGE, patching.merge(newest, write.patch))

    @invariant()
    def no_address_is_held_twice(self) -> None:
        taken = self.taken()
        assert len(taken) == len({*taken})

    @invariant()
    def every_address_is_of_a_range_that_is_there(self) -> None:
        known = self.known()
        there = {network for obj in known.values() for network in ranges.networks(obj)}
        there |= set() if "kubernetes" in known else {*OWN}
        for each in self.taken():
            assert any(ranges.gives(network, ip_address(each)) for network in there), each

    def teardown(self) -> None:
        """When all Services have gone, so do the ranges that were deleted."""
        for number in range(len(self.store.objects("services"))):
            self.delete_a_service(number)
        self.delete_ranges({*NAMES})
        self.store.commit(1 << 30)
        for _ in range(2):  # a finalizer that a status was written beside is taken off the second time
            self.control([*NAMES])
            self.store.commit(1 << 30)
        assert not self.known()


Cluster.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestServiceRanges = Cluster.TestCase
