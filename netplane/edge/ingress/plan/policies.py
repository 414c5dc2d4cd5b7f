"""Make the policy of a route from the annotations of its Ingress, and the Secrets and Services these name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from netplane.edge import pem
from netplane.edge.ingress.plan import endpoints, values
from netplane.edge.ingress.plan.view import One
from netplane.model.routing import BackendTls, BasicAuth, Cors, ExternalAuth, Host, Limits, Policy, ServicePort, Sticky

_PROTOCOLS: Final = {"HTTP": "http", "HTTPS": "https", "GRPC": "h2c", "GRPCS": "h2"}
_HASH: Final = re.compile(r"\$(2[aby]|apr1|1|5|6|y)\$[A-Za-z0-9./$,=]{8,200}|\{SHA\}[A-Za-z0-9+/=]{28}")
_USER: Final = re.compile(r"[\x21-\x39\x3b-\x7e]{1,128}")
_IN_CLUSTER: Final = re.compile(r"(?P<name>[a-z0-9-]+)(\.(?P<namespace>[a-z0-9-]+)(\.svc(\.[a-z0-9.-]+)?)?)?")
_USERS_MOST: Final = 2000
_SERVER: Final = 60_000
_CONNECT: Final = 5000
"""The engine's times when nothing is said, in milliseconds; only the first can be another for each request."""


def check(one: One) -> None:
    """Read what the annotations refer to, into the options, so that what is missing is told once."""
    for name, read in _READ.items():
        if one.options.get(name) is not None:
            try:
                one.options.values[f"read:{name}"] = read(one)
            except ValueError as error:
                one.options.refuse(f"netplane.io/{name}", str(error))
    _timeouts(one)
    if one.options.get("proxy-ssl-verify") and not one.options.get("proxy-ssl-name"):
        text = "is missing, though proxy-ssl-verify asks for the name that the backend must prove"
        one.options.refuse("netplane.io/proxy-ssl-name", text)
    if one.options.get("auth-type") and one.options.get("auth-secret") is None:
        one.options.refuse("netplane.io/auth-secret", "is missing, though auth-type asks for passwords")
    if one.options.get("auth-tls-verify-client", "off") != "off" and one.options.get("auth-tls-secret") is None:
        one.options.refuse(
            "netplane.io/auth-tls-secret", "is missing, though auth-tls-verify-client asks for certificates"
        )


def _timeouts(one: One) -> None:
    """Refuse times that the engine has no way to keep; what is its own, or nginx's without a word, is no fault."""
    get, refuse = one.options.get, one.options.refuse
    if get("proxy-send-timeout", 0) not in (0, get("proxy-read-timeout", _SERVER)):
        refuse(
            "netplane.io/proxy-send-timeout",
            "is one time with proxy-read-timeout (60s unless said): say the same for both",
        )
    if get("proxy-connect-timeout", _CONNECT) != _CONNECT:
        refuse("netplane.io/proxy-connect-timeout", "is 5s for all and cannot be changed")


def policy(one: One, host: Host) -> Policy:
    """Return the policy of the routes of one host."""
    get = one.options.get
    return Policy(
        server_timeout=get("proxy-read-timeout", 0),
        tunnel_timeout=get("tunnel-timeout", get("proxy-read-timeout", 0)),
        body_size=get("proxy-body-size", 0),
        allow=get("allowlist-source-range") or get("whitelist-source-range") or (),
        deny=get("denylist-source-range", ()),
        ssl_redirect=308 if get("force-ssl-redirect") or (get("ssl-redirect") and _has_tls(one, host)) else 0,
        hsts=_hsts(one),
        limits=_limits(one),
        cors=_cors(one) if get("enable-cors") else None,
        basic_auth=get("read:auth-secret") if get("auth-type") else None,
        external_auth=get("read:auth-url"),
        sticky=Sticky(get("session-cookie-name", "INGRESSCOOKIE")) if get("affinity") else None,
        protocol=_PROTOCOLS[get("backend-protocol", "HTTP")],  # type: ignore[arg-type]  # the table's values are such
        backend_tls=BackendTls(
            get("proxy-ssl-verify", False), get("read:proxy-ssl-secret", ""), get("proxy-ssl-name", "")
        ),
        client_certificate=_client_certificate(one),
        client_authorities=get("read:auth-tls-secret") or "",
        balance=get("balance", "roundrobin"),
    )


def secret_key(one: One, text: str) -> tuple[str, str]:
    """Return the key of a Secret that an annotation names; only those of the Ingress's own namespace may be used."""
    namespace, slash, name = text.rpartition("/")
    if slash and namespace != one.key[0]:
        raise ValueError(f"Secret {text!r} is of another namespace")
    return one.key[0], name


