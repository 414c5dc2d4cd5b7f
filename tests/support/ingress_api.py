"""Put objects into the API server of a test and read them back: one kept-alive connection, no client library."""

from __future__ import annotations

import http.client
import json
from typing import Any

from netplane.kube.types import Object
from tests.support import apiserver

_PLURALS = {
    "Namespace": "namespaces",
    "Service": "services",
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "EndpointSlice": "endpointslices",
    "Ingress": "ingresses",
    "Lease": "leases",
    "IngressClass": "ingressclasses",
    "CustomResourceDefinition": "customresourcedefinitions",
    "GatewayClass": "gatewayclasses",
    "Gateway": "gateways",
    "HTTPRoute": "httproutes",
    "ReferenceGrant": "referencegrants",
}
_OVERTAKEN_MOST = 20
_CLUSTER_SCOPED = {"Namespace", "IngressClass", "GatewayClass", "CustomResourceDefinition"}


class Refused(Exception):
    """The API said no: its code, and the Status it sent."""

    def __init__(self, code: int, status: Any) -> None:
        super().__init__(f"{code}: {status.get('message') if isinstance(status, dict) else status}")
        self.code = code
        self.status = status


class Api:
    """The administrator's requests."""

    def __init__(self, server: apiserver.Server) -> None:
        self._server = server
        self._token = server.token
        self._connection: http.client.HTTPSConnection | None = None

    def apply(self, obj: Object) -> Object:
        """Create the object, or replace what is there of the same name; return it as stored."""
        try:
            return self.create(obj)
        except Refused as refused:
            if refused.code != 409:
                raise
        for _ in range(_OVERTAKEN_MOST):
            try:
                return self._put_over(obj)
            except Refused as refused:
                if refused.code != 409:
                    raise
        raise AssertionError(f"{obj['kind']} {obj['metadata']['name']} is written by others all the time")

    def _put_over(self, obj: Object) -> Object:
        """Replace what is there; Refused(409) when a status was written between reading and replacing."""
        there = self.get(obj["kind"], obj["metadata"]["name"], namespace=obj["metadata"].get("namespace", "default"))
        merged = {**obj, "metadata": {**obj["metadata"], "resourceVersion": there["metadata"]["resourceVersion"]}}
        if obj["kind"] == "Service":
            merged["spec"] = {**there["spec"], **obj["spec"]}
        return self._ask("PUT", _path(there, there["metadata"]["name"]), merged)

    def create(self, obj: Object) -> Object:
        """Create the object; Refused when the API does not want it."""
        return self._ask("POST", _path(obj), obj)

    def replace(self, obj: Object, subresource: str = "") -> Object:
        """Replace an object that was read before."""
        path = _path(obj, obj["metadata"]["name"])
        return self._ask("PUT", f"{path}/{subresource}" if subresource else path, obj)

    def patch(self, obj: Object, change: Object) -> Object:
        """Change an object by a merge patch."""
        return self._ask("PATCH", _path(obj, obj["metadata"]["name"]), change, "application/merge-patch+json")

    def get(self, kind: str, name: str, *, namespace: str = "default") -> Object:
        """Return an object; Refused(404) when it is not there."""
        return self._ask("GET", _path(_named(kind, name, namespace), name))

    def delete(self, kind: str, name: str, *, namespace: str = "default") -> None:
        """Delete an object; nothing happens when it is not there."""
        try:
            self._ask("DELETE", _path(_named(kind, name, namespace), name))
        except Refused as refused:
            if refused.code != 404:
                raise

    def items(self, path: str) -> list[Object]:
        """Return the objects of a collection by its path."""
        found: list[Object] = self._ask("GET", path).get("items") or []
        return found

    def _ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Object:
        headers = {"Content-Type": kind, "Authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        for is_last in (False, True):
            if self._connection is None:
                context = self._server.context()
                self._connection = http.client.HTTPSConnection(
                    "127.0.0.1", self._server.port, context=context, timeout=10
                )
            try:
                self._connection.request(method, path, body=data, headers=headers)
                answer = self._connection.getresponse()
                raw = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self._connection.close()
                self._connection = None
                if is_last:
                    raise
        decoded: Object = json.loads(raw)
        if answer.status >= 400:
            raise Refused(answer.status, decoded)
        return decoded


def _named(kind: str, name: str, namespace: str) -> Object:
    versions = {
        "Service": "v1",
        "Namespace": "v1",
        "Secret": "v1",
        "ConfigMap": "v1",
        "EndpointSlice": "discovery.k8s.io/v1",
        "Ingress": "networking.k8s.io/v1",
        "Lease": "coordination.k8s.io/v1",
        "IngressClass": "networking.k8s.io/v1",
        "CustomResourceDefinition": "apiextensions.k8s.io/v1",
        "ReferenceGrant": "gateway.networking.k8s.io/v1beta1",
    }
    version = versions.get(kind, "gateway.networking.k8s.io/v1")
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}


def _path(obj: Object, name: str = "") -> str:
    version = obj["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    kind = obj["kind"]
    if kind not in _CLUSTER_SCOPED:
        root += f"/namespaces/{obj['metadata'].get('namespace', 'default')}"
    return f"{root}/{_PLURALS[kind]}" + (f"/{name}" if name else "")
