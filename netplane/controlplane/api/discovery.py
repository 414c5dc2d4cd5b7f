"""Serve what clients ask first: versions, groups, resources, OpenAPI. What the documents say is registry's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import orjson

from netplane.controlplane.api import cluster, http, negotiate, options
from netplane.controlplane.registry import catalog, discovery, openapi, swagger
from netplane.kube.types import Object

_CACHE_FOR_EVER = (
    (b"cache-control", b"public, immutable"),
    (b"expires", b"Fri, 01 Jan 2038 00:00:00 GMT"),
    (b"vary", b"Accept-Encoding, Accept"),
)
_ROOT_PATHS = (
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/readyz",
    "/version",
)
VERSION: Object = {
    "major": "1",
    "minor": "33",
    "emulationMajor": "1",
    "emulationMinor": "33",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "32",
    "gitVersion": openapi.VERSION,
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-04-23T00:00:00Z",
    "goVersion": "go1.24.2",
    "compiler": "gc",
    "platform": "linux/amd64",
}


class _Tagged(NamedTuple):
    body: bytes
    tag: str


class Discovery:
    """Answers the paths that are about the API itself; everything is built once for each registry."""

    def __init__(self, at: cluster.Cluster) -> None:
        self._at = at
        self._registry: catalog.Registry | None = None
        self._documents: openapi.Documents | None = None
        self._bodies: dict[tuple[str, str], bytes] = {}
        self._swaggers: dict[bool, _Tagged] = {}

    async def answer(self, request: http.Request) -> http.Response | None:
        """Return the answer to a GET, None when the path is not ours."""
        path = request.path.rstrip("/") or "/"
        if request.method not in ("GET", "HEAD"):
            return None
        if path == "/version":
            return http.json(200, VERSION)
        if path == "/":
            return http.json(200, {"paths": self._paths()})
        if path.startswith("/openapi/"):
            return await self._swagger(request) if path == "/openapi/v2" else self._openapi(request, path)
        if path == "/api" or path == "/apis" or path.startswith(("/api/", "/apis/")):
            return self._discovery(request, path)
        return None

    def _refreshed(self) -> tuple[catalog.Registry, openapi.Documents]:
        registry = self._at.registry
        if registry is not self._registry or self._documents is None:
            self._registry = registry
            self._documents = openapi.Documents(registry, self._documents)
            self._bodies.clear()
            self._swaggers.clear()
        return registry, self._documents

    def _paths(self) -> list[str]:
        registry, _ = self._refreshed()
        groups = {f"/apis/{group}" for group, _ in registry.group_versions() if group}
        versions = {f"/apis/{group}/{version}" for group, version in registry.group_versions() if group}
        return sorted({*_ROOT_PATHS, *groups, *versions})

    def _discovery(self, request: http.Request, path: str) -> http.Response | None:
        registry, _ = self._refreshed()
        version = _aggregated_version(request.accept) if path in ("/api", "/apis") else None
        if version is not None:
            body = self._kept(
                path, version, lambda: discovery.aggregated(registry, is_core=path == "/api", version=version)
            )
            content_type = discovery.aggregated_content_type(version).encode()
            return _tagged(request, _Tagged(body, hashlib.sha256(body).hexdigest().upper()), content_type)
        body = self._kept(path, "", lambda: self._plain(registry, path))
        return http.Response(200, body) if body else None

    def _plain(self, registry: catalog.Registry, path: str) -> Object | None:
        parts = path.strip("/").split("/")
        if path == "/api":
            settings = self._at.settings
            return discovery.core_versions(f"{settings.advertise}:{settings.advertised_port}")
        if path == "/apis":
            return discovery.groups(registry)
        if parts[0] == "api":
            return discovery.resources(registry, "", parts[1]) if len(parts) == 2 else None
        if len(parts) == 2:
            return discovery.group(registry, parts[1])
        return discovery.resources(registry, parts[1], parts[2]) if len(parts) == 3 else None

    def _kept(self, path: str, version: str, build: Callable[[], Object | None]) -> bytes:
        key = (path, version)
        if key not in self._bodies:
            made = build()
            if made is None:
                return b""
            self._bodies[key] = orjson.dumps(made)
        return self._bodies[key]

    async def _swagger(self, request: http.Request) -> http.Response:
        registry, _ = self._refreshed()
        is_protobuf = "proto-openapi.spec.v2" in request.accept
        made = self._swaggers.get(is_protobuf)
        if made is None:
            make = swagger.as_protobuf if is_protobuf else swagger.as_json
            body = await asyncio.to_thread(make, registry)
            made = _Tagged(body, hashlib.sha256(body).hexdigest().upper())
            if registry is self._registry:
                self._swaggers[is_protobuf] = made
        return _tagged(request, made, swagger.PROTOBUF.encode() if is_protobuf else http.JSON)

    def _openapi(self, request: http.Request, path: str) -> http.Response | None:
        _, documents = self._refreshed()
        if path == "/openapi/v3":
            return http.Response(200, documents.index())
        found = documents.document(path.removeprefix("/openapi/v3/"))
        if found is None:
            return None
        headers = [(b"etag", b'"' + found.hash.encode() + b'"')]
        if options.text(request.query, "hash") == found.hash:
            headers += _CACHE_FOR_EVER
        if _has_tag(request, found.hash):
            return http.Response(304, b"", headers=headers)
        return http.Response(200, found.body, headers=headers)


def _aggregated_version(accept: str) -> discovery.AggregatedVersion | None:
    for name, parameters in negotiate.media_types(accept):
        if name == "application/json" and parameters.get("as") == "APIGroupDiscoveryList":
            if parameters.get("v") == "v2":
                return "v2"
            if parameters.get("v") == "v2beta1":
                return "v2beta1"
        elif name in ("application/json", "*/*"):
            return None
    return None


def _tagged(request: http.Request, found: _Tagged, content_type: bytes) -> http.Response:
    tag = found.tag
    headers = [(b"etag", b'"' + tag.encode() + b'"'), (b"vary", b"Accept"), (b"cache-control", b"public")]
    if _has_tag(request, tag):
        return http.Response(304, b"", content_type, headers)
    return http.Response(200, found.body, content_type, headers)


def _has_tag(request: http.Request, tag: str) -> bool:
    return request.headers.get(b"if-none-match", b"").decode("latin-1").strip('"') == tag
