"""The engine's configuration text, made from this door's own settings and from typed data, never from users' text.

All that routes differ in is looked up in maps when a request comes; `state` says what stands in them. Backends are
slots: empty ones are kept ready, for the engine cannot make a backend while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from netplane.edge.ingress.plan.state import KEEPS, EngineServer, is_word
from netplane.model.routing import Listener

KINDS: Final[Mapping[str, str]] = {"h": "roundrobin", "l": "leastconn", "c": "sticky", "t": "tcp"}
"""The kinds of slots, by the first letter of their names."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How this door is made; what changes here needs a reload."""

    directory: str
    """Where maps, certificates and sockets are; made of letters, digits, `/`, `.`, `_` and `-`."""
    lua: str
    """The path of door.lua; its parts are in the folder `door` beside it."""
    listeners: tuple[Listener, ...] = (Listener(80, "HTTP"), Listener(443, "HTTPS"))
    own_ports: frozenset[int] = frozenset({80, 443})
    """Those of the listeners that Ingresses are served at."""
    addresses: tuple[str, ...] = ("*",)
    threads: int = 0
    """0: as many as there are processors."""
    connections: int = 4000
    access_log: str = "stdout"
    """"stdout", "" for none, or the path of a datagram socket."""
    accepts_proxy: bool = False
    """Whether every connection begins with a PROXY protocol header."""
    passthrough: bool = False
    """Whether TLS connections are looked at for a server name before they are answered."""
    slots: Mapping[str, int] = field(default_factory=lambda: dict(SLOTS))


SLOTS: Final[Mapping[str, int]] = {"h": 512, "l": 64, "c": 64, "t": 32}
"""How many slots of each kind a door starts with; when they are used up their number doubles, by one reload."""


def config(settings: Settings, servers: Mapping[str, Mapping[str, EngineServer]], *, mark: str, cookie_key: str) -> str:
    """Return the whole text. `servers` are written into their slots, so that a new process has them from the start."""
    lines = [*_global(settings, mark), *_defaults(settings), *_frontends(settings), *_tables()]
    lines += _slots(settings, servers, cookie_key)
    return "\n".join(lines) + "\n"


def slot_names(settings: Settings, kind: str) -> Iterator[str]:
    """Yield the names of all slots of a kind, in order; all are as long, for records begin with them."""
    return (f"{kind}{at:05}" for at in range(settings.slots.get(kind, 0)))


def _global(settings: Settings, mark: str) -> Iterable[str]:
    at = settings.directory
    yield "global"
    yield f"  presetenv NETPLANE_INTERNAL_SOCKET {at}/internal.sock"
    yield f"  presetenv NETPLANE_MAPS {at}/maps"
    yield f"  stats socket {at}/admin.sock mode 600 level admin expose-fd listeners"
    yield "  stats timeout 20d"
    yield f"  description netplane-{mark}"
    yield f"  maxconn {settings.connections}"
    if settings.threads:
        yield f"  nbthread {settings.threads}"
    yield "  hard-stop-after 24h"
    yield "  tune.ssl.default-dh-param 2048"
    # What conditions compare with is one word or two: to hash a value for the cache costs more than to compare it.
    yield "  tune.pattern.cache-size 0"
    # A session knows the client's certificate as it was checked for the name it began with, and TLS 1.3 would take it
    # up for any other name, where other authorities count.
    yield "  tune.ssl.cachesize 0"
    yield "  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets"
    yield "  ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20"
    yield f"  lua-prepend-path {PurePosixPath(settings.lua).parent}/?.lua"
    yield f"  lua-load-per-thread {settings.lua}"
    if settings.access_log:
        where = "stdout" if settings.access_log == "stdout" else settings.access_log
        yield f"  log {where} len 8192 format raw local0 info"


def _defaults(settings: Settings) -> Iterable[str]:
    yield "defaults doors"
    yield "  mode http"
    yield "  log global" if settings.access_log else "  no log"
    yield "  option dontlognull"
    # A process that is replaced answers once more on connections that wait for a request, and says that it closes them.
    yield "  option idle-close-on-response"
    yield "  timeout client 60s"
    yield "  timeout http-request 15s"
    yield "  timeout http-keep-alive 75s"
    yield "  timeout tunnel 1h"
    yield "  timeout connect 5s"
    yield "  timeout server 60s"


