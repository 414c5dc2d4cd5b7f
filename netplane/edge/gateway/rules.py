"""Decode the rules of an HTTPRoute: matches, filters, backends. What they refer to is resolved by `compile`.

All texts are judged against the specification's own patterns; a rule with a text that is wrong, or with something the
engine has no way to do, is a rule with a fault, and the rest of the route is served (PartiallyInvalid). Regular
expressions are refused: with one that backtracks a tenant could stop the door for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from netplane.edge.gateway.facts import Fault, Reference, Rule, Target
from netplane.model import routing

UNSUPPORTED = "UnsupportedValue"
INCOMPATIBLE = "IncompatibleFilters"
_PATH = re.compile(r"/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")
_PATH_TRICKS = re.compile(r"//|/\.\.?(?:/|\Z)|%2f|#", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,256}")
_VALUE = re.compile(r"[!-~\x80-\U0010ffff](?:[\t -~\x80-\U0010ffff]*[!-~\x80-\U0010ffff])?")
_HOSTNAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_DURATION = re.compile(r"([0-9]{1,5})(h|ms|m|s)")
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DAY = 86_400_000
_STATUSES = (301, 302, 303, 307, 308)

# RFC 9110 (7.6.1): these steer the connection, and a proxy's own; Host has a filter of its own.
_NOT_OURS = frozenset(("connection", "content-length", "transfer-encoding", "host", "upgrade", "te", "trailer"))


class Refused(Exception):
    """Carry a fault out of the depth."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(reason, message)


def rule(spec: Mapping[str, Any], index: int, namespace: str) -> Rule:
    """Decode a rule; what is wrong with it is its `fault`."""
    matches, fault = _matches(spec.get("matches") or ({},), f"spec.rules[{index}].matches")
    if fault:
        return Rule(index, matches=matches, fault=fault)
    try:
        return _rule(spec, index, namespace, matches)
    except Refused as refused:
        return Rule(index, matches=matches, fault=refused.fault)


def _rule(spec: Mapping[str, Any], index: int, namespace: str, matches: tuple[routing.Match, ...]) -> Rule:
    at = f"spec.rules[{index}]"
    targets = tuple(
        Target(_reference(each, namespace, f"{at}.backendRefs[{number}]"), each.get("weight", 1))
        for number, each in enumerate(spec.get("backendRefs") or ())
    )
    filters = [(each, f"{at}.filters[{number}]") for number, each in enumerate(spec.get("filters") or ())]
    parts = _joined(_filters(filters, namespace), _filters(_backend_filters(spec, at), namespace), at)
    _check(parts, matches, targets, at)
    return Rule(index=index, matches=matches, targets=targets, timeout=_timeout(spec, at), **parts)


def _check(parts: Mapping[str, Any], matches: tuple[routing.Match, ...], targets: tuple[Target, ...], at: str) -> None:
    if "redirect" in parts and ("rewrite_path" in parts or "rewrite_host" in parts):
        raise Refused(INCOMPATIBLE, f"{at}.filters: RequestRedirect and URLRewrite may not be used together")
    if "redirect" in parts and targets:
        raise Refused(INCOMPATIBLE, f"{at}.filters: RequestRedirect may not be used together with backendRefs")
    change = parts["redirect"].path if "redirect" in parts else parts.get("rewrite_path")
    if change is not None and change.kind == "prefix" and [match.path.kind for match in matches] != ["prefix"]:
        raise Refused(UNSUPPORTED, f"{at}.filters: replacePrefixMatch needs exactly one match, of type PathPrefix")


def _matches(specs: Sequence[Mapping[str, Any]], at: str) -> tuple[tuple[routing.Match, ...], Fault | None]:
    """Decode matches, each by itself, and tell the first fault; one that is wrong is kept as far as it can be read."""
    found: list[routing.Match] = []
    fault: Fault | None = None
    for number, spec in enumerate(specs):
        try:
            found.append(_match(spec, f"{at}[{number}]"))
        except Refused as refused:
            fault = fault or refused.fault
            found += _readable(spec, f"{at}[{number}]")
    return tuple(found), fault


