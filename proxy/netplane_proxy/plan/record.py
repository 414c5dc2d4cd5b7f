"""Write a Forwarding down as JSON and read it back: what the proxy starts from when no API server answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from netplane.model import address
from netplane.model.address import Family, Prefix
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, Forwarding, Frontend, Kind, NodeFacts, PortForwarding, PortKey

VERSION = 1

Json = dict[str, Any]


def write(forwarding: Forwarding) -> Json:
    """Return it as JSON values, in a stable order."""
    return {**head(forwarding), "ports": sorted(rows(forwarding), key=lambda row: row["key"])}


def head(forwarding: Forwarding) -> Json:
    """Return all but the rows."""
    return {"version": VERSION, "revision": forwarding.revision, "node": _write_node(forwarding.node)}


def rows(forwarding: Forwarding) -> Iterator[Json]:
    """Yield the rows one by one in any order, of what is meant at the first: to sort them all would take a while."""
    for row in list(forwarding.ports.values()):
        yield _write_row(row)


def read(value: Json) -> Forwarding:
    """Return what was written. ValueError when it was written otherwise."""
    if value.get("version") != VERSION:
        raise ValueError(f"version {value.get('version')!r} is not {VERSION}")
    try:
        known = [_read_row(row) for row in value["ports"]]
        return Forwarding(value["revision"], {row.key: row for row in known}, _read_node(value["node"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks or misplaces {error}") from error


def _write_node(node: NodeFacts) -> Json:
    return {
        "name": node.name,
        "zone": node.zone,
        "nodeIPs": list(map(address.text, node.node_ips)),
        "nodePortAddresses": list(map(address.text, node.nodeport_addresses)),
        "podCIDRs": list(map(str, node.pod_cidrs)),
        "serviceCIDRs": list(map(str, node.service_cidrs)),
        "masqueradeBit": node.masquerade_bit,
        "masqueradeAll": node.masquerade_all,
        "podInterfaces": node.pod_interfaces,
    }


def _read_node(value: Json) -> NodeFacts:
    return NodeFacts(
        value["name"],
        value["zone"],
        tuple(map(address.parse, value["nodeIPs"])),
        tuple(map(address.parse, value["nodePortAddresses"])),
        _prefixes(value["podCIDRs"]),
        _prefixes(value["serviceCIDRs"]),
        value["masqueradeBit"],
        value["masqueradeAll"],
        value.get("podInterfaces", ""),
    )


def _write_row(row: PortForwarding) -> Json:
    return {
        "key": list(row.key),
        "cluster": _write_backends(row.cluster),
        "local": _write_backends(row.local),
        "affinitySeconds": row.affinity_seconds,
        "frontends": [_write_frontend(frontend) for frontend in row.frontends],
        "hairpin": list(map(address.text, row.hairpin)),
        "serving": _write_backends(row.serving),
    }


def _read_row(value: Json) -> PortForwarding:
    namespace, service, port, protocol, family = value["key"]
    return PortForwarding(
        PortKey(namespace, service, port, Protocol(protocol), Family(family)),
        _read_backends(value["cluster"]),
        _read_backends(value["local"]),
        value["affinitySeconds"],
        tuple(_read_frontend(frontend) for frontend in value["frontends"]),
        tuple(map(address.parse, value["hairpin"])),
        _read_backends(value["serving"]),
    )


def _write_frontend(frontend: Frontend) -> list[Any]:
    where = None if frontend.address is None else address.text(frontend.address)
    ranges = None if frontend.source_ranges is None else list(map(str, frontend.source_ranges))
    return [where, int(frontend.protocol), frontend.port, int(frontend.kind), ranges]


def _read_frontend(value: list[Any]) -> Frontend:
    where, protocol, port, kind, ranges = value
    ip = None if where is None else address.parse(where)
    return Frontend(ip, Protocol(protocol), port, Kind(kind), None if ranges is None else _prefixes(ranges))


def _write_backends(backends: tuple[Backend, ...]) -> list[Any]:
    return [[address.text(backend.ip), backend.port] for backend in backends]


def _read_backends(value: list[Any]) -> tuple[Backend, ...]:
    return tuple(Backend(address.parse(ip), port) for ip, port in value)


def _prefixes(value: list[str]) -> tuple[Prefix, ...]:
    return tuple(map(address.prefix, value))