LOG_FORMAT: Final = (
    '{"time":%Ts.%ms,"client":"%[var(sess.client)]","method":"%HM","host":"%[capture.req.hdr(0)]",'
    '"path":"%[capture.req.hdr(1),json(utf8s)]","protocol":"%HV","status":%ST,"bytes":%B,"ms":%Ta,"backend_ms":%Tr,'
    '"state":"%tsc","tls":"%sslv","owner":"%[var(txn.rec),bytes(6)]","pod":"%[srv_name,field(1,_)]",'
    '"endpoint":"%[srv_name,field(-2,_)]","retries":%rc,"agent":"%[capture.req.hdr(2),json(utf8s)]"}'
)
"""One line of JSON for each request; what clients choose is escaped by the engine, and `owner` holds `service` too.

Each field costs every request, and the engine's converters by the character: addresses are printed once a connection,
and what the record and the server's name say already is not looked up again.
"""


def _frontends(settings: Settings) -> Iterable[str]:
    at = settings.directory
    yield "frontend door from doors"
    for listener in settings.listeners:
        yield from _binds(settings, listener)
    maps = f"{at}/maps"
    if settings.access_log:
        yield f"  log-format '{LOG_FORMAT}'"
    yield from _fast(settings, maps)
    yield from _rules(maps, logs=bool(settings.access_log))
    yield "frontend internal from doors"
    yield "  no log"
    yield f"  bind unix@{at}/internal.sock mode 600"
    # Never true: it makes these maps known to the engine also when no rule above uses them.
    for name in ("meta", "slots", "sni", "choices", "authorities"):
        yield f"  http-request set-var(txn.none) path,map_str({maps}/{name}.map) if {{ always_false }}"
    yield "  http-request set-var(txn.slot) req.hdr(x-netplane-slot)"
    yield "  http-request del-header x-netplane-slot"
    yield "  http-request set-method %[req.hdr(x-netplane-method)] if { req.hdr(x-netplane-method) -m found }"
    yield "  http-request del-header x-netplane-method"
    yield "  use_backend %[var(txn.slot)]"
    if settings.passthrough:
        yield from _passthrough(settings, maps)


def _binds(settings: Settings, listener: Listener) -> Iterable[str]:
    at, port = settings.directory, listener.port
    tail = f" id {port}" + (" accept-proxy" if settings.accepts_proxy else "")
    # What is wrong with a client's certificate is told in HTTP, by the routes that ask for one.
    tls = f" ssl crt {at}/certs/default.pem crt-list {at}/certs/list alpn h2,http/1.1"
    tls += " ca-ignore-err all crt-ignore-err all"
    if listener.protocol == "HTTPS" and settings.passthrough:
        yield f"  bind unix@{at}/tls-{port}.sock accept-proxy id {port}{tls}"
        return
    for where in settings.addresses:
        # Several addresses cannot share an id: the first has it, the others follow in steps.
        number = port + _STEP * settings.addresses.index(where)
        yield f"  bind {where}:{port}{_alone(where)}{tail.replace(f'id {port}', f'id {number}')}" + (
            tls if listener.protocol == "HTTPS" else ""
        )


def _alone(where: str) -> str:
    """All of IPv6 is bound beside all of IPv4, so that clients of that are not seen under mapped addresses."""
    return " v6only" if where == "[::]" else ""


def _passthrough(settings: Settings, maps: str) -> Iterable[str]:
    for listener in settings.listeners:
        if listener.protocol != "HTTPS":
            continue
        port = listener.port
        yield f"frontend tls-{port} from doors"
        yield "  mode tcp"
        yield "  no log"
        for where in settings.addresses:
            yield f"  bind {where}:{port}{_alone(where)}" + (" accept-proxy" if settings.accepts_proxy else "")
        yield "  tcp-request inspect-delay 5s"
        yield f"  tcp-request content set-var(sess.slot) req.ssl_sni,lower,map_str({maps}/sni.map)"
        yield (
            "  tcp-request content set-var(sess.slot) req.ssl_sni,lower,regsub(^[^.]*,*),"
            f"map_str({maps}/sni.map) if !{{ var(sess.slot) -m found }}"
        )
        yield "  tcp-request content accept if { req.ssl_hello_type 1 }"
        yield "  use_backend %[var(sess.slot)] if { var(sess.slot) -m found }"
        yield f"  default_backend tls-{port}"
        yield f"backend tls-{port} from doors"
        yield "  mode tcp"
        yield f"  server door unix@{settings.directory}/tls-{port}.sock send-proxy-v2"


