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


class Authorizer:
    """Answers for every request whether the user may; compiles the policy anew only when a role or binding changed."""

    def __init__(self, store: protocol.Store) -> None:
        self._store = store
        self._graph = graph.Graph(store)
        self._compiled: rbac.Policy | None = None
        self._compiled_at: tuple[int, ...] = ()

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
        return self._compiled

    def why_allowed(self, user: access.User, asked: rbac.Attributes) -> str | None:
        """Return why the user may do this, None when nothing allows it."""
        if access.MASTERS in user.groups:
            return "system:masters may do everything"
        if user.node and (why := node.why_allowed(user.node, asked, self._graph)) is not None:
            return why
        return self.policy().why_allowed(user, asked)

    def rules_in(self, user: access.User, namespace: str) -> list[rbac.Rule]:
        """Return the rules that hold for a user in a namespace; a node's are narrowed by what its pods refer to."""
        own = node.rules() if user.node else []
        return own + self.policy().rules_in(user, namespace)

    def _objects(self, storage: str) -> list[Object]:
        return [orjson.loads(record.value) for record in self._store.cache(storage).range()]
