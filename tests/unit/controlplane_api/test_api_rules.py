"""The pure parts of the API: paths, options, formats, access, deletion, listing."""

from __future__ import annotations

import ipaddress
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from netplane.controlplane.api import (
    access,
    cluster,
    deletion,
    listing,
    negotiate,
    options,
    route,
    status,
    streaming,
)
from netplane.controlplane.registry import builtin
from netplane.controlplane.store import cache, history
from netplane.kube.types import Object
from netplane.lib import clock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PODS = builtin().find("", "v1", "pods")
assert PODS is not None
PODS_TYPE = PODS


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/pods", route.Target("", "v1", "pods")),
        ("/api/v1/namespaces", route.Target("", "v1", "namespaces")),
        ("/api/v1/namespaces/x", route.Target("", "v1", "namespaces", name="x")),
        ("/api/v1/namespaces/x/finalize", route.Target("", "v1", "namespaces", name="x", subresource="finalize")),
        ("/api/v1/namespaces/x/pods/p/log", route.Target("", "v1", "pods", "x", "p", "log")),
        ("/apis/apps/v1/namespaces/x/deployments/", route.Target("apps", "v1", "deployments", "x")),
        ("/api/v1/nodes/n/proxy/stats/summary", route.Target("", "v1", "nodes", "", "n", "proxy", "/stats/summary")),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
         route.Target("rbac.authorization.k8s.io", "v1", "clusterroles", name="system:node")),
        ("/api/v1", None),
        ("/apis/apps/v1", None),
        ("/healthz", None),
        ("/api/v1/pods/p/log/more", None),
    ],
)  # fmt: skip
def test_a_path_names_its_target(path: str, target: route.Target | None) -> None:
    assert route.parse(path) == target


@pytest.mark.parametrize(
    ("accept", "shape"),
    [
        ("", "object"),
        ("*/*", "object"),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "table"),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json", "metadata"),
        ("application/json;as=Table;v=v2;g=meta.k8s.io,application/json", "object"),
        ("application/vnd.kubernetes.protobuf,application/json", "object"),
        ("application/vnd.kubernetes.protobuf", "object"),
    ],
)
def test_the_first_format_that_is_known_is_taken(accept: str, shape: str) -> None:
    assert negotiate.parse(accept).shape == shape


def test_an_unknown_format_is_not_acceptable() -> None:
    with pytest.raises(status.ApiStatus) as refused:
        negotiate.parse("text/html")
    assert refused.value.code == 406


@pytest.mark.parametrize(
    ("query", "code"),
    [(b"dryRun=Some", 422), (b"fieldValidation=Maybe", 422), (b"limit=x", 400), (b"resourceVersion=-1", 400)],
)
def test_a_bad_option_is_refused_with_its_name(query: bytes, code: int) -> None:
    asked = options.query(query)

    def read() -> None:
        options.writing(asked, default_manager="m", method="POST")
        listing.asked(asked)

    with pytest.raises(status.ApiStatus) as refused:
        read()
    assert refused.value.code == code
    assert query.partition(b"=")[0].decode() in refused.value.message


def _pod(**metadata: Any) -> Object:
    spec = {"nodeName": "n", "terminationGracePeriodSeconds": 30}
    return {"metadata": {"name": "p", **metadata}, "spec": spec, "status": {"phase": "Running"}}