def secret(one: One, text: str) -> dict[str, object]:
    """Return the Secret that an annotation names. ValueError when it is not there."""
    key = secret_key(one, text)
    found = one.view.secrets.get(key)
    if found is None:
        raise ValueError(f"there is no Secret {key[0]}/{key[1]}")
    return found


def _client_certificate(one: One) -> values.Verify:
    if one.options.get("auth-tls-secret") is None:
        return ""
    wanted = one.options.get("auth-tls-verify-client", "on")
    return "" if wanted == "off" else wanted


def _has_tls(one: One, host: Host) -> bool:
    for row in (one.obj.get("spec") or {}).get("tls") or ():
        hosts = row.get("hosts") or ()
        name = f"*.{host.name}" if host.kind == "label" else host.name
        parent = f"*.{host.name.partition('.')[2]}"
        if not hosts or name in hosts or (host.kind == "exact" and parent in hosts):
            return True
    return False


def _hsts(one: One) -> str:
    age = one.options.get("hsts-max-age")
    if age is None:
        return ""
    more = "; includeSubDomains" if one.options.get("hsts-include-subdomains") else ""
    return f"max-age={age}{more}{'; preload' if one.options.get('hsts-preload') else ''}"


def _limits(one: One) -> Limits:
    """Return the limits, which count what is asked of any path of the Ingress."""
    found = Limits(*(one.options.get(name, 0) for name in ("limit-rps", "limit-rpm", "limit-connections")))
    return replace(found, scope="/".join(one.key)) if found != Limits() else found


def _cors(one: One) -> Cors:
    get, plain = one.options.get, Cors()
    return Cors(
        origins=get("cors-allow-origin", plain.origins),
        methods=get("cors-allow-methods", plain.methods),
        headers=get("cors-allow-headers", plain.headers),
        expose=get("cors-expose-headers", plain.expose),
        credentials=get("cors-allow-credentials", True),
        max_age=get("cors-max-age", plain.max_age),
    )


def _basic(one: One) -> BasicAuth:
    found = secret(one, one.options.get("auth-secret"))
    rows: list[tuple[str, str]] = []
    if one.options.get("auth-secret-type") == "auth-map":
        for user in sorted(found.get("data") or {}):  # type: ignore[call-overload]  # JSON
            rows.append((user, pem.entry(found, user).decode(errors="replace").strip()))
    else:
        for line in pem.entry(found, "auth").decode(errors="replace").splitlines():
            if line.strip() and not line.startswith("#"):
                user, _, hashed = line.strip().partition(":")
                rows.append((user, hashed))
    for user, hashed in rows:
        if not (_USER.fullmatch(user) and _HASH.fullmatch(hashed)):
            raise ValueError(f"the Secret's entry of user {user[:32]!r} is not a hash as htpasswd writes them")
    if not rows or len(rows) > _USERS_MOST:
        raise ValueError(f"the Secret names {len(rows)} users; 1 to {_USERS_MOST} can be")
    return BasicAuth(one.options.get("auth-realm", "Authentication Required"), tuple(rows))


def _external(one: One) -> ExternalAuth:
    text = one.options.get("auth-url")
    parts = urlsplit(text)
    place = _IN_CLUSTER.fullmatch(parts.hostname or "")
    if parts.scheme != "http" or place is None or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text[:80]!r} is no URL like http://service.namespace.svc:port/path")
    key = place["namespace"] or one.key[0], place["name"]
    service = one.view.services.get(key)
    if service is None or service.type == "ExternalName":
        raise ValueError(f"there is no Service {key[0]}/{key[1]} with endpoints in the cluster")
    port = endpoints.port_of(service, parts.port or 80)
    if port is None:
        raise ValueError(f"Service {key[0]}/{key[1]} has no TCP port {parts.port or 80}")
    sign_in = one.options.get("auth-signin", "")
    if sign_in and ("$" in sign_in or not re.fullmatch(r"(https?://|/)[\x21-\x7e]*", sign_in)):
        raise ValueError(f"auth-signin {sign_in[:80]!r} is no URL without variables")
    return ExternalAuth(
        ServicePort(*key, port.port),
        values.path(parts.path or "/"),
        parts.hostname or "",
        sign_in,
        one.options.get("auth-response-headers", ()),
    )


def _backend_ca(one: One) -> str:
    return pem.authorities(secret(one, one.options.get("proxy-ssl-secret")))


def _client_ca(one: One) -> str | None:
    if one.options.get("auth-tls-verify-client") == "off":
        return None
    return pem.authorities(secret(one, one.options.get("auth-tls-secret")))


_READ: Final[Mapping[str, Callable[[One], object]]] = {
    "auth-secret": _basic,
    "auth-url": _external,
    "auth-tls-secret": _client_ca,
    "proxy-ssl-secret": _backend_ca,
}
"""The annotations that refer to other objects, and what reads these."""
