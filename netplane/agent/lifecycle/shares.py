"""Keep in the pod's folder what its containers were allotted and what was applied to each that runs.

A new agent must neither take a wish for a fact nor apply it twice. What is chosen is pods/resize's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netplane.agent.pods import resize
from netplane.agent.pods.observed import Share
from netplane.agent.pods.spec import Pod

FILE = "shares.json"


class Shares:
    """One pod's shares: `given` by container name, `applied` by container id."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.given: dict[str, Share] = {}
        self.applied: dict[str, Share] = {}
        try:
            kept = json.loads(self._path.read_text())
            self.given = {name: _read(each) for name, each in kept["given"].items()}
            self.applied = {id_: _read(each) for id_, each in kept["applied"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            return  # Nothing was kept: what runs has what its pod says.

    def give(self, pod: Pod) -> None:
        """Note what a pod is allotted."""
        now = resize.shares(pod)
        if now != self.given:
            is_first = not self.given
            self.given = now
            if not is_first:
                self._keep()

    def apply(self, container_id: str, share: Share) -> None:
        """Note what holds for a container that runs."""
        self.applied[container_id] = share
        self._keep()

    def forget(self, known: frozenset[str]) -> None:
        """Drop what is noted of containers that are no more; `known` are those that are."""
        for gone in [id_ for id_ in self.applied if id_ not in known]:
            del self.applied[gone]

    def _keep(self) -> None:
        text = json.dumps({"given": _written(self.given), "applied": _written(self.applied)}, sort_keys=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        draft.write_text(text)
        os.replace(draft, self._path)


def _written(shares: Mapping[str, Share]) -> dict[str, Any]:
    return {key: {"requests": dict(each.requests), "limits": dict(each.limits)} for key, each in shares.items()}


def _read(entry: Mapping[str, Any]) -> Share:
    return Share(tuple(sorted(entry["requests"].items())), tuple(sorted(entry["limits"].items())))
