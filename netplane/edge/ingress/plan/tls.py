"""Choose the certificates of Ingresses: for each name the oldest Ingress that names it has its Secret served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netplane.edge import pem
from netplane.edge.ingress.plan import policies, values
from netplane.edge.ingress.plan.view import One
from netplane.model.routing import Certificate, ClientAuthority


def read(ingresses: Sequence[One]) -> tuple[tuple[Certificate, ...], tuple[ClientAuthority, ...]]:
    """Return the certificates by Secret, and the authorities of clients, oldest first."""
    claimed: dict[str, tuple[str, str]] = {}
    pems: dict[str, str] = {}
    authorities: dict[str, ClientAuthority] = {}
    for one in ingresses:
        for at, row in enumerate((one.obj.get("spec") or {}).get("tls") or ()):
            _claim(one, at, row.get("secretName") or "", row.get("hosts") or (), claimed, pems)
        _authorities(one, authorities)
    names: dict[str, list[str]] = {}
    for name, (secret, _) in claimed.items():
        names.setdefault(secret, []).append(name)
    return (
        tuple(Certificate(secret, tuple(sorted(mine)), pems[secret]) for secret, mine in sorted(names.items())),
        tuple(authorities.values()),
    )


def _claim(
    one: One, at: int, secret: str, hosts: Sequence[str], claimed: dict[str, tuple[str, str]], pems: dict[str, str]
) -> None:
    if not secret:
        return  # The default certificate is meant.
    namespace = one.key[0]
    found = one.view.secrets.get((namespace, secret))
    if found is None:
        one.tell("SecretNotFound", f"spec.tls[{at}].secretName: there is no Secret {namespace}/{secret}")
        return
    try:
        pair = pem.pair(found)
    except ValueError as error:
        one.tell("BadCertificate", f"spec.tls[{at}].secretName: Secret {namespace}/{secret}: {error}")
        return
    label = f"{namespace}_{secret}"
    pems[label] = pair.pem
    for name in _names(one, at, hosts or pair.names):
        winner, owner = claimed.setdefault(name, (label, f"{one.key[0]}/{one.key[1]}"))
        if winner != label and pems[winner] != pair.pem:
            one.tell(
                "HostClaimed", f"spec.tls[{at}].hosts: {name} has the certificate of Ingress {owner}, which is older"
            )


def _names(one: One, at: int, hosts: Sequence[str]) -> Iterator[str]:
    for host in hosts:
        name = host.lower()
        try:
            values.host(name.removeprefix("*."))
        except ValueError as error:
            one.tell("BadHost", f"spec.tls[{at}].hosts: {error}")
            continue
        yield name


def _authorities(one: One, found: dict[str, ClientAuthority]) -> None:
    text = one.options.get("auth-tls-secret")
    if text is None or one.options.is_closed or one.options.get("auth-tls-verify-client") == "off":
        return
    try:
        bundle = pem.authorities(policies.secret(one, text))
    except ValueError as error:
        one.tell("BadAnnotation", f"metadata.annotations[netplane.io/auth-tls-secret]: {error}")
        return
    rules = (one.obj.get("spec") or {}).get("rules") or ()
    names = tuple(sorted({rule["host"].lower() for rule in rules if rule.get("host")}))
    key = f"{one.key[0]}_{one.key[1]}"
    found[key] = ClientAuthority(key, names, bundle)
