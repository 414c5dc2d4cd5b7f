"""Choose certificates, and the authorities of clients: for each name the oldest Ingress that names it decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netplane.edge import pem
from netplane.edge.ingress.plan import values
from netplane.edge.ingress.plan.view import Finding, One
from netplane.model.routing import Certificate, ClientAuthority, Host, younger

_Claim = tuple[str, str, str]
"""Of an Ingress: when it was created, its namespace and name."""


def certificates(ingresses: Sequence[One]) -> tuple[Certificate, ...]:
    """Return the certificates by Secret; the Ingresses come oldest first."""
    claimed: dict[str, tuple[str, _Claim]] = {}
    pems: dict[str, str] = {}
    for one in ingresses:
        for at, row in enumerate((one.obj.get("spec") or {}).get("tls") or ()):
            _claim(one, at, row.get("secretName") or "", row.get("hosts") or (), claimed, pems)
    rows: dict[str, list[tuple[str, _Claim]]] = {}
    for name, (secret, claim) in sorted(claimed.items()):
        rows.setdefault(secret, []).append((name, claim))
    return tuple(
        Certificate(secret, tuple(name for name, _ in mine), pems[secret], tuple(claim for _, claim in mine))
        for secret, mine in sorted(rows.items())
    )


def outlived(own: Sequence[Certificate], others: Sequence[Certificate]) -> tuple[Finding, ...]:
    """Return what Ingresses are told of names that have the certificate of an older Gateway."""
    lost = younger([*own, *others])
    pems = {name: one.pem for one in others for name in one.names}
    text = "spec.tls: {} has the certificate of Gateway {}, which is older"
    return tuple(
        Finding(claim[1:], "HostClaimed", text.format(name, "/".join(older[1:])))
        for one in own
        for name, claim in zip(one.names, one.claims, strict=True)
        if (older := lost.get((one.name, name))) and pems.get(name) != one.pem
    )


def authorities(ingresses: Sequence[One]) -> tuple[ClientAuthority, ...]:
    """Return the authorities of clients; the Ingresses come oldest first.

    A connection is verified by one set of them for its server name. Whoever wants another set for the same name is told
    so, and closed there: what it trusts would not be what was verified.
    """
    holders: dict[str, tuple[One, str]] = {}
    found: list[ClientAuthority] = []
    for one in ingresses:
        bundle = one.options.get("read:auth-tls-secret")
        if bundle is None or one.options.is_closed:
            continue
        names = [name for name in _hosts(one) if holders.setdefault(name, (one, bundle))[1] == bundle]
        for name in sorted(set(_hosts(one)) - set(names)):
            older = "/".join(holders[name][0].key)
            one.tell("HostClaimed", f"spec.rules: clients of {name} are verified by Ingress {older}, which is older")
            one.closed_hosts.add(Host("label", name[2:]) if name.startswith("*.") else Host("exact", name))
        found.append(ClientAuthority(f"{one.key[0]}_{one.key[1]}", tuple(sorted(names)), bundle))
    return tuple(found)


def _hosts(one: One) -> set[str]:
    rules = (one.obj.get("spec") or {}).get("rules") or ()
    return {rule["host"].lower() for rule in rules if rule.get("host")}


def _claim(
    one: One, at: int, secret: str, hosts: Sequence[str], claimed: dict[str, tuple[str, _Claim]], pems: dict[str, str]
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
        created = one.obj["metadata"].get("creationTimestamp") or ""
        winner, claim = claimed.setdefault(name, (label, (created, *one.key)))
        if winner != label and pems[winner] != pair.pem:
            owner = "/".join(claim[1:])
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
