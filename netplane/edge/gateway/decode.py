"""Turn Gateway API JSON into facts, once, at the border. Every text that reaches an engine is judged here.

An API server with the shipped definitions has refused most of what is wrong, but one that does not evaluate their
rules (or older definitions) lets it through, so all of it is judged again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from netplane.edge.gateway import rules
from netplane.edge.gateway.facts import (
    GROUP,
    Fault,
    Gateway,
    GatewayClass,
    Grant,
    HttpRoute,
    Listener,
    Meta,
    Parent,
    Reference,
)
from netplane.kube.types import Object

_EVERYTHING: Sequence[Mapping[str, Any]] = ({"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]},)


def gateway_class(obj: Object) -> GatewayClass:
    """Decode a GatewayClass."""
    spec = obj["spec"]
    return GatewayClass(_meta(obj), spec["controllerName"], bool(spec.get("parametersRef")))


def gateway(obj: Object) -> Gateway:
    """Decode a Gateway."""
    spec, meta = obj["spec"], _meta(obj)
    infrastructure = spec.get("infrastructure") or {}
    return Gateway(
        meta=meta,
        class_name=spec["gatewayClassName"],
        listeners=tuple(_listener(each, meta.namespace) for each in spec.get("listeners") or ()),
        addresses=tuple(
            (each.get("type") or "IPAddress", each.get("value") or "") for each in spec.get("addresses") or ()
        ),
        has_parameters=bool(infrastructure.get("parametersRef")),
    )


def http_route(obj: Object) -> HttpRoute:
    """Decode an HTTPRoute. A rule that cannot be served carries the fault; the others are not touched by it.

    A hostname that is none is the fault of all rules: they would be served at fewer hosts than were asked for, or more.
    """
    spec, meta = obj.get("spec") or {}, _meta(obj)
    names = tuple(str(each).lower() for each in spec.get("hostnames") or ())
    found = [rules.rule(each, index, meta.namespace) for index, each in enumerate(spec.get("rules") or _EVERYTHING)]
    wrong = [at for at, name in enumerate(names) if not rules.is_hostname(name)]
    if wrong:
        message = f"hostnames[{wrong[0]}]: {names[wrong[0]][:80]!r} is not a host name"
        found = [replace(each, fault=Fault(rules.UNSUPPORTED, message)) for each in found]
    return HttpRoute(
        meta=meta,
        parents=tuple(_parent(each, meta.namespace) for each in spec.get("parentRefs") or ()),
        hostnames=names,
        rules=tuple(found),
    )


def reference_grant(obj: Object) -> Grant:
    """Decode a ReferenceGrant."""
    spec = obj.get("spec") or {}
    return Grant(
        meta=_meta(obj),
        sources=frozenset((each["group"], each["kind"], each["namespace"]) for each in spec.get("from") or ()),
        targets=frozenset((each["group"], each["kind"], each.get("name") or "") for each in spec.get("to") or ()),
    )


def _meta(obj: Object) -> Meta:
    metadata = obj["metadata"]
    return Meta(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp") or "",
        resource_version=metadata.get("resourceVersion", ""),
        status=obj.get("status") or {},
    )


def _listener(spec: Mapping[str, Any], namespace: str) -> Listener:
    tls, allowed = spec.get("tls") or {}, spec.get("allowedRoutes") or {}
    namespaces = allowed.get("namespaces") or {}
    kinds = tuple((each.get("group", GROUP), each["kind"]) for each in allowed.get("kinds") or ())
    validation = tls.get("frontendValidation") or {}
    return Listener(
        name=spec["name"],
        port=spec["port"],
        protocol=_protocol(spec["protocol"]),
        hostname=(spec.get("hostname") or "").lower(),
        tls_mode=(tls.get("mode") or "Terminate") if spec.get("tls") is not None else "",
        certificates=tuple(
            Reference(
                each.get("group") or "",
                each.get("kind") or "Secret",
                each.get("namespace") or namespace,
                each["name"],
                path=f"tls.certificateRefs[{at}]",
            )
            for at, each in enumerate(tls.get("certificateRefs") or ())
        ),
        has_client_validation=bool(validation.get("caCertificateRefs")),
        from_namespaces=namespaces.get("from") or "Same",
        selector=namespaces.get("selector"),
        kinds=kinds or None,
    )


def _protocol(text: str) -> str:
    """Return core protocols in upper case: they are compared without case."""
    return text if "/" in text else text.upper()


def _parent(raw: Object, namespace: str) -> Parent:
    group = raw.get("group")
    reference = Reference(
        GROUP if group is None else group, raw.get("kind") or "Gateway", raw.get("namespace") or namespace, raw["name"]
    )
    return Parent(reference, raw.get("sectionName") or "", raw.get("port") or 0, raw)