_STEP: Final = 100_000
"""Between the ids of one port's addresses: no port reaches it."""
_MISSING: Final = "!{ var(txn.found) -m found }"
_BARE: Final = " ".join(
    f"!{{ req.hdr({name}) -m found }}" for name in ("content-length", "transfer-encoding", "upgrade")
)
"""Of a request that does not say whether it has a body, as in HTTP/2."""

_CAPTURES: Final = """
declare capture request len 2048
declare capture request len 512
http-request capture path id 1
http-request capture req.fhdr(user-agent) id 2
"""
"""What the log will tell of the request, which is gone by then, beside the host, whose capture is read also before."""

_FORGED: Final = (
    "^(x.forwarded.(for|host|port|proto|scheme)|x.original.forwarded.for|x.real.ip|x.scheme|forwarded|ssl.client.*)$"
)
"""Headers that tell pods who asks, and how: the door's to say. Many a server reads `_` in their names as `-`."""

_FAST: Final = r"""
tcp-request session set-var(sess.client) src,concat()
tcp-request session set-var(sess.scheme) ssl_fc,iif(https,http)
tcp-request session set-var(sess.port) dst_port
declare capture request len 2048
http-request capture req.fhdr(host) id 0
CAPTURES
acl is_odd_host capture.req.hdr(0) -m sub / ,
acl is_loose path -m sub // /. %
OTHERS
http-request del-header FORGED -m reg
http-request add-header X-Forwarded-For %[var(sess.client)]
http-request add-header X-Forwarded-Proto %[var(sess.scheme)]
http-request add-header X-Forwarded-Host %[capture.req.hdr(0)]
http-request add-header X-Forwarded-Port %[var(sess.port)]
http-request add-header X-Real-IP %[var(sess.client)]
http-request add-header X-Scheme %[var(sess.scheme)]
http-request set-var(txn.rec) base,concat(/?),map_beg(MAPS/fast.map) unless is_odd_host or is_loose ELSEWHERE
http-request track-sc0 var(txn.rec),bytes(6) table owners
http-request allow if { var(txn.rec) -m found }
http-request set-var(txn.door) so_id,map_int(MAPS/doors.map)
http-request set-var(txn.base) base
http-request set-var(txn.rec) var(txn.door),concat(/,txn.base,/?),map_beg(MAPS/near.map) unless is_odd_host or is_loose
http-request track-sc0 var(txn.rec),bytes(6) table owners
http-request allow if { var(txn.rec) -m found }
"""
"""The way of most requests: one lookup of host and path together says the slot and the names for the log.

The second one is for hosts that are served otherwise, or not at all, at another port. The captured host is what costs
least to read again; to look for a header costs each time. What is longer than a capture is no host of anyone's.
"""

_RULES: Final = r"""
set-var(txn.rec) 'str("!400--\",\"service\":\"")'
set-var(txn.host) req.fhdr(host),host_only,lower,rtrim(.)
set-var(txn.path) path
REFUSE(400,Bad Request) if is_odd_host
lua.plain if is_loose
set-var(txn.key) var(txn.door),concat(/,txn.host),concat(,txn.path)
set-var(txn.found) var(txn.key),map_str(MAPS/exact.map)
lua.search if MISSING { var(txn.door) -m sub ^ }
set-var(txn.found) var(txn.key),concat(/),map_beg(MAPS/prefix.map) if MISSING
lua.search if MISSING
lua.select if { var(txn.found) -m beg ? }
set-var(txn.slot) var(txn.found),field(1,|)
set-var(txn.owner) var(txn.found),field(2,|)
set-var(txn.rid) var(txn.found),field(3,|)
track-sc0 var(txn.owner) table owners
lua.pick if { var(txn.slot) -m beg @ }
set-var(txn.service) var(txn.slot),map_str(MAPS/slots.map),field(1,|)
set-var(txn.rec) 'var(txn.slot),concat(,txn.owner,"\",\"service\":\""),concat(,txn.service)'
set-var(txn.policy) var(txn.rid),map_str(MAPS/policies.map) if RICH
wait-for-body time 5s at-least 16000 if { var(txn.policy) -m sub &mirror= }
wait-for-body time 5s at-least 1 if { var(txn.policy) -m sub &body= } BARE
lua.policy if RICH
track-sc1 var(txn.client) table clients if { var(txn.client) -m found }
track-sc2 var(txn.client) table minutes if { var(txn.client) -m found }
lua.limit if { var(txn.client) -m found }
lua.refuse if { var(txn.slot) -m beg ! }
"""


