"""Write what a route does to requests, beyond where it sends them, as the text that door.lua carries out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from netplane.edge.ingress.plan.encode import field_text
from netplane.edge.ingress.plan.state import authority_name, digest
from netplane.model.routing import Cors, ExternalAuth, Headers, PathChange, Policy, Redirect, Route, ServicePort

NONE: Final = "n"
"""The name of the policy of a route that has none."""

_BURST_SECONDS: Final = 5

SlotOf = Callable[[ServicePort], str]
"""Gives the slot through which a Service is asked or sent copies, without any policy."""


def text(route: Route, slot_of: SlotOf, *, https_port: int = 443) -> str:
    """Return the policy of a route, "" when it has none."""
    fields = [*_access(route, slot_of, https_port), *_changes(route, slot_of), *_limits(route.policy)]
    return "&".join(["v=1", *fields]) if fields else ""


def name_of(policy: str) -> str:
    """Name a policy by its content."""
    return digest(policy, 16) if policy else NONE


def realm_name(route: Route) -> str:
    """Name the users of a route's basic authentication by content, for whoever checks passwords."""
    basic = route.policy.basic_auth
    return digest(repr((basic.realm, sorted(basic.users))), 32) if basic else ""


def _access(route: Route, slot_of: SlotOf, https_port: int) -> list[str]:
    policy, fields = route.policy, []
    if policy.ssl_redirect:
        fields.append(field_text("tls", str(policy.ssl_redirect), "" if https_port == 443 else str(https_port)))
    if policy.allow:
        fields.append(field_text("allow", ",".join(policy.allow)))
    if policy.deny:
        fields.append(field_text("deny", ",".join(policy.deny)))
    if policy.client_certificate:
        fields.append(field_text("cert", policy.client_certificate, authority_name(policy.client_authorities)))
    if policy.cors:
        fields += _cors(policy.cors)
    if policy.basic_auth:
        fields.append(field_text("basic", policy.basic_auth.realm, realm_name(route)))
    if policy.external_auth:
        fields += _external(policy.external_auth, slot_of)
    return fields


def _cors(cors: Cors) -> list[str]:
    row = (", ".join(cors.methods), ", ".join(cors.headers), ", ".join(cors.expose), str(cors.max_age))
    return [field_text("cors", *row, "1" if cors.credentials else "")] + [
        field_text("origin", one) for one in sorted(cors.origins, key=lambda one: one != "*")
    ]


def _external(auth: ExternalAuth, slot_of: SlotOf) -> list[str]:
    return [
        field_text("auth", slot_of(auth.service), auth.path, auth.host, auth.sign_in),
        *(field_text("copy", name.lower()) for name in auth.copied_headers),
    ]


def _changes(route: Route, slot_of: SlotOf) -> list[str]:
    fields = [_redirect(route, route.redirect)] if route.redirect else []
    fields += [field_text("mirror", slot_of(one.service), f"{one.percent:g}") for one in route.mirrors]
    if route.rewrite_host:
        fields.append(field_text("host", route.rewrite_host))
    if route.rewrite_path:
        fields.append(field_text("path", *_path(route, route.rewrite_path)))
    fields += _headers("q", route.request_headers) + _headers("p", route.response_headers)
    if route.policy.hsts:
        fields.append(field_text("hsts", route.policy.hsts))
    return fields


def _redirect(route: Route, redirect: Redirect) -> str:
    port = str(redirect.port) if redirect.port else ""
    path = _path(route, redirect.path) if redirect.path else ("", "", "")
    return field_text("redirect", str(redirect.status), redirect.scheme, redirect.host, port, *path, redirect.location)


def _path(route: Route, change: PathChange) -> tuple[str, str, str]:
    return change.kind, change.value, route.match.path.value if route.match.path.kind == "prefix" else "/"


def _headers(letter: str, headers: Headers) -> list[str]:
    return [
        *(field_text(f"{letter}d", name.lower()) for name in headers.remove),
        *(field_text(f"{letter}s", name.lower(), value) for name, value in headers.set),
        *(field_text(f"{letter}a", name.lower(), value) for name, value in headers.add),
    ]


def _limits(policy: Policy) -> list[str]:
    numbers = {
        "server": policy.server_timeout,
        "tunnel": policy.tunnel_timeout,
        # A stream of messages is as long as it is, so that only a length that is said counts.
        "told" if policy.protocol in ("h2", "h2c") else "body": policy.body_size,
        "rps": policy.limits.per_second * _BURST_SECONDS,
        "rpm": policy.limits.per_minute,
        "conn": policy.limits.concurrent,
    }
    fields = [field_text(name, str(number)) for name, number in numbers.items() if number]
    if policy.limits.scope:
        fields.append(field_text("scope", digest(policy.limits.scope, 16)))
    return [*fields, *([field_text("cookie", policy.sticky.cookie)] if policy.sticky else [])]
