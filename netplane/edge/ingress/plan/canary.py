"""Split a route between what there is and its canary: by header, else by cookie, else by weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from netplane.edge.ingress.plan.options import Options
from netplane.model.routing import Backend, Match, Route, Value


def split(main: Route, trial: Route, options: Options) -> tuple[Route, list[Route]]:
    """Return the main route with its share, and the routes that headers and cookies decide.

    Everything but the backends is the main route's: a canary is the same place with other pods behind it. One that is
    closed, for what guards it cannot be read, stays closed.
    """
    if main.respond:
        return main, []
    chosen = replace(main, owner=trial.owner, backends=trial.backends)
    weight, total = options.get("canary-weight", 0), options.get("canary-weight-total", 100)
    weight = min(weight, total)
    shared = main
    if weight:
        rest = [replace(one, weight=total - weight) for one in main.backends[:1]]
        shared = replace(main, backends=(*rest, *(replace(one, weight=weight) for one in trial.backends)))
    return shared, [*_by_header(main, chosen, options), *_by_cookie(main, chosen, options)]


def _by_header(main: Route, chosen: Route, options: Options) -> Iterator[Route]:
    name = options.get("canary-by-header")
    if not name:
        return
    value = options.get("canary-by-header-value")
    yield replace(chosen, match=_match(main, headers=(Value(name, value or "always"),)))
    if not value:
        yield replace(main, match=_match(main, headers=(Value(name, "never"),)))


def _by_cookie(main: Route, chosen: Route, options: Options) -> Iterator[Route]:
    name = options.get("canary-by-cookie")
    if name:
        yield replace(chosen, match=_match(main, cookies=(Value(name, "always"),)))
        yield replace(main, match=_match(main, cookies=(Value(name, "never"),)))


def _match(main: Route, *, headers: tuple[Value, ...] = (), cookies: tuple[Value, ...] = ()) -> Match:
    return replace(main.match, headers=headers, cookies=cookies)


__all__ = ["Backend", "split"]
