"""Gateway API objects as JSON, as an API server hands them out. What is accepted is the reader's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netplane.kube.types import Object

V1 = "gateway.networking.k8s.io/v1"
CLASS = "netplane"


def gateway_class(name: str = CLASS, *, controller: str = "netplane.io/gateway", **spec: Any) -> Object:
    """A class, by default ours."""
    return {
        "apiVersion": V1,
        "kind": "GatewayClass",
        "metadata": {"name": name},
        "spec": {"controllerName": controller, **spec},
    }


def listener(
    name: str = "http",
    port: int = 80,
    protocol: str = "HTTP",
    *,
    hostname: str = "",
    from_: str = "Same",
    selector: Mapping[str, str] | None = None,
    kinds: Sequence[Mapping[str, str]] = (),
    secrets: Sequence[Mapping[str, str]] = (),
    **more: Any,
) -> Object:
    """A listener. `selector` are labels of namespaces; with `secrets` it terminates TLS."""
    namespaces: Object = {"from": "Selector" if selector else from_}
    if selector:
        namespaces["selector"] = {"matchLabels": dict(selector)}
    made: Object = {"name": name, "port": port, "protocol": protocol, "allowedRoutes": {"namespaces": namespaces}}
    if kinds:
        made["allowedRoutes"]["kinds"] = [dict(each) for each in kinds]
    if hostname:
        made["hostname"] = hostname
    if secrets:
        made["tls"] = {"mode": "Terminate", "certificateRefs": [dict(each) for each in secrets]}
    return {**made, **more}


def gateway(
    name: str = "door",
    *listeners: Object,
    namespace: str = "default",
    class_name: str = CLASS,
    created: str = "2024-01-01T00:00:00Z",
    generation: int = 1,
    **spec: Any,
) -> Object:
    """A Gateway; without listeners, one for HTTP on port 80."""
    metadata = {"namespace": namespace, "name": name, "creationTimestamp": created, "generation": generation}
    listening = list(listeners) or [listener()]
    return {
        "apiVersion": V1,
        "kind": "Gateway",
        "metadata": metadata,
        "spec": {"gatewayClassName": class_name, "listeners": listening, **spec},
    }


def parent(name: str = "door", *, namespace: str = "", section: str = "", **more: Any) -> Object:
    """A parentRef."""
    made: Object = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name, **more}
    if namespace:
        made["namespace"] = namespace
    if section:
        made["sectionName"] = section
    return made


def backend(name: str, port: int = 8080, *, weight: int = 1, namespace: str = "", **more: Any) -> Object:
    """A backendRef to a Service."""
    made: Object = {"group": "", "kind": "Service", "name": name, "port": port, "weight": weight, **more}
    return {**made, "namespace": namespace} if namespace else made


def match(
    path: str = "/",
    kind: str = "PathPrefix",
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
    queries: Mapping[str, str] | None = None,
) -> Object:
    """One match of a rule."""
    made: Object = {"path": {"type": kind, "value": path}}
    if method:
        made["method"] = method
    if headers:
        made["headers"] = [{"type": "Exact", "name": name, "value": value} for name, value in headers.items()]
    if queries:
        made["queryParams"] = [{"type": "Exact", "name": name, "value": value} for name, value in queries.items()]
    return made


def rule(
    *backends: Object | str, matches: Sequence[Object] = (), filters: Sequence[Object] = (), **more: Any
) -> Object:
    """A rule; a backend may be a Service's name alone. Without matches it takes everything."""
    made: Object = {"matches": list(matches) or [match()], **more}
    if backends:
        made["backendRefs"] = [backend(each) if isinstance(each, str) else each for each in backends]
    if filters:
        made["filters"] = list(filters)
    return made


def route(
    name: str,
    *rules: Object,
    parents: Sequence[Object] = (),
    hostnames: Sequence[str] = (),
    namespace: str = "default",
    created: str = "2024-01-01T00:00:00Z",
    generation: int = 1,
) -> Object:
    """An HTTPRoute, by default of the Gateway `door`."""
    metadata = {"namespace": namespace, "name": name, "creationTimestamp": created, "generation": generation}
    spec: Object = {"parentRefs": list(parents) or [parent()], "rules": list(rules)}
    if hostnames:
        spec["hostnames"] = list(hostnames)
    return {"apiVersion": V1, "kind": "HTTPRoute", "metadata": metadata, "spec": spec}


def grant(
    name: str,
    *,
    namespace: str,
    source: tuple[str, str],
    target: tuple[str, str],
) -> Object:
    """A ReferenceGrant: a kind of a namespace (kind, namespace) may name a kind here (kind, name or "")."""
    kind, target_name = target
    to = {"group": "", "kind": kind, **({"name": target_name} if target_name else {})}
    origin = {"group": "gateway.networking.k8s.io", "kind": source[0], "namespace": source[1]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"from": [origin], "to": [to]},
    }


def set_headers(which: str = "request", **verbs: Any) -> Object:
    """A header filter: `set={"X": "1"}`, `add={...}`, `remove=[...]`."""
    field = f"{which}HeaderModifier"
    made: Object = {}
    for verb in ("set", "add"):
        if verb in verbs:
            made[verb] = [{"name": name, "value": value} for name, value in verbs[verb].items()]
    if "remove" in verbs:
        made["remove"] = list(verbs["remove"])
    return {"type": field[0].upper() + field[1:], field: made}


def redirect(**fields: Any) -> Object:
    """A redirect filter."""
    return {"type": "RequestRedirect", "requestRedirect": {"statusCode": 302, **fields}}


def rewrite(*, hostname: str = "", full: str | None = None, prefix: str | None = None) -> Object:
    """A URL rewrite filter."""
    made: Object = {"hostname": hostname} if hostname else {}
    if full is not None:
        made["path"] = {"type": "ReplaceFullPath", "replaceFullPath": full}
    if prefix is not None:
        made["path"] = {"type": "ReplacePrefixMatch", "replacePrefixMatch": prefix}
    return {"type": "URLRewrite", "urlRewrite": made}


def mirror(name: str, port: int = 8080, **more: Any) -> Object:
    """A mirror filter to a Service."""
    return {
        "type": "RequestMirror",
        "requestMirror": {"backendRef": {"group": "", "kind": "Service", "name": name, "port": port}, **more},
    }
