"""Evaluate the matchConditions of webhooks and policies. The expressions are registry's cel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netplane.controlplane.api import hooks
from netplane.controlplane.registry import types


def hold(conditions: Sequence[Mapping[str, Any]], call: hooks.Call, of: types.ResourceType) -> bool:
    """Whether all conditions hold for a write; raise BadAnswer when one cannot be evaluated."""
    raise hooks.BadAnswer("matchConditions are not evaluated by this server")
