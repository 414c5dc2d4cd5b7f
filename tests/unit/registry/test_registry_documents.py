"""Discovery, OpenAPI documents and tables."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from netplane.controlplane.registry import builtin, discovery, openapi, schema, tables
from tests.support.registry_objects import created, pod, type_of
from tests.unit.registry.test_registry_custom import definition


def test_plain_and_aggregated_discovery_tell_the_same() -> None:
    registry = builtin()
    told = discovery.aggregated(registry, is_core=False, version="v2")
    for group in told["items"]:
        for version in group["versions"]:
            plain = discovery.resources(registry, group["metadata"]["name"], version["version"])
            assert plain is not None
            names = {each["name"] for each in plain["resources"]}
            for each in version["resources"]:
                assert each["resource"] in names
                assert {f"{each['resource']}/{s['subresource']}" for s in each.get("subresources", ())} <= names


def test_core_is_told_apart_from_the_groups() -> None:
    registry = builtin()
    (core,) = discovery.aggregated(registry, is_core=True, version="v2beta1")["items"]
    assert core["metadata"] == {}
    pods = next(each for each in core["versions"][0]["resources"] if each["resource"] == "pods")
    assert pods["shortNames"] == ["po"]
    assert {each["subresource"] for each in pods["subresources"]} >= {"binding", "eviction", "exec", "log", "status"}
    assert discovery.groups(registry)["groups"][0]["name"] == "apps"


def test_what_is_not_served_is_not_told() -> None:
    assert discovery.resources(builtin(), "nope", "v1") is None
    assert discovery.group(builtin(), "nope") is None


def test_versions_are_preferred_by_maturity() -> None:
    versions = ["v1alpha1", "v2beta1", "v1", "v10", "foo", "v2"]
    assert sorted(versions, key=discovery.version_priority) == ["v10", "v2", "v1", "v2beta1", "v1alpha1", "foo"]


@pytest.mark.parametrize("path", ["api/v1", "apis/apps/v1", "apis/example.com/v1"])
def test_every_reference_of_a_document_is_in_it(path: str) -> None:
    document = openapi.Documents(builtin().with_crd(definition())).document(path)
    assert document is not None
    schemas = orjson.loads(document.body)["components"]["schemas"]
    text = document.body.decode()
    referred = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert referred <= schemas.keys()
    assert '"null"' not in text


def test_a_document_tells_kubectl_what_a_patch_takes() -> None:
    document = openapi.Documents(builtin()).document("apis/apps/v1")
    assert document is not None
    operation = orjson.loads(document.body)["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert operation["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert {each["name"] for each in operation["parameters"]} == {"dryRun", "fieldManager", "fieldValidation", "force"}


def test_the_index_names_every_document_by_its_hash() -> None:
    documents = openapi.Documents(builtin())
    paths = orjson.loads(documents.index())["paths"]
    assert len(paths) == len(builtin().group_versions())
    document = documents.document("apis/batch/v1")
    assert document is not None
    assert paths["apis/batch/v1"]["serverRelativeURL"] == f"/openapi/v3/apis/batch/v1?hash={document.hash}"


def test_a_new_definition_leaves_the_other_documents_as_they_were() -> None:
    first = openapi.Documents(builtin())
    kept = first.document("api/v1")
    second = openapi.Documents(builtin().with_crd(definition()), first)
    assert second.document("api/v1") is kept


def test_the_v2_document_is_thirty_bytes_or_so() -> None:
    assert openapi.v2_protobuf().startswith(b"\n\x032.0")
    assert len(openapi.v2_protobuf()) < 60


def test_a_row_holds_the_object_its_metadata_or_nothing() -> None:
    rt, obj, now = type_of("pods"), created("pods", pod()), datetime(2026, 1, 2, tzinfo=UTC)
    whole = tables.table(rt, [obj], include_object="Object", now=now)
    assert whole["rows"][0]["object"] is obj
    partial = tables.table(rt, [obj], now=now)["rows"][0]["object"]
    assert partial == {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
    bare = tables.table(rt, [obj], include_object="None", now=now, columns=False)
    assert bare["columnDefinitions"] is None
    assert bare["rows"][0]["object"] is None


def test_finished_pods_are_marked() -> None:
    obj = {"metadata": {"name": "x"}, "spec": {}, "status": {"phase": "Failed"}}
    row = tables.row(type_of("pods"), obj, include_object="None", now=datetime(2026, 1, 2, tzinfo=UTC))
    assert row["conditions"][0]["reason"] == "Failed"


def test_every_type_has_a_structure() -> None:
    for rt in builtin().all():
        assert schema.shape_of(rt).kind == "object", rt.kind
