"""Keep the RBAC policy in step with the stored roles and bindings. The decisions themselves are rbac's and node's."""

from __future__ import annotations

import orjson

from netplane.controlplane.api import access, graph, node, rbac
from netplane.controlplane.store import protocol
from netplane.kube.types import Object

_GROUP = "rbac.authorization.k8s.io"
CLUSTER_ROLES = f"clusterroles.{_GROUP}"
ROLES = f"roles.{_GROUP}"
CLUSTER_BINDINGS = f"clusterrolebindings.{_GROUP}"
BINDINGS = f"rolebindings.{_GROUP}"
_ALL = (CLUSTER_ROLES, ROLES, CLUSTER_BINDINGS, BINDINGS)
_MOST_VERDICTS = 4096


class Authorizer:
    """Answers for every request whether the user may; compiles the policy anew only when a role or binding changed."""

    def __init__(self, store: protocol.Store) -> None:
        self._store = store
        self._graph = graph.Graph(store)
        self._compiled: rbac.Policy | None = None
        self._compiled_at: tuple[int, ...] = ()
        self._verdicts: dict[tuple[str, tuple[str, ...], rbac.Attributes], str | None] = {}

    def policy(self) -> rbac.Policy:
        """Return the policy of the committed roles and bindings."""
        at = tuple(self._store.cache(name).window.end for name in _ALL)
        if self._compiled is None or at != self._compiled_at:
            self._compiled = rbac.Policy(
                cluster_roles=self._objects(CLUSTER_ROLES),
                roles=self._objects(ROLES),
                cluster_bindings=self._objects(CLUSTER_BINDINGS),
                bindings=self._objects(BINDINGS),
            )
            self._compiled_at = at
            self._verdicts.clear()
        return self._compiled

    def why_allowed(self, user: access.User, asked: rbac.Attributes) -> str | None:
        """Return why the user may do this, None when nothing allows it."""
        if access.MASTERS in user.groups:
            return "system:masters may do everything"
        if user.node and (why := node.why_allowed(user.node, asked, self._graph)) is not None:
            return why
        policy = self.policy()
        if asked.name or asked.path:
            return policy.why_allowed(user, asked)
        # Of what has no name there is little that is asked for: a client's creations, lists and watches are all alike.
        key = (user.name, user.groups, asked)
        try:
            return self._verdicts[key]
        except KeyError:
            pass
        if len(self._verdicts) >= _MOST_VERDICTS:
            self._verdicts.clear()
        why = self._verdicts[key] = policy.why_allowed(user, asked)
        return why

    def rules_in(self, user: access.User, namespace: str) -> list[rbac.Rule]:
        """Return the rules that hold for a user in a namespace; a node's are narrowed by what its pods refer to."""
        own = node.rules() if user.node else []
        return own + self.policy().rules_in(user, namespace)

    def _objects(self, storage: str) -> list[Object]:
        return [orjson.loads(record.value) for record in self._store.cache(storage).range()]
