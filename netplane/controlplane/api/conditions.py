"""Evaluate what webhooks and policies ask of a write in CEL. How expressions are evaluated is registry's cel."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from netplane.controlplane.api import access, hooks
from netplane.controlplane.registry import types
from netplane.controlplane.registry.cel import engine
from netplane.kube.types import Object

VARIABLES = ("object", "oldObject", "request")


@functools.lru_cache(maxsize=512)
def program(expression: str, variables: tuple[str, ...] = VARIABLES) -> engine.Program:
    """Return a compiled expression; raise CompileError."""
    return engine.Program(expression, variables)


def variables_of(call: hooks.Call, of: types.ResourceType) -> Object:
    """Return what expressions see of a write."""
    request = hooks.attributes(call, of, access.info(call.user))
    return {"object": call.obj, "oldObject": call.old, "request": request}


def size_of(variables: Mapping[str, Any]) -> engine.Size:
    """Measure all that expressions may go over."""
    return engine.size(list(variables.values()))


def hold(conditions: Sequence[Mapping[str, Any]], call: hooks.Call, of: types.ResourceType) -> bool:
    """Whether all matchConditions hold for a write: one that is false decides, whatever else cannot be evaluated.

    Raises BadAnswer when none is false and one cannot be evaluated.
    """
    return all_hold(conditions, variables_of(call, of), engine.Budget(), VARIABLES)


def all_hold(
    conditions: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    budget: engine.Budget,
    declared: tuple[str, ...],
) -> bool:
    """The same for variables that are known already."""
    size, problem = size_of(variables), ""
    for condition in conditions:
        try:
            if program(condition["expression"], declared).evaluate(variables, budget, size) is not True:
                return False
        except (engine.CompileError, engine.EvaluationError) as error:
            problem = problem or f"{condition.get('name', '')}: {error}"
    if problem:
        raise hooks.BadAnswer(problem)
    return True
