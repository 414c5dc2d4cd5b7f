"""The FastAPI application: lifespan, health, metrics, administration. The Kubernetes paths are dispatch's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import fastapi
from fastapi import responses

from netplane.controlplane.api import access, cluster, metrics, nodes, peers, status
from netplane.lib import metrics as meters

Check = Callable[[cluster.Cluster], str]
"""Returns what is wrong, "" when all is well."""


def _ping(at: cluster.Cluster) -> str:
    return ""


def _stopping(at: cluster.Cluster) -> str:
    return "shutting down" if at.is_stopping else ""


def _started(at: cluster.Cluster) -> str:
    return "" if at.is_ready else "still starting"


def _stored(at: cluster.Cluster) -> str:
    return at.store.problem


def _tasks(at: cluster.Cluster) -> str:
    return "; ".join(f"{name}: {why}" for name, why in sorted(at.problems.items()))


_CHECKS: dict[str, dict[str, Check]] = {
    "livez": {"ping": _ping},
    "healthz": {"ping": _ping, "poststarthook/start": _started},
    "readyz": {
        "ping": _ping,
        "etcd": _stored,
        "poststarthook/start": _started,
        "shutdown": _stopping,
        "informer-sync": _ping,
    },
}


def build(at: cluster.Cluster, *, on_start: Callable[[], None]) -> fastapi.FastAPI:
    """Return the application; `on_start` is called when the server begins to accept."""

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        on_start()
        yield

    app = fastapi.FastAPI(title="netplane", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    for name, checks in _CHECKS.items():
        _add_health(app, at, name, checks)

    _add_keys(app, at)
    _add_credentials(app, at)

    @app.get("/metrics")
    async def show_metrics() -> responses.Response:
        _count_objects(at)
        return responses.Response(meters.text(), media_type=meters.CONTENT_TYPE)

    return app


def _add_keys(app: fastapi.FastAPI, at: cluster.Cluster) -> None:
    @app.get("/netplane.io/v1/jwks")
    @app.get("/openid/v1/jwks")
    async def jwks() -> responses.JSONResponse:
        return responses.JSONResponse(at.keys.jwks(), media_type="application/jwk-set+json")

    @app.get("/.well-known/openid-configuration")
    async def openid_configuration() -> responses.JSONResponse:
        told = {
            "issuer": access.ISSUER,
            "jwks_uri": f"https://{peers.host(at)}:{peers.port(at)}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [access.ALGORITHM],
        }
        return responses.JSONResponse(told)


def _add_credentials(app: fastapi.FastAPI, at: cluster.Cluster) -> None:
    @app.post("/netplane.io/v1/node-certificate")
    async def node_certificate(request: fastapi.Request) -> responses.JSONResponse:
        try:
            made = nodes.certificate(at, request.scope["netplane.user"], await request.body())
        except status.ApiStatus as refusal:
            return responses.JSONResponse(refusal.body(), status_code=refusal.code)
        return responses.JSONResponse(made, status_code=201)

    @app.post("/netplane.io/v1/node-credentials")
    async def node_credentials(request: fastapi.Request) -> responses.JSONResponse:
        try:
            made = nodes.credentials(at, request.scope["netplane.user"])
        except status.ApiStatus as refusal:
            return responses.JSONResponse(refusal.body(), status_code=refusal.code)
        return responses.JSONResponse(made, status_code=201)


def _add_health(app: fastapi.FastAPI, at: cluster.Cluster, name: str, checks: dict[str, Check]) -> None:
    @app.get(f"/{name}")
    async def all_checks(request: fastapi.Request) -> responses.PlainTextResponse:
        excluded = request.query_params.getlist("exclude")
        found = {check: run(at) for check, run in checks.items() if check not in excluded}
        is_well = not any(found.values())
        if is_well and "verbose" not in request.query_params:
            return responses.PlainTextResponse("ok")
        lines = [f"[-]{check} failed: {why}" if why else f"[+]{check} ok" for check, why in found.items()]
        lines.append(f"{name} check {'passed' if is_well else 'failed'}")
        return responses.PlainTextResponse("\n".join(lines) + "\n", status_code=200 if is_well else 500)

    @app.get(f"/{name}/{{check:path}}")
    async def one_check(check: str) -> responses.PlainTextResponse:
        run = checks.get(check)
        if run is None:
            return responses.PlainTextResponse("not found", status_code=404)
        why = run(at)
        return responses.PlainTextResponse(why or "ok", status_code=500 if why else 200)


def _count_objects(at: cluster.Cluster) -> None:
    metrics.REVISION.set(at.store.revision)
    metrics.STAGED.set(at.store.backlog)
    for storage in at.store.storages():
        metrics.OBJECTS.labels(storage).set(len(at.store.cache(storage).records))
