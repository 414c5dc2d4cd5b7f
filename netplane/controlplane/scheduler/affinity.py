"""Match Nodes against what a Pod says of them: nodeSelector and nodeAffinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netplane.kube.select import Requirement
from netplane.kube.types import Object

NAME = "metadata.name"


@dataclass(frozen=True, slots=True)
class Term:
    """Requirements on labels and on the name that must all hold; a term without any matches no Node."""

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str], name: str) -> bool:
        """Say whether a Node of these labels and this name meets the term."""
        if not self.labels and not self.fields:
            return False
        return all(found.matches(labels) for found in self.labels) and all(
            found.matches({NAME: name}) for found in self.fields
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """A preferred term and how much it weighs."""

    term: Term
    weight: int


@dataclass(frozen=True, slots=True)
class NodeDemand:
    """Which Nodes a Pod may run on (all of `labels`, any of `terms` if there are), and which it prefers."""

    labels: tuple[tuple[str, str], ...] = ()
    terms: tuple[Term, ...] | None = None
    wishes: tuple[Wish, ...] = ()

    def accepts(self, labels: Mapping[str, str], name: str) -> bool:
        """Say whether a Node of these labels and this name will do."""
        if any(labels.get(key) != value for key, value in self.labels):
            return False
        return self.terms is None or any(term.matches(labels, name) for term in self.terms)

    def liking(self, labels: Mapping[str, str], name: str) -> int:
        """Return the sum of the weights of the wishes a Node meets."""
        return sum(wish.weight for wish in self.wishes if wish.term.matches(labels, name))

    @property
    def only_node(self) -> str | None:
        """The one Node that could do, when the terms name it by its name (as DaemonSets' Pods do)."""
        if self.terms is None or len(self.terms) != 1:
            return None
        for found in self.terms[0].fields:
            if found.operator == "In" and len(found.values) == 1:
                return found.values[0]
        return None


ANYWHERE = NodeDemand()


def demand(spec: Object) -> NodeDemand:
    """Return what a pod spec demands of its Node."""
    found = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = found.get("requiredDuringSchedulingIgnoredDuringExecution")
    wishes = found.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return NodeDemand(
        tuple(sorted((spec.get("nodeSelector") or {}).items())),
        None if required is None else tuple(_term(term) for term in required.get("nodeSelectorTerms") or ()),
        tuple(Wish(_term(wish.get("preference") or {}), int(wish["weight"])) for wish in wishes),
    )


def _term(term: Mapping[str, Any]) -> Term:
    return Term(
        tuple(_requirement(found) for found in term.get("matchExpressions") or ()),
        tuple(_requirement(found) for found in term.get("matchFields") or ()),
    )


def _requirement(found: Mapping[str, Any]) -> Requirement:
    return Requirement(found["key"], found["operator"], tuple(found.get("values") or ()))
