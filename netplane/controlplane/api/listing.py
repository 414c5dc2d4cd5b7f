"""Decide what a LIST answers: selectors, pages, revisions. Pure; the bytes are render's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from netplane.controlplane.api import options, status
from netplane.controlplane.registry import faults, types
from netplane.controlplane.store import cache, history
from netplane.kube import select
from netplane.kube.types import Key

_MATCHES = ("Exact", "NotOlderThan", "")
Matches = Callable[[history.Record], bool]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which objects of a type a list or watch is about. `matches` is None when all of the namespace are."""

    namespace: str
    matches: Matches | None = None
    name: str = ""

    def includes(self, record: history.Record) -> bool:
        """Whether the record is one of them."""
        if self.namespace and record.key[0] != self.namespace:
            return False
        if self.name and record.key[1] != self.name:
            return False
        return self.matches is None or self.matches(record)


def choice(of: types.ResourceType, asked: options.Query, *, namespace: str) -> Choice:
    """Return what the selectors of a request choose; raise 400 when one cannot be read or is not supported."""
    try:
        labels = select.parse(options.text(asked, "labelSelector"))
        fields = select.parse_fields(options.text(asked, "fieldSelector"))
    except select.SelectorError as error:
        raise status.bad_request(f"unable to parse requirement: {error}") from error
    name, kept = "", []
    for field in fields.requirements:
        if field.path == "metadata.namespace" and not field.is_negated and not namespace:
            namespace = field.value
        elif field.path == "metadata.name" and not field.is_negated and not name:
            name = field.value
        else:
            kept.append(field)
    for field in kept:
        if field.path not in of.field_labels and field.path not in ("metadata.name", "metadata.namespace"):
            raise status.bad_request(f'field label not supported: "{field.path}"')
    return Choice(namespace, _predicate(of, labels, tuple(kept)), name)


def _predicate(
    of: types.ResourceType, labels: select.Selector, fields: tuple[select.FieldRequirement, ...]
) -> Matches | None:
    if not labels.requirements and not fields:
        return None

    def matches(record: history.Record) -> bool:
        if labels.requirements and not labels.matches(record.index.labels):
            return False
        return all((_field(of, record, f.path) == f.value) != f.is_negated for f in fields)

    return matches


def _field(of: types.ResourceType, record: history.Record, path: str) -> str:
    if path == "metadata.name":
        return record.key[1]
    if path == "metadata.namespace":
        return record.key[0]
    if of.crd is not None:
        # The index is made by types that are there when the store opens; a definition's fields are read when asked for.
        return of.field_labels[path](orjson.loads(record.value))
    fields: Mapping[str, str] = record.index.fields
    return fields.get(path, "")


@dataclass(frozen=True, slots=True)
class Asked:
    """The revision and the page a list asks for. `exact` is the snapshot's revision, None for the newest."""

    exact: int | None
    at_least: int
    limit: int
    after: Key | None


def asked(query: options.Query) -> Asked:
    """Read limit, continue, resourceVersion and its match; raise 400 and 422 for what the API does not allow."""
    limit = max(options.number(query, "limit") or 0, 0)  # below zero there is no limit, as in Kubernetes
    token, match = options.text(query, "continue"), options.text(query, "resourceVersionMatch")
    revision = options.revision(query)
    if found := list(_faults(query, token, match, revision)):
        raise status.invalid_options("ListOptions", *found)
    if token:
        if revision:
            raise status.bad_request("specifying resource version is not allowed when using continue")
        return _continued(token, limit)
    # With a limit and no match rule a revision means exactly that one: the API's first meaning of it, kept.
    is_exact = match == "Exact" or (limit > 0 and bool(revision) and not match)
    return Asked(revision if is_exact else None, revision or 0, limit, None)


def _faults(query: options.Query, token: str, match: str, revision: int | None) -> Iterator[faults.Fault]:
    """Yield what makes no sense (ValidateListOptions of k8s.io/apimachinery)."""
    field = "resourceVersionMatch"
    if match and revision is None:
        yield faults.forbidden(field, "resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match and token:
        yield faults.forbidden(field, "resourceVersionMatch is forbidden when continue is provided")
    if match not in _MATCHES:
        yield faults.not_supported(field, match, _MATCHES)
    if match == "Exact" and revision == 0:
        yield faults.forbidden(field, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    if "sendInitialEvents" in query:
        yield faults.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")


def _continued(token: str, limit: int) -> Asked:
    try:
        page = history.decode_continue(token)
    except history.InvalidToken as error:
        raise status.bad_request(str(error)) from error
    return Asked(page.revision or None, page.revision, limit, page.after)


@dataclass(frozen=True, slots=True)
class Page:
    """The records of one answer, the token for the next page and how many records remain (0 when unknown)."""

    records: list[history.Record]
    revision: int
    token: str = ""
    remaining: int = 0


def candidates(of: cache.Cache, chosen: Choice, wanted: Asked) -> tuple[list[history.Record], int]:
    """Return the committed objects among which selectors choose, and how many are left beyond a page without any.

    Raises 410 when the snapshot has left the window.
    """
    limit = wanted.limit if _is_countable(chosen) else 0
    try:
        records, left = of.first(limit, revision=wanted.exact, namespace=chosen.namespace, after=wanted.after)
    except history.Expired as error:
        raise _gone(wanted, error) from error
    return [record for record in records if record.key[1] == chosen.name] if chosen.name else records, left


def page(records: Sequence[history.Record], left: int, chosen: Choice, wanted: Asked, *, current: int) -> Page:
    """Return a page of the candidates, as they read in the version whose labels and fields are looked at."""
    revision = wanted.exact or current
    found = [record for record in records if chosen.matches is None or chosen.matches(record)]
    is_last = len(found) <= wanted.limit and not left
    if not wanted.limit or is_last:
        return Page(found, revision)
    kept = found[: wanted.limit]
    return Page(kept, revision, history.Continue(revision, kept[-1].key).encode(), left)


def _is_countable(chosen: Choice) -> bool:
    return chosen.matches is None and not chosen.name


def _gone(wanted: Asked, error: history.Expired) -> status.ApiStatus:
    if wanted.after is None:
        return status.expired(str(error))
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list"
        " without the continue parameter, or use the continue token in this response to retrieve the remainder of"
        " the results. Continuing with the provided token results in an inconsistent list - objects that were"
        " created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    return status.expired(message, next_token=history.Continue(0, wanted.after).encode())
