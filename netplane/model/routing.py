"""What a front door should do with requests, free of any API and any engine.

Readers (Ingress, Gateway API) compile their objects to one `Routing`; engines compile a `Routing` to themselves.
Everything in it is validated data: whoever makes these facts has checked each text against the rules named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

HostKind = Literal["exact", "label", "suffix", "any"]
PathKind = Literal["exact", "prefix", "regex"]
ListenerProtocol = Literal["HTTP", "HTTPS"]
BackendProtocol = Literal["http", "h2c", "https", "h2"]
"""How to speak to endpoints: clear HTTP/1.1, clear HTTP/2, or each inside TLS."""


@dataclass(frozen=True, slots=True, order=True)
class Host:
    """Which hosts: one exactly; `*.name` for one label (Ingress) or for any number (suffix, Gateway); any.

    `name` is lower case, without port and without the leading `*.`; "" for any. The most specific one that has a
    matching route wins: exact, then the longest wildcard name (label before suffix), then any.
    """

    kind: HostKind = "any"
    name: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Path:
    """Which paths. A prefix counts whole elements: `/a` holds `/a`, `/a/` and `/a/b`, and not `/ab`.

    `value` begins with `/`, is at most 1024 printable ASCII characters without spaces, and a prefix has no `/` at its
    end but for `/` itself. Exact wins over prefix, a longer prefix over a shorter, and a regex (anchored at both ends)
    comes after exact and before prefix, longest text first.
    """

    kind: PathKind = "prefix"
    value: str = "/"


@dataclass(frozen=True, slots=True, order=True)
class Value:
    """A header, query parameter or cookie that must be there with a value. Header names are compared without case.

    With `is_regex` the value is a regular expression that must match whole; an empty one stands for every value.
    """

    name: str
    value: str
    is_regex: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """When a route takes a request: all of it must hold. `method` is "" for every method."""

    host: Host = Host()
    path: Path = Path()
    method: str = ""
    headers: tuple[Value, ...] = ()
    queries: tuple[Value, ...] = ()
    cookies: tuple[Value, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether host and path alone decide."""
        return not (self.method or self.headers or self.queries or self.cookies)


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """The rule a route comes from, for logs, metrics and statuses. `rule` and `path` are indexes; -1 for none."""

    kind: str
    namespace: str
    name: str
    rule: int = -1
    path: int = -1

    def __str__(self) -> str:
        """Name the object as logs and metrics do: `Ingress/shop/web`."""
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class ServicePort:
    """A port of a Service, by number. Readers resolve names of ports against the Service."""

    namespace: str
    name: str
    port: int

    def __str__(self) -> str:
        """Print `namespace/name:port`."""
        return f"{self.namespace}/{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Backend:
    """Where requests go, and how many of them: weight over the sum of the weights of the route's backends.

    `service` None stands for a backend that is not there or not allowed: its share of requests gets 500 (Gateway) or
    503 (Ingress), as `missing_status` says.
    """

    service: ServicePort | None
    weight: int = 1
    missing_status: int = 503


@dataclass(frozen=True, slots=True)
class Headers:
    """What becomes of headers: first removed, then set (replacing all of the name), then added."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.add or self.remove)


@dataclass(frozen=True, slots=True)
class PathChange:
    """The whole path replaced by `value` (the query stays), or only the prefix that the route matched."""

    kind: Literal["full", "prefix"]
    value: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer with a redirect; what is "" or 0 or None stays as the request has it.

    `port` 0: none in the location when `scheme` is given, else the listener's own (Gateway API's HTTPRequestRedirect).
    """

    scheme: str = ""
    host: str = ""
    port: int = 0
    path: PathChange | None = None
    status: int = 302
    location: str = ""
    """The whole Location, printable ASCII without spaces; nothing else but the status counts then."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Send a copy of `percent` of the requests there and ignore the answers."""

    service: ServicePort
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class Cors:
    """Cross-origin answers (the Fetch standard). `origins` holds `*`, whole origins, or `https://*.example.com`."""

    origins: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int = 1728000


@dataclass(frozen=True, slots=True)
class Limits:
    """Per client address; 0 for none. A burst of five seconds' worth of `per_second` passes."""

    per_second: int = 0
    per_minute: int = 0
    concurrent: int = 0
    scope: str = ""
    """Whatever is asked for under the same scope is counted together."""


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """HTTP basic authentication. `users` maps a name to its hash as in htpasswd."""

    realm: str
    users: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ExternalAuth:
    """Ask `service` at `path` about every request (by GET, with the request's headers): 2xx lets it pass."""

    service: ServicePort
    path: str = "/"
    host: str = ""
    sign_in: str = ""
    """Where to send those refused with 401; "" to hand them the refusal."""
    copied_headers: tuple[str, ...] = ()
    """Headers of the answer that are given to the backend."""


@dataclass(frozen=True, slots=True)
class Sticky:
    """A cookie that keeps a client at its endpoint."""

    cookie: str


