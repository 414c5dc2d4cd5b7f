"""Read a URL path as an API request: which resource, which object, which subresource. Pure.

The paths are those of the API conventions: `/api/v1/...` for the core group and `/apis/GROUP/VERSION/...`, then
`[namespaces/NS/]PLURAL[/NAME[/SUBRESOURCE[/PATH...]]]`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from urllib.parse import unquote

_WATCH = re.compile(r"(/api/[^/]+|/apis/[^/]+/[^/]+)/watch(/.+)")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path points at. `rest` is what follows a proxy subresource, with its slashes."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""


@functools.lru_cache(maxsize=4096)
def parse(path: str) -> Target | None:
    """Return the target of a raw (percent-encoded) path; None when it is not one of the API's resources."""
    parts = path.split("/")
    if parts[1:2] == ["api"]:
        group, parts = "", parts[2:]
    elif parts[1:2] == ["apis"] and len(parts) > 2:
        group, parts = unquote(parts[2]), parts[3:]
    else:
        return None
    if len(parts) < 2 or not parts[0] or not parts[1]:
        return None
    version, parts = unquote(parts[0]), parts[1:]
    namespace = ""
    # `/namespaces/x` and its subresources are the namespace itself, `/namespaces/x/pods` is what lives in it.
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize", ""):
        namespace, parts = unquote(parts[1]), parts[2:]
    return _target(group, version, namespace, parts)


def unwatched(path: str) -> str | None:
    """Return the path that an old `/api/v1/watch/...` means with `watch=1`; None when it is no such path."""
    match = _WATCH.fullmatch(path)
    return match.group(1) + match.group(2) if match else None


def _target(group: str, version: str, namespace: str, parts: list[str]) -> Target | None:
    plural, *more = parts
    if more and more[-1] == "" and len(more) <= 2:
        more = more[:-1]
    if "" in (plural, *more[:2]):
        return None
    name = unquote(more[0]) if more else ""
    subresource = unquote(more[1]) if len(more) > 1 else ""
    rest = "/" + "/".join(more[2:]) if len(more) > 2 else ""
    if rest and subresource != "proxy":
        return None
    return Target(group, version, unquote(plural), namespace, name, subresource, rest)
