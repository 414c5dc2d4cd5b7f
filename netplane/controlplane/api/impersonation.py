"""Act as another user when the request says so and the asker may: the `Impersonate-*` headers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import unquote

from netplane.controlplane.api import access, rbac, status

_EXTRA = b"impersonate-extra-"
_ACCOUNT = "system:serviceaccount:"
Allow = Callable[[rbac.Attributes], object]
"""Raises 403 when the asker may not do this."""


def effective(user: access.User, headers: Iterable[tuple[bytes, bytes]], allow: Allow) -> access.User:
    """Return the user to act as: the asker, or the one it names and may impersonate. Raises 400 and 403."""
    name, uid, groups = "", "", []
    extra: dict[str, tuple[str, ...]] = {}
    for header, raw in headers:
        if not header.startswith(b"impersonate-"):
            continue
        value = raw.decode("latin-1")
        if header == b"impersonate-user":
            name = value
        elif header == b"impersonate-group":
            groups.append(value)
        elif header == b"impersonate-uid":
            uid = value
        elif header.startswith(_EXTRA):
            key = unquote(header[len(_EXTRA) :].decode("latin-1"))
            extra[key] = (*extra.get(key, ()), value)
    if not name:
        if groups or uid or extra:
            raise status.bad_request("requested to impersonate without a user: Impersonate-User is missing")
        return user
    _check(name, groups, uid, extra, allow)
    return access.User(name, tuple(_with_system_groups(name, groups)), uid, extra)


def _check(name: str, groups: list[str], uid: str, extra: dict[str, tuple[str, ...]], allow: Allow) -> None:
    if name.startswith(_ACCOUNT):
        namespace, _, account = name[len(_ACCOUNT) :].partition(":")
        allow(rbac.Attributes("impersonate", "", "serviceaccounts", namespace=namespace, name=account))
    else:
        allow(rbac.Attributes("impersonate", "", "users", name=name))
    for group in groups:
        allow(rbac.Attributes("impersonate", "", "groups", name=group))
    if uid:
        allow(rbac.Attributes("impersonate", "authentication.k8s.io", "uids", name=uid))
    for key, values in extra.items():
        for value in values:
            allow(rbac.Attributes("impersonate", "authentication.k8s.io", "userextras", key, name=value))


def _with_system_groups(name: str, groups: list[str]) -> list[str]:
    found = list(groups)
    if name == access.ANONYMOUS.name:
        return [*found, access.UNAUTHENTICATED]
    if name.startswith(_ACCOUNT) and not found:
        namespace = name[len(_ACCOUNT) :].partition(":")[0]
        found = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    return found if access.AUTHENTICATED in found else [*found, access.AUTHENTICATED]