def _readable(spec: Mapping[str, Any], at: str) -> list[routing.Match]:
    """Return a match that holds at least what a wrong one was meant to, none when nobody can say at which path.

    Where a value cannot be read, it holds for every value.
    """
    try:
        path = _path(spec.get("path") or {}, f"{at}.path")
    except Refused:
        return []
    method = spec.get("method") or ""
    headers = _readable_values(spec.get("headers") or (), at, str.lower)
    queries = _readable_values(spec.get("queryParams") or (), at, str)
    return [routing.Match(path=path, method=method if method in _METHODS else "", headers=headers, queries=queries)]


def _readable_values(
    specs: Iterable[Mapping[str, Any]], at: str, fold: Callable[[str], str]
) -> tuple[routing.Value, ...]:
    found: dict[str, routing.Value] = {}
    for spec in specs:
        try:
            (value,) = _values((spec,), at, fold)
        except Refused:
            value = routing.Value(fold(spec["name"]), "", is_regex=True)
        if _TOKEN.fullmatch(value.name):
            found.setdefault(value.name, value)
    return tuple(found.values())


def _match(spec: Mapping[str, Any], at: str) -> routing.Match:
    method = spec.get("method") or ""
    if method and method not in _METHODS:
        raise Refused(UNSUPPORTED, f"{at}.method: {method!r} is none of {', '.join(sorted(_METHODS))}")
    return routing.Match(
        path=_path(spec.get("path") or {}, f"{at}.path"),
        method=method,
        headers=_values(spec.get("headers") or (), f"{at}.headers", str.lower),
        queries=_values(spec.get("queryParams") or (), f"{at}.queryParams", str),
    )


def _path(spec: Mapping[str, Any], at: str) -> routing.Path:
    kind, value = spec.get("type") or "PathPrefix", spec.get("value") or "/"
    if kind not in ("Exact", "PathPrefix"):
        raise Refused(UNSUPPORTED, f"{at}.type: {kind!r} is not supported")
    path_text(value, f"{at}.value")
    if kind == "Exact":
        return routing.Path("exact", value)
    return routing.Path("prefix", value.rstrip("/") or "/")


def path_text(value: str, at: str) -> str:
    """Return a path that is one, as the specification has it; Refused otherwise."""
    if len(value) > 1024 or not _PATH.fullmatch(value) or _PATH_TRICKS.search(value):
        raise Refused(UNSUPPORTED, f"{at}: {value[:80]!r} is not a path")
    return value


def _values(specs: Iterable[Mapping[str, Any]], at: str, fold: Callable[[str], str]) -> tuple[routing.Value, ...]:
    """Decode header or query matches; of equal names the first counts (HTTPRouteMatch)."""
    found: dict[str, routing.Value] = {}
    for number, spec in enumerate(specs):
        name = _token(spec["name"], f"{at}[{number}].name")
        kind, where = spec.get("type") or "Exact", f"{at}[{number}].value"
        if kind != "Exact":
            raise Refused(UNSUPPORTED, f"{at}[{number}].type: {kind!r} is not supported")
        found.setdefault(fold(name), routing.Value(fold(name), header_value(spec["value"], where)))
    return tuple(found.values())