def _fast(settings: Settings, maps: str) -> Iterator[str]:
    """Decide for hosts all of whose routes are simple at once, and leave all others to `_rules`."""
    others = [one.port for one in settings.listeners if one.port not in settings.own_ports]
    ids = [str(port + _STEP * at) for port in others for at in range(len(settings.addresses))]
    text = _FAST.replace("CAPTURES", _CAPTURES.strip() if settings.access_log else "").replace("MAPS", maps)
    text = text.replace("FORGED", _FORGED)
    text = text.replace("OTHERS", f"acl is_elsewhere so_id {' '.join(ids)}" if ids else "")
    text = text.replace(" ELSEWHERE", " or is_elsewhere" if ids else "")
    yield from (f"  {line}" for line in text.splitlines() if line)


def _rules(maps: str, *, logs: bool) -> Iterator[str]:
    """Say what happens to a request; every line is the same for all users, and what differs is in the maps.

    Each line costs every request that reaches it its condition, so what is rare is one line that leads into door.lua.
    """
    if logs:
        yield "  http-request capture req.fhdr(host),bytes(0,256),json(utf8s) id 0"
    for line in _RULES.strip().splitlines():
        line = line.replace("MAPS", maps).replace("MISSING", _MISSING).replace("BARE", _BARE)
        line = line.replace("RICH", "!{ var(txn.rid) -m str n }")
        yield f"  http-request {_refusal(line)}"
    # The engine's own count of failures knows those of backends alone, and not what the door itself fails with.
    yield "  http-after-response set-var(txn.none) sc0_inc_gpc0 if { status ge 500 }"
    yield "  http-response lua.answer if { var(txn.answer) -m found }"
    yield "  use_backend %[var(txn.rec),bytes(0,6)]"


def _refusal(line: str) -> str:
    """Write out `REFUSE(404,Not Found)`."""
    if not line.startswith("REFUSE("):
        return line
    what, _, rest = line[7:].partition(")")
    status, _, text = what.partition(",")
    return f'return status {status} content-type text/plain string "{status} {text}\\n"{rest}'


def _tables() -> Iterable[str]:
    yield "backend owners from doors"
    counts = "http_req_cnt,http_err_cnt,bytes_in_cnt,bytes_out_cnt,gpc0"
    yield f"  stick-table type string len 512 size 20k store {counts}"
    yield "backend clients from doors"
    yield "  stick-table type string len 64 size 200k expire 1m store http_req_rate(5s),conn_cur"
    yield "backend minutes from doors"
    yield "  stick-table type string len 64 size 200k expire 2m store http_req_rate(60s)"


def _slots(settings: Settings, servers: Mapping[str, Mapping[str, EngineServer]], cookie_key: str) -> Iterator[str]:
    for kind, balance in KINDS.items():
        yield f"defaults {balance}-slots"
        yield from (
            f"  {line}" for line in _SLOT[kind].replace("KEY", cookie_key).replace("KEEPS", KEEPS).strip().splitlines()
        )
        for slot in slot_names(settings, kind):
            yield f"backend {slot} from {balance}-slots"
            if kind == "c":
                yield f"  dynamic-cookie-key {cookie_key}"
            for name, server in sorted(servers.get(slot, {}).items()):
                if not is_word(name):
                    continue
                yield f"  server {name} {server.where}{f' {server.options}' if server.options else ''}"
    yield "backend basic from doors"
    yield f"  server checker unix@{settings.directory}/passwords.sock"


_HTTP_SLOT: Final = """
mode http
default-server KEEPS
timeout connect 5s
timeout server 60s
timeout tunnel 1h
retries 3
option redispatch 1
http-reuse safe
http-request set-timeout server var(txn.server) if { var(txn.server) -m found }
http-request set-timeout tunnel var(txn.tunnel) if { var(txn.tunnel) -m found }
"""

_SLOT: Final = {
    "h": f"{_HTTP_SLOT}balance roundrobin",
    "l": f"{_HTTP_SLOT}balance leastconn",
    "c": f"{_HTTP_SLOT}balance roundrobin\ncookie NETPLANE insert indirect nocache httponly dynamic\n"
    'http-after-response replace-header Set-Cookie ^NETPLANE=(.*) "%[var(txn.cookie)]=\\1" '
    "if { var(txn.cookie) -m found }",
    "t": "mode tcp\ntimeout connect 5s\ntimeout server 1h\nbalance roundrobin\nretries 3\noption redispatch 1",
}
