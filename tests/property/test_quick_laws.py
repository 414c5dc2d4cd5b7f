"""What the quick readers make of JSON is what `decode` makes of it, and what they leave is left to it."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from netplane.kube import decode, quick, watch
from netplane.kube.store import Staged, Store
from netplane.kube.types import ENDPOINTSLICES, SERVICES, Object, Resource

_NAMES = st.sampled_from(["web", "db", "", "a-b"])
_ODD = st.sampled_from([None, 0, -1, 70000, 80.0, True, "", "x", [], {}, ["x"], [None], {"name": None}])
_ADDRESSES = st.sampled_from(["10.0.0.1", "010.0.0.1", "10.0.0.256", "fd00::1", "::ffff:10.0.0.1", "fd00::1%eth0", ""])
_PROTOCOLS = st.sampled_from(["TCP", "UDP", "SCTP", "ICMP", "", "tcp"])
_PORTS = st.sampled_from([0, 1, 80, 65535, 65536])
_FLAGS = st.booleans()


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Object]:
    """Objects that have some of these fields, now and then one of an odd value."""
    usual = st.fixed_dictionaries({}, optional=fields)
    odd = st.sampled_from(sorted(fields)).flatmap(lambda name: st.builds(lambda o, v: {**o, name: v}, usual, _ODD))
    return st.one_of(usual, usual, usual, odd)


_LABELS = st.dictionaries(
    st.sampled_from([decode.SERVICE_NAME_LABEL, decode.PROXY_NAME_LABEL, decode.HEADLESS_LABEL, "app"]), _NAMES
)
_METADATA = st.builds(
    lambda name, rest: {"name": name, **rest},
    st.sampled_from(["one", "two", ""]),
    _some(
        namespace=_NAMES,
        uid=_NAMES,
        labels=_LABELS,
        annotations=st.dictionaries(st.sampled_from([decode.TRIGGER_ANNOTATION, "other"]), _NAMES),
        resourceVersion=st.sampled_from(["1", "20", "", "abc"]),
        managedFields=st.just([{"manager": "somebody", "fieldsV1": {"f:spec": {}}}]),
    ),
)
_HINTS = _some(forZones=st.lists(_some(name=_NAMES), max_size=2), forNodes=st.lists(_some(name=_NAMES), max_size=2))
_ENDPOINTS = _some(
    addresses=st.lists(_ADDRESSES, max_size=2),
    conditions=_some(ready=_FLAGS, serving=_FLAGS, terminating=_FLAGS),
    nodeName=_NAMES,
    zone=_NAMES,
    hints=_HINTS,
    hostname=_NAMES,
    targetRef=_some(kind=st.sampled_from(["Pod", "Node"]), namespace=_NAMES, name=_NAMES),
)
_SLICES = st.builds(
    lambda metadata, rest: {"metadata": metadata, **rest},
    _METADATA,
    _some(
        addressType=st.sampled_from(["IPv4", "IPv6", "FQDN"]),
        ports=st.lists(_some(name=_NAMES, protocol=_PROTOCOLS, port=_PORTS, appProtocol=_NAMES), max_size=2),
        endpoints=st.lists(_ENDPOINTS, max_size=3),
    ),
)
_SERVICE_PORTS = _some(
    name=_NAMES, protocol=_PROTOCOLS, port=_PORTS, targetPort=_PORTS, nodePort=_PORTS, appProtocol=_NAMES
)
_SPECS = _some(
    type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
    clusterIP=st.one_of(_ADDRESSES, st.just("None")),
    clusterIPs=st.lists(st.one_of(_ADDRESSES, st.just("None")), max_size=2),
    ports=st.lists(_SERVICE_PORTS, max_size=2),
    sessionAffinity=st.sampled_from(["None", "ClientIP"]),
    sessionAffinityConfig=_some(clientIP=_some(timeoutSeconds=_PORTS)),
    internalTrafficPolicy=st.sampled_from(["Local", "Cluster"]),
    externalTrafficPolicy=st.sampled_from(["Local", "Cluster"]),
    externalIPs=st.lists(_ADDRESSES, max_size=2),
    loadBalancerSourceRanges=st.lists(st.sampled_from(["10.0.0.0/8", "x"]), max_size=2),
    healthCheckNodePort=_PORTS,
    publishNotReadyAddresses=_FLAGS,
    trafficDistribution=_NAMES,
    externalName=_NAMES,
)
_STATUS = _some(loadBalancer=_some(ingress=st.lists(_some(ip=_ADDRESSES, ipMode=st.just("Proxy")), max_size=2)))
_SERVICES = st.builds(
    lambda metadata, rest: {"metadata": metadata, **rest}, _METADATA, _some(spec=_SPECS, status=_STATUS)
)


def _decoded(resource: Resource, obj: Object) -> Any:
    try:
        return decode.service(obj) if resource is SERVICES else decode.endpoint_slice(obj)
    except decode.DecodeError:
        return "refused"


def _bare(obj: Object) -> Object:
    """Return a slice without what its reader leaves out."""
    if not isinstance(obj.get("endpoints"), list):
        return obj
    rows = [_without(row, "hostname", "targetRef") if isinstance(row, dict) else row for row in obj["endpoints"]]
    return {**obj, "endpoints": rows}


def _without(row: Object, *names: str) -> Object:
    return {name: value for name, value in row.items() if name not in names}


def _agrees(resource: Resource, reader: quick.Reader, obj: Object) -> None:
    read = reader.item(orjson.dumps(obj))
    if read is not None:
        assert read.fact == _decoded(resource, _bare(obj))
        assert read.key == (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        assert read.revision == obj["metadata"].get("resourceVersion", "")


@given(_SLICES)
def test_a_slice_is_read_as_it_is_decoded(obj: Object) -> None:
    _agrees(ENDPOINTSLICES, quick.ENDPOINT_SLICES, obj)


@given(_SERVICES)
def test_a_service_is_read_as_it_is_decoded(obj: Object) -> None:
    _agrees(SERVICES, quick.SERVICES, obj)


def _is_named(obj: Object) -> bool:
    metadata = obj["metadata"]
    return isinstance(metadata.get("namespace", ""), str) and isinstance(metadata.get("resourceVersion", ""), str)


@given(st.lists(st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), _SLICES.filter(_is_named)), max_size=4))
def test_a_store_fed_by_a_reader_ends_like_one_fed_by_whole_objects(told: list[tuple[str, Object]]) -> None:
    lines = b"".join(orjson.dumps({"type": kind, "object": obj}) + b"\n" for kind, obj in told)
    stores = []
    for reader in (None, quick.ENDPOINT_SLICES):
        store, staged = Store(ENDPOINTSLICES, lambda obj: decode.endpoint_slice(_bare(obj))), Staged()
        events = watch.Decoder(reader).feed(lines)
        for event in events:
            store.apply(event)
        first = dict(store.values)
        for event in events:
            store.stage_event(staged, event)
        store.replace(staged)
        stores.append((first, dict(store.values), [event.resource_version for event in events]))
    assert stores[0] == stores[1]


def test_common_objects_are_read_quickly() -> None:
    service = {"metadata": {"name": "a", "labels": {}}, "spec": {"type": "ClusterIP", "clusterIPs": ["10.96.0.1"]}}
    piece = {"metadata": {"name": "a-x"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}
    assert quick.SERVICES.item(orjson.dumps(service)) is not None
    assert quick.ENDPOINT_SLICES.item(orjson.dumps(piece)) is not None


def test_a_page_holds_what_was_read_and_what_was_left() -> None:
    plain = {"metadata": {"name": "a", "resourceVersion": "3"}, "spec": {"clusterIP": "10.96.0.1"}}
    balanced = {"metadata": {"name": "b"}, "spec": {"type": "LoadBalancer"}}
    whole = {"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [plain, balanced]}
    page = quick.page(orjson.dumps(whole), quick.SERVICES)
    assert page is not None
    assert ([read.key for read in page.read], page.items) == ([("", "a")], [balanced])
    assert (page.resource_version, page.token) == ("9", "more")
    assert quick.page(b'{"items": 1}', quick.SERVICES) is None
