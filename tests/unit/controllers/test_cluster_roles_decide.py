"""What ClusterRoles grant that are put together of others."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.controllers import clusterroles, writes
from netplane.controlplane.controllers.clusterroles import CLUSTERROLES
from netplane.controlplane.controllers.view import Change, View
from netplane.kube.types import Object
from tests.support.simulated_cluster import BEGIN

READS, WRITES = ({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]} for verb in ("get", "create"))
KEY = ("", "whole")


def _role(name: str, **more: Any) -> Object:
    labels = {"into": "whole"} if name != "other" else {}
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels}, **more}


def _whole(*selectors: Object, rules: Any = None) -> Object:
    made = _role("whole", aggregationRule={"clusterRoleSelectors": list(selectors)})
    return made if rules is None else {**made, "rules": rules}


def _decided(whole: Object) -> list[Any]:
    parts = _role("b", rules=[WRITES, READS]), _role("a", rules=[READS]), _role("other", rules=[{"verbs": ["*"]}])
    roles = [(CLUSTERROLES, role) for role in (whole, *parts)]
    found = clusterroles.decide(View(roles, now=BEGIN), KEY, BEGIN)
    assert all(isinstance(write, writes.Update) for write in found)
    return [write.obj["rules"] for write in found if isinstance(write, writes.Update)]


def test_a_role_gets_the_rules_of_its_parts_in_order_and_once() -> None:
    chosen = {"matchLabels": {"into": "whole"}}
    assert _decided(_whole(chosen)) == [[READS, WRITES]]
    assert _decided(_whole(chosen, rules=[READS, WRITES])) == []


def test_a_selector_that_cannot_be_read_chooses_nothing() -> None:
    near = {"matchExpressions": [{"key": "into", "operator": "Near"}]}
    assert _decided(_whole(near)) == []
    assert _decided(_whole(near, rules=[WRITES])) == [[]]


def test_any_role_that_changes_is_perhaps_a_part() -> None:
    view = View([(CLUSTERROLES, _whole()), (CLUSTERROLES, _role("a"))], now=BEGIN)
    change = Change(CLUSTERROLES, ("", "a"), None, _role("a"))
    assert clusterroles.aggregated(view, change) == [KEY]
