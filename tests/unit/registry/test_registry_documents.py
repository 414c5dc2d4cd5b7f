"""Discovery, OpenAPI documents and tables."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from netplane.controlplane.registry import builtin, discovery, openapi, schema, swagger, tables
from netplane.controlplane.registry.rules.versions import priority
from tests.support.kubectl_descriptors import parsed
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
    assert sorted(versions, key=priority) == ["v10", "v2", "v1", "v2beta1", "v1alpha1", "foo"]


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


def test_every_reference_of_the_v2_document_is_in_it() -> None:
    document = swagger.document(builtin().with_crd(definition()))
    referred = {part.partition('"')[0] for part in orjson.dumps(document).decode().split('"#/definitions/')[1:]}
    assert referred <= document["definitions"].keys()
    assert len(document["definitions"]) > 400


def test_the_v2_document_keeps_kinds_list_keys_and_patch_strategies() -> None:
    told = swagger.document(builtin())["definitions"]
    kinds = told["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"]
    assert kinds == [{"group": "apps", "kind": "Deployment", "version": "v1"}]
    containers = told["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert (containers["x-kubernetes-patch-strategy"], containers["x-kubernetes-patch-merge-key"]) == ("merge", "name")
    assert containers["items"] == {"$ref": "#/definitions/io.k8s.api.core.v1.Container"}
    port = told["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]
    assert (port["type"], port["format"]) == ("string", "int-or-string")


def test_the_v2_document_tells_what_may_be_asked_of_each_path() -> None:
    told = swagger.document(builtin())["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]
    assert [each["name"] for each in told["parameters"]] == ["namespace", "name"]
    body, *queries = told["patch"]["parameters"]
    assert (body["in"], body["required"]) == ("body", True)
    assert {each["name"] for each in queries} == {"dryRun", "fieldManager", "fieldValidation", "force"}
    shown = told["get"]["responses"]["200"]["schema"]
    assert shown == {"$ref": "#/definitions/io.k8s.api.apps.v1.Deployment"}


def test_the_v2_document_tells_no_shape_of_what_it_has_no_words_for() -> None:
    crd = definition()
    fields = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields["free"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"a": {}}}
    fields["maybe"] = {"type": "string", "nullable": True, "description": "Perhaps."}
    registry = builtin().with_crd(crd)
    (custom,) = (each for each in registry.all() if each.crd is not None and each.conversion is None)
    told = swagger.document(registry)["definitions"][openapi.schema_name(custom)]
    spec = told["properties"]["spec"]["properties"]
    assert spec["free"] == {"x-kubernetes-preserve-unknown-fields": True}
    assert spec["maybe"] == {"description": "Perhaps."}


def test_the_protobuf_of_the_v2_document_names_every_definition_and_path() -> None:
    registry = builtin().with_crd(definition())
    document = swagger.document(registry)
    parts = parsed(swagger.as_protobuf(registry))
    assert parts[1] == [b"2.0"]
    paths = [parsed(each)[1][0].decode() for each in parsed(parts[8][0])[2]]
    assert paths == list(document["paths"])
    definitions = {parsed(each)[1][0].decode(): parsed(each)[2][0] for each in parsed(parts[9][0])[1]}
    assert list(definitions) == list(document["definitions"])
    deployment = parsed(definitions["io.k8s.api.apps.v1.Deployment"])
    (extension,) = (parsed(each) for each in deployment[31])
    assert extension[1] == [b"x-kubernetes-group-version-kind"]
    assert orjson.loads(parsed(extension[2][0])[2][0]) == [{"group": "apps", "kind": "Deployment", "version": "v1"}]


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


def test_documents_do_not_say_that_a_kind_has_one_name_only() -> None:
    """The real ones do not, and `kubectl explain` would print it of every kind."""
    registry = builtin()
    of = type_of("deployments.apps")
    document = openapi.Documents(registry).document("apis/apps/v1")
    assert document is not None
    third = orjson.loads(document.body)["components"]["schemas"][openapi.schema_name(of)]
    second = swagger.document(registry)["definitions"][openapi.schema_name(of)]
    for told in (third, second):
        assert [told["properties"][each].get("enum") for each in ("apiVersion", "kind")] == [None, None]