@dataclass(frozen=True, slots=True)
class BackendTls:
    """TLS to endpoints. `ca` is PEM; "" with `verify` trusts the system's authorities."""

    verify: bool = False
    ca: str = ""
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """What else holds for a route. Times are in milliseconds, sizes in bytes; 0 means the engine's default."""

    server_timeout: int = 0
    """Without a byte from the backend."""
    tunnel_timeout: int = 0
    """Without a byte in either direction, after an upgrade (WebSocket)."""
    body_size: int = 0
    allow: tuple[str, ...] = ()
    """Client networks as `10.0.0.0/8`; empty: all."""
    deny: tuple[str, ...] = ()
    ssl_redirect: int = 0
    """The status (301, 308 ...) that requests over plain HTTP are sent to HTTPS with; 0 for not."""
    hsts: str = ""
    """The whole value of Strict-Transport-Security, for answers over HTTPS."""
    limits: Limits = Limits()
    cors: Cors | None = None
    basic_auth: BasicAuth | None = None
    external_auth: ExternalAuth | None = None
    sticky: Sticky | None = None
    protocol: BackendProtocol = "http"
    backend_tls: BackendTls = BackendTls()
    client_certificate: Literal["", "on", "optional"] = ""
    """Whether the client must show a certificate."""
    client_authorities: str = ""
    """The authorities (PEM) that must have verified it; those of each name stand in `Routing.client_authorities`."""
    balance: Literal["roundrobin", "leastconn"] = "roundrobin"


@dataclass(frozen=True, slots=True)
class Route:
    """One match, and what is done with the requests it takes: `respond`, else `redirect`, else `backends`.

    `ports` are the listeners it is served at; empty: all. Of two that match a request, the more specific wins: host,
    then path, then one with a method, then more headers, then more queries (Gateway API's order), then `order`: the
    older object first (its creation time, namespace, name), then rule and path.
    """

    owner: Owner
    match: Match = Match()
    backends: tuple[Backend, ...] = ()
    ports: frozenset[int] = frozenset()
    order: tuple[str, str, str, int, int] = ("", "", "", 0, 0)
    """(creation time as RFC 3339, namespace, name, rule, match or path)."""
    respond: int = 0
    """Answer with this status and nothing else; 0 for not."""
    redirect: Redirect | None = None
    rewrite_path: PathChange | None = None
    rewrite_host: str = ""
    request_headers: Headers = Headers()
    response_headers: Headers = Headers()
    mirrors: tuple[Mirror, ...] = ()
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of the door, shared by all that listen on it. Hosts are a matter of routes and certificates."""

    port: int
    protocol: ListenerProtocol = "HTTP"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, PEM, served for the names (`a.example.com`, `*.example.com`) at every HTTPS port.

    `name` is unique and made of letters, digits, `.`, `_` and `-`. Two of one reader do not claim one name: it decides.
    """

    name: str
    names: tuple[str, ...]
    pem: str
    claims: tuple[tuple[str, str, str], ...] = ()
    """Who wants it for each of the names: creation time, namespace and name. Of two readers' the older claim wins."""


@dataclass(frozen=True, slots=True)
class ClientAuthority:
    """The authorities (PEM) whose certificates clients of these hosts may show."""

    name: str
    names: tuple[str, ...]
    pem: str


@dataclass(frozen=True, slots=True)
class Passthrough:
    """TLS connections with this server name go to the backend as they are."""

    owner: Owner
    host: Host
    service: ServicePort


@dataclass(frozen=True, slots=True)
class Server:
    """One endpoint that may be sent requests now. `address` is its text, `name` the pod or "" when it is none."""

    address: str
    port: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Routing:
    """All that a door serves. Readers make one each; `merge` makes them one.

    `servers` tells for each port of a Service where it is answered now, an empty tuple when nowhere: readers leave it
    empty, the engine's daemon fills it from Services and EndpointSlices.
    """

    listeners: tuple[Listener, ...] = ()
    routes: tuple[Route, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    client_authorities: tuple[ClientAuthority, ...] = ()
    passthroughs: tuple[Passthrough, ...] = ()
    default_certificate: str = ""
    """PEM of certificate and key for names that have none; "" for one the engine makes itself."""
    servers: Mapping[ServicePort, tuple[Server, ...]] = field(default_factory=dict)


def merge(*parts: Routing) -> Routing:
    """Return one routing with everything of the parts, in their order; a certificate's name goes to the older claim."""
    servers: dict[ServicePort, tuple[Server, ...]] = {}
    for part in parts:
        servers |= part.servers
    return Routing(
        listeners=tuple(dict.fromkeys(one for part in parts for one in part.listeners)),
        routes=tuple(one for part in parts for one in part.routes),
        certificates=tuple(_agreed([one for part in parts for one in part.certificates])),
        client_authorities=tuple(one for part in parts for one in part.client_authorities),
        passthroughs=tuple(one for part in parts for one in part.passthroughs),
        default_certificate=next((part.default_certificate for part in parts if part.default_certificate), ""),
        servers=servers,
    )


def younger(certificates: Iterable[Certificate]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return which claims are not served: (certificate, name) to the claim of whom the name belongs to."""
    rows = [(claim, one.name, name) for one in certificates for name, claim in zip(one.names, one.claims, strict=False)]
    oldest: dict[str, tuple[tuple[str, str, str], str]] = {}
    for claim, label, name in sorted(rows):
        oldest.setdefault(name, (claim, label))
    return {(label, name): oldest[name][0] for _, label, name in rows if oldest[name][1] != label}


def _agreed(certificates: list[Certificate]) -> Iterator[Certificate]:
    lost = younger(certificates)
    for one in certificates:
        kept = tuple(name for name in one.names if (one.name, name) not in lost)
        if kept:
            yield one if kept == one.names else replace(one, names=kept, claims=())
