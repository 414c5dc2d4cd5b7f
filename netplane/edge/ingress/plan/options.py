"""The annotations of an Ingress: their names, what they are read by, and what becomes of them.

`netplane.io/NAME` is ours; the same NAME under `nginx.ingress.kubernetes.io/` is taken where it means the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from netplane.edge.ingress.plan import values

OURS: Final = "netplane.io/"
NGINX: Final = "nginx.ingress.kubernetes.io/"

Reader = Callable[[str], Any]

_SHARED: Final[Mapping[str, Reader]] = {
    "ssl-redirect": values.flag,
    "force-ssl-redirect": values.flag,
    "ssl-passthrough": values.flag,
    "rewrite-target": values.plain_path,
    "upstream-vhost": values.host,
    "permanent-redirect": values.url,
    "permanent-redirect-code": values.redirect_status,
    "temporal-redirect": values.url,
    "proxy-read-timeout": values.duration,
    "proxy-send-timeout": values.duration,
    "proxy-connect-timeout": values.duration,
    "proxy-body-size": values.size,
    "limit-rps": values.number(1, 1_000_000),
    "limit-rpm": values.number(1, 10_000_000),
    "limit-connections": values.number(1, 1_000_000),
    "whitelist-source-range": values.networks,
    "allowlist-source-range": values.networks,
    "denylist-source-range": values.networks,
    "auth-type": values.choice("basic"),
    "auth-secret": values.printable,
    "auth-secret-type": values.choice("auth-file", "auth-map"),
    "auth-realm": values.printable,
    "auth-url": values.printable,
    "auth-signin": values.printable,
    "auth-response-headers": values.tokens,
    "auth-tls-secret": values.printable,
    "auth-tls-verify-client": values.choice("on", "off", "optional"),
    "enable-cors": values.flag,
    "cors-allow-origin": values.origins,
    "cors-allow-methods": values.tokens,
    "cors-allow-headers": values.tokens,
    "cors-expose-headers": values.tokens,
    "cors-allow-credentials": values.flag,
    "cors-max-age": values.number(0, 86_400 * 365),
    "affinity": values.choice("cookie"),
    "session-cookie-name": values.token,
    "canary": values.flag,
    "canary-weight": values.number(0, 1_000_000),
    "canary-weight-total": values.number(1, 1_000_000),
    "canary-by-header": values.token,
    "canary-by-header-value": values.printable,
    "canary-by-cookie": values.token,
    "backend-protocol": values.choice("HTTP", "HTTPS", "GRPC", "GRPCS"),
    "proxy-ssl-verify": values.flag,
    "proxy-ssl-secret": values.printable,
    "proxy-ssl-name": values.host,
}

_OURS_ALONE: Final[Mapping[str, Reader]] = {
    "rewrite-prefix": values.path,
    "tunnel-timeout": values.duration,
    "hsts-max-age": values.number(0, 86_400 * 3650),
    "hsts-include-subdomains": values.flag,
    "hsts-preload": values.flag,
    "balance": values.choice("roundrobin", "leastconn"),
}

_GUARDS: Final = ("auth-", "whitelist-", "allowlist-", "denylist-", "proxy-ssl-", "limit-")
"""What keeps others out or is trusted: when such a value is wrong, nobody is let in."""


@dataclass(slots=True)
class Options:
    """What the annotations of one Ingress say, by their short names, and what is wrong with them."""

    values: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    is_closed: bool = False
    """Whether a value that guards the Ingress is wrong, so that it answers 503 until that is mended."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value by its short name."""
        return self.values.get(name, default)

    def refuse(self, name: str, reason: str) -> None:
        """Note that a value cannot be used."""
        self.faults.append(f"metadata.annotations[{name}]: {reason}")
        short = name.partition("/")[2]
        self.is_closed |= short.startswith(_GUARDS)


def read(annotations: Mapping[str, str]) -> Options:
    """Read all annotations that are ours or nginx's; ours win."""
    options = Options()
    for name, text in sorted(annotations.items()):  # netplane.io before nginx
        prefix, _, short = name.partition("/")
        reader = _SHARED.get(short)
        if f"{prefix}/" == OURS:
            reader = reader or _OURS_ALONE.get(short)
        elif f"{prefix}/" != NGINX:
            continue
        if reader is None:
            options.refuse(name, _unknown(short, f"{prefix}/"))
        elif short not in options.values:
            _take(options, name, short, text, reader)
    return options


def _take(options: Options, name: str, short: str, text: Any, reader: Reader) -> None:
    try:
        options.values[short] = reader(str(text).strip())
    except ValueError as error:
        options.refuse(name, str(error))


def _unknown(short: str, prefix: str) -> str:
    if "snippet" in short:
        return "snippets of configuration are never taken"
    near = difflib.get_close_matches(short, [*_SHARED, *(_OURS_ALONE if prefix == OURS else ())], n=1)
    return f"is not supported{f'; did you mean {near[0]}?' if near else ''}"