def test_a_running_pod_gets_its_grace_period_first() -> None:
    decision = deletion.decide("Pod", _pod(), options.Deleting(), now=NOW)
    assert not decision.is_removal
    assert decision.obj["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    assert decision.obj["metadata"]["deletionGracePeriodSeconds"] == 30


def test_the_agent_ends_a_pod_with_a_grace_of_zero() -> None:
    marked = _pod(deletionTimestamp="2026-01-01T00:00:30Z", deletionGracePeriodSeconds=30)
    assert deletion.decide("Pod", marked, options.Deleting(grace_seconds=0), now=NOW).is_removal


def test_a_second_deletion_only_shortens_the_grace_period() -> None:
    marked = _pod(deletionTimestamp="2026-01-01T00:00:30Z", deletionGracePeriodSeconds=30)
    longer = deletion.decide("Pod", marked, options.Deleting(grace_seconds=60), now=NOW)
    assert not longer.is_change
    shorter = deletion.decide("Pod", marked, options.Deleting(grace_seconds=5), now=NOW + timedelta(seconds=2))
    assert shorter.obj["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:05Z"


@pytest.mark.parametrize("change", [{"nodeName": ""}, {"phase": "Succeeded"}])
def test_a_pod_that_does_not_run_goes_at_once(change: Object) -> None:
    pod = _pod()
    pod["spec"]["nodeName"] = change.get("nodeName", "n")
    pod["status"]["phase"] = change.get("phase", "Running")
    assert deletion.decide("Pod", pod, options.Deleting(), now=NOW).is_removal


@pytest.mark.parametrize(("propagation", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
def test_propagation_waits_for_the_garbage_collector(propagation: str, finalizer: str) -> None:
    obj = {"metadata": {"name": "d"}}
    decision = deletion.decide("Deployment", obj, options.Deleting(propagation=propagation), now=NOW)
    assert not decision.is_removal
    assert decision.obj["metadata"]["finalizers"] == [finalizer]


def test_a_finalizer_keeps_the_object_until_it_is_gone() -> None:
    obj: Object = {"metadata": {"name": "c", "finalizers": ["a/b"]}}
    decision = deletion.decide("ConfigMap", obj, options.Deleting(), now=NOW)
    assert not decision.is_removal
    del obj["metadata"]["finalizers"]
    assert deletion.is_over("ConfigMap", obj)


def test_a_namespace_waits_for_its_content() -> None:
    obj: Object = {"metadata": {"name": "x"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    decision = deletion.decide("Namespace", obj, options.Deleting(), now=NOW)
    assert (decision.is_removal, decision.obj["status"]["phase"]) == (False, "Terminating")


KEYS = access.Keys(ec.generate_private_key(ec.SECP256R1()), "k")


def _alive(*_: str) -> bool:
    return True


def test_a_token_says_who_bears_it_until_it_expires() -> None:
    token = KEYS.user_token("jane", ["devs"], now=NOW, lifetime=timedelta(hours=1))
    user = KEYS.authenticate(token, now=NOW, is_alive=_alive)
    assert (user.name, user.groups) == ("jane", ("devs", "system:authenticated"))
    with pytest.raises(access.BadToken, match="expired"):
        KEYS.authenticate(token, now=NOW + timedelta(hours=1), is_alive=_alive)


def test_a_token_of_another_key_or_for_another_audience_is_refused() -> None:
    other = access.Keys(ec.generate_private_key(ec.SECP256R1()), "o")
    for token in (other.user_token("a", [], now=NOW, lifetime=timedelta(hours=1)), KEYS.agent_token(now=NOW), "x.y.z"):
        with pytest.raises(access.BadToken):
            KEYS.authenticate(token, now=NOW, is_alive=_alive)


def test_a_service_account_token_dies_with_what_it_is_bound_to() -> None:
    account = {"metadata": {"namespace": "x", "name": "robot", "uid": "u"}}
    claims = access.service_account_claims(
        account, audiences=(), now=NOW, seconds=600, bound={"pod": {"name": "p", "uid": "v"}}, token_id="t"
    )
    token = KEYS.sign(claims)
    user = KEYS.authenticate(token, now=NOW, is_alive=_alive)
    assert user.name == "system:serviceaccount:x:robot"
    assert "system:serviceaccounts:x" in user.groups
    with pytest.raises(access.BadToken, match="Pod x/p is gone"):
        KEYS.authenticate(token, now=NOW, is_alive=lambda kind, *_: kind != "Pod")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (b"tailLines=-1", 422),
        (b"limitBytes=0", 422),
        (b"sinceSeconds=0", 422),
        (b"sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
        (b"stream=Foo", 422),
        (b"tailLines=many", 400),
        (b"sinceTime=noon", 400),
    ],
)
def test_no_node_is_asked_for_a_log_that_makes_no_sense(query: bytes, code: int) -> None:
    with pytest.raises(status.ApiStatus) as refused:
        streaming.check_log(options.query(query))
    assert refused.value.code == code


@pytest.mark.parametrize("query", [b"tailLines=0&limitBytes=1&sinceSeconds=1", b"sinceTime=2026-01-01T00:00:00Z"])
def test_a_node_is_asked_for_a_log_that_makes_sense(query: bytes) -> None:
    streaming.check_log(options.query(query))


def _cache(count: int) -> cache.Cache:
    kept = cache.Cache(floor=0)
    for number in range(1, count + 1):
        labels = {"parity": "even" if number % 2 == 0 else "odd"}
        one = history.Record(
            ("x", f"p{number:02}"), number, b"{}", history.Index(labels, {"spec.nodeName": f"n{number % 3}"})
        )
        kept.apply(revision=number, record=one, last=one)
    return kept


def _page(kept: cache.Cache, chosen: listing.Choice, asked: listing.Asked, *, current: int) -> listing.Page:
    records, left = listing.candidates(kept, chosen, asked)
    return listing.page(records, left, chosen, asked, current=current)


def _names(page: listing.Page) -> list[str]:
    return [record.key[1] for record in page.records]


def test_pages_show_one_snapshot_although_objects_change_between_them() -> None:
    kept, chosen = _cache(5), listing.Choice("")
    first = _page(kept, chosen, listing.Asked(None, 0, 2, None), current=5)
    late = history.Record(("x", "p03-late"), 6, b"{}", history.Index({}, {}))
    kept.apply(revision=6, record=late, last=late)
    asked = listing.asked({"limit": ("10",), "continue": (first.token,)})
    second = _page(kept, chosen, asked, current=6)
    assert (_names(first), first.remaining) == (["p01", "p02"], 3)
    assert (_names(second), second.revision) == (["p03", "p04", "p05"], 5)


def test_a_page_whose_snapshot_is_gone_offers_to_go_on_inconsistently() -> None:
    kept = _cache(5)
    kept.window.snapshot_floor = 5
    asked = listing.asked({"limit": ("2",), "continue": (history.Continue(3, ("x", "p02")).encode(),)})
    with pytest.raises(status.ApiStatus) as refused:
        _page(kept, listing.Choice(""), asked, current=5)
    assert refused.value.code == 410
    again = listing.asked({"continue": (refused.value.body()["metadata"]["continue"],)})
    assert _names(_page(kept, listing.Choice(""), again, current=5)) == ["p03", "p04", "p05"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (b"labelSelector=parity%3Dodd", ["p01", "p03", "p05"]),
        (b"labelSelector=parity+notin+(odd)", ["p02", "p04"]),
        (b"labelSelector=%21parity", []),
        (b"fieldSelector=spec.nodeName%3Dn1", ["p01", "p04"]),
        (b"fieldSelector=metadata.name%3Dp02", ["p02"]),
        (b"fieldSelector=metadata.name%21%3Dp02,spec.nodeName%21%3Dn1", ["p03", "p05"]),
        (b"fieldSelector=metadata.namespace%3Dother", []),
    ],
)
def test_selectors_choose_by_labels_and_fields(query: bytes, names: list[str]) -> None:
    chosen = listing.choice(PODS_TYPE, options.query(query), namespace="")
    assert _names(_page(_cache(5), chosen, listing.Asked(None, 0, 0, None), current=5)) == names


def test_a_field_that_cannot_be_selected_by_is_told() -> None:
    with pytest.raises(status.ApiStatus, match="field label not supported"):
        listing.choice(PODS_TYPE, options.query(b"fieldSelector=spec.color%3Dred"), namespace="")


@pytest.mark.parametrize(
    ("query", "exact"),
    [
        ({}, None),
        ({"resourceVersion": ("0",)}, None),
        ({"resourceVersion": ("5",)}, None),
        ({"resourceVersion": ("5",), "limit": ("1",)}, 5),
        ({"resourceVersion": ("5",), "resourceVersionMatch": ("Exact",)}, 5),
        ({"resourceVersion": ("5",), "limit": ("1",), "resourceVersionMatch": ("NotOlderThan",)}, None),
    ],
)
def test_a_revision_means_what_its_match_rule_says(query: options.Query, exact: int | None) -> None:
    assert listing.asked(query).exact == exact


@pytest.mark.parametrize(
    ("listening", "port"),
    [
        ((("127.0.0.1", 1), ("10.0.0.1", 2), ("0.0.0.0", 3)), 2),
        ((("127.0.0.1", 1), ("0.0.0.0", 3)), 3),
        ((("127.0.0.1", 1), ("::", 4)), 4),
        ((("127.0.0.1", 1),), 1),
    ],
)
def test_the_advertised_port_is_the_one_at_the_advertised_address(
    listening: tuple[tuple[str, int], ...], port: int
) -> None:
    advertise = ipaddress.ip_address("10.0.0.1")
    settings = cluster.Settings(Path("/"), listening, advertise, service_cidrs=(), cluster_cidrs=(), node_mask_sizes=())
    assert settings.advertised_port == port


def test_generated_names_end_in_five_letters_each_as_likely_as_the_others() -> None:
    made = [cluster.name_suffix() for _ in range(4000)]
    assert {len(each) for each in made} == {5}
    counts = Counter("".join(made))
    assert set(counts) == set("bcdfghjklmnpqrstvwxz2456789")
    assert all(500 < count < 1000 for count in counts.values()), "20,000 letters of 27"
    assert len(set(made)) > 3900


def test_the_time_of_objects_follows_the_clock_also_backwards() -> None:
    class Clock(clock.System):
        moment = datetime(2026, 1, 1, 0, 0, 59, 999999, tzinfo=UTC)

        def now(self) -> datetime:
            return self.moment

    at = object.__new__(cluster.Cluster)
    at.clock, at._second = Clock(), (datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), "")
    for step, told in ((0, "00:00:59"), (1, "00:01:00"), (999_999, "00:01:00"), (-1_000_000, "00:00:59")):
        at.clock.moment += timedelta(microseconds=step)
        assert at.now() == f"2026-01-01T{told}Z"


def test_uids_are_random_ones_and_no_two_are_alike() -> None:
    made = [cluster.new_uid() for _ in range(1000)]
    assert len(set(made)) == len(made)
    for text in made:
        read = uuid.UUID(text)
        assert (str(read), read.version, read.variant) == (text, 4, uuid.RFC_4122)