def _token(name: str, at: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise Refused(UNSUPPORTED, f"{at}: {name[:80]!r} is not a token (RFC 9110, 5.6.2)")
    return name


def header_value(value: str, at: str) -> str:
    """Return a header's value that holds no control character and does not begin or end with space; else Refused."""
    if len(value) > 4096 or not _VALUE.fullmatch(value):
        raise Refused(UNSUPPORTED, f"{at}: {value[:80]!r} cannot be a header's value (RFC 9110, 5.5)")
    return value


def hostname(value: str, at: str) -> str:
    """Return a host name without a wildcard; Refused otherwise."""
    if len(value) > 253 or not _HOSTNAME.fullmatch(value):
        raise Refused(UNSUPPORTED, f"{at}: {value[:80]!r} is not a host name")
    return value


def is_hostname(value: str) -> bool:
    """Tell whether it is a host name, perhaps with `*` as first label."""
    return len(value) <= 253 and bool(_HOSTNAME.fullmatch(value.removeprefix("*.")))


def _backend_filters(spec: Mapping[str, Any], at: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return the filters of backends: with one backend they are the rule's, with more there is no way to do them."""
    targets: Sequence[Mapping[str, Any]] = spec.get("backendRefs") or ()
    for number, each in enumerate(targets):
        if each.get("filters") and len(targets) > 1:
            raise Refused(UNSUPPORTED, f"{at}.backendRefs[{number}].filters: not supported beside other backends")
    own = (targets[0].get("filters") or ()) if len(targets) == 1 else ()
    return [(each, f"{at}.backendRefs[0].filters[{number}]") for number, each in enumerate(own)]


def _filters(filters: Iterable[tuple[Mapping[str, Any], str]], namespace: str) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for spec, at in filters:
        kind = spec.get("type") or ""
        if kind not in _FILTERS:
            raise Refused(UNSUPPORTED, f"{at}.type: {kind!r} is not supported")
        field, decode = _FILTERS[kind]
        if spec.get(field) is None:
            raise Refused(UNSUPPORTED, f"{at}.{field}: must be there when type is {kind}")
        for name, part in decode(spec[field], f"{at}.{field}", namespace).items():
            if name == "mirrors":
                parts["mirrors"] = (*parts.get("mirrors", ()), *part)
            elif name in parts:
                raise Refused(INCOMPATIBLE, f"{at}.type: {kind} may stand only once")
            else:
                parts[name] = part
    return parts


def _joined(first: Mapping[str, Any], then: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Return what a rule's filters do and its backend's after them."""
    parts = {**first, **then}
    for name in first.keys() & then.keys():
        if name in ("request_headers", "response_headers"):
            parts[name] = _one_after_the_other(first[name], then[name])
        elif name == "mirrors":
            parts[name] = (*first[name], *then[name])
        elif name == "redirect" or (name == "rewrite_path" and then[name].kind == "prefix"):
            raise Refused(INCOMPATIBLE, f"{at}.backendRefs[0].filters: the rule has changed already what is matched")
    return parts


def _one_after_the_other(first: routing.Headers, then: routing.Headers) -> routing.Headers:
    """Return one change of headers for two: what the second sets or removes is no more what the first made of it."""
    over = {name.lower() for name in (*then.remove, *(name for name, _ in then.set))}
    return routing.Headers(
        set=(*(each for each in first.set if each[0].lower() not in over), *then.set),
        add=(*(each for each in first.add if each[0].lower() not in over), *then.add),
        remove=(*(each for each in first.remove if each.lower() not in over), *then.remove),
    )


def _headers(spec: Mapping[str, Any], at: str) -> routing.Headers:
    seen: set[str] = set()

    def name(text: str, where: str) -> str:
        folded = _token(text, where).lower()
        if folded in _NOT_OURS:
            raise Refused(UNSUPPORTED, f"{where}: {text} is not for filters to change")
        if folded in seen:
            raise Refused(UNSUPPORTED, f"{where}: {text} is named twice")
        seen.add(folded)
        return text

    def pairs(verb: str) -> tuple[tuple[str, str], ...]:
        return tuple(
            (
                name(each["name"], f"{at}.{verb}[{number}].name"),
                header_value(each["value"], f"{at}.{verb}[{number}].value"),
            )
            for number, each in enumerate(spec.get(verb) or ())
        )

    removed = tuple(name(each, f"{at}.remove[{number}]") for number, each in enumerate(spec.get("remove") or ()))
    return routing.Headers(set=pairs("set"), add=pairs("add"), remove=removed)


def _mirror(spec: Mapping[str, Any], at: str, namespace: str) -> dict[str, Any]:
    share, percent = spec.get("fraction"), spec.get("percent")
    if share is not None and percent is not None:
        raise Refused(UNSUPPORTED, f"{at}: only one of percent and fraction may be given")
    if share is not None:
        percent = 100.0 * share["numerator"] / (share.get("denominator") or 100)
    reference = _reference(spec["backendRef"], namespace, f"{at}.backendRef")
    return {"mirrors": ((reference, 100.0 if percent is None else min(float(percent), 100.0)),)}


def _redirect(spec: Mapping[str, Any], at: str, _: str) -> dict[str, Any]:
    scheme, status = spec.get("scheme") or "", spec.get("statusCode") or 302
    if scheme not in ("", "http", "https"):
        raise Refused(UNSUPPORTED, f"{at}.scheme: {scheme!r} is neither http nor https")
    if status not in _STATUSES:
        raise Refused(UNSUPPORTED, f"{at}.statusCode: {status} is none of {', '.join(map(str, _STATUSES))}")
    host = hostname(spec["hostname"], f"{at}.hostname") if spec.get("hostname") else ""
    change = _path_change(spec["path"], f"{at}.path") if spec.get("path") else None
    return {"redirect": routing.Redirect(scheme, host, spec.get("port") or 0, change, status)}


def _rewrite(spec: Mapping[str, Any], at: str, _: str) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if spec.get("hostname"):
        parts["rewrite_host"] = hostname(spec["hostname"], f"{at}.hostname")
    if spec.get("path"):
        parts["rewrite_path"] = _path_change(spec["path"], f"{at}.path")
    return parts


def _path_change(spec: Mapping[str, Any], at: str) -> routing.PathChange:
    if spec.get("type") == "ReplaceFullPath" and spec.get("replaceFullPath") is not None:
        return routing.PathChange("full", path_text(spec["replaceFullPath"] or "/", f"{at}.replaceFullPath"))
    if spec.get("type") == "ReplacePrefixMatch" and spec.get("replacePrefixMatch") is not None:
        return routing.PathChange("prefix", path_text(spec["replacePrefixMatch"] or "/", f"{at}.replacePrefixMatch"))
    raise Refused(UNSUPPORTED, f"{at}.type: {spec.get('type')!r} is not supported, or its field is missing")


def _timeout(spec: Mapping[str, Any], at: str) -> int:
    """Return the shorter of the timeouts in milliseconds, 0 for the engine's own (GEP-2257, GEP-1742).

    One of zero is no limit; so it is a day, which is also the longest.
    """
    given = spec.get("timeouts") or {}
    found = [
        _duration(given[name], f"{at}.timeouts.{name}") for name in ("request", "backendRequest") if given.get(name)
    ]
    return min((min(each or _DAY, _DAY) for each in found), default=0)


def _duration(text: str, at: str) -> int:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Refused(UNSUPPORTED, f"{at}: {text[:40]!r} is not a duration such as 10s or 1m30s")
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in parts)


def _reference(spec: Mapping[str, Any], namespace: str, at: str) -> Reference:
    return Reference(
        spec.get("group") or "",
        spec.get("kind") or "Service",
        spec.get("namespace") or namespace,
        spec["name"],
        spec.get("port") or 0,
        at,
    )


_Decode = Callable[[Mapping[str, Any], str, str], dict[str, Any]]
_FILTERS: Mapping[str, tuple[str, _Decode]] = {
    "RequestHeaderModifier": ("requestHeaderModifier", lambda spec, at, _: {"request_headers": _headers(spec, at)}),
    "ResponseHeaderModifier": ("responseHeaderModifier", lambda spec, at, _: {"response_headers": _headers(spec, at)}),
    "RequestMirror": ("requestMirror", _mirror),
    "RequestRedirect": ("requestRedirect", _redirect),
    "URLRewrite": ("urlRewrite", _rewrite),
}
