"""What people type works with every kubectl on the machine."""

from __future__ import annotations

import json
from collections.abc import Callable

Kubectl = Callable[..., str]

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "nginx:1", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
"""


def test_an_applied_deployment_gets_its_pods_and_applying_again_changes_nothing(
    kubectl: Kubectl, namespace: str
) -> None:
    assert "created" in kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT).count("unchanged") == 2
    kubectl("-n", namespace, "wait", "--for=jsonpath={.status.replicas}=2", "deploy/web", "--timeout=10s")
    assert kubectl("-n", namespace, "get", "pods", "-l", "app=web", "-o", "name").count("pod/web-") == 2


def test_server_side_apply_reports_conflicts_and_force_takes_the_field(kubectl: Kubectl, namespace: str) -> None:
    conf = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {a: '%s'}\n"
    ours = ("-n", namespace, "apply", "--server-side", "-f", "-")
    kubectl(*ours, "--field-manager=one", stdin=conf % "1")
    told = kubectl(*ours, "--field-manager=two", stdin=conf % "2", is_refused=True)
    assert 'conflict with "one": .data.a' in told
    kubectl(*ours, "--field-manager=two", "--force-conflicts", stdin=conf % "2")
    assert kubectl("-n", namespace, "get", "cm", "conf", "-o", "jsonpath={.data.a}") == "2"


def test_diff_shows_what_apply_would_change(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("-n", namespace, "diff", "-f", "-", stdin=DEPLOYMENT) == ""


def test_get_prints_the_columns_of_the_type(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    head, row = kubectl("-n", namespace, "get", "deploy", "-o", "wide").splitlines()
    assert head.split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert row.split()[0] == "web"
    assert row.split()[-3:] == ["web", "nginx:1", "app=web"]


def test_the_three_patches_change_what_they_say(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    patch = ("-n", namespace, "patch", "deploy", "web")
    strategic = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "nginx:2"}]}}}}
    kubectl(*patch, "-p", json.dumps(strategic))
    kubectl(*patch, "--type=merge", "-p", '{"metadata":{"labels":{"tier":"front"}}}')
    kubectl(*patch, "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":3}]')
    shown = json.loads(kubectl("-n", namespace, "get", "deploy", "web", "-o", "json"))
    container = shown["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["ports"][0]["containerPort"]) == ("nginx:2", 80)
    assert (shown["metadata"]["labels"]["tier"], shown["spec"]["replicas"]) == ("front", 3)


def test_scale_label_annotate_and_describe_work(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("-n", namespace, "scale", "deploy", "web", "--replicas=1")
    kubectl("-n", namespace, "label", "deploy", "web", "x=y")
    kubectl("-n", namespace, "annotate", "deploy", "web", "note=yes")
    told = kubectl("-n", namespace, "describe", "deploy", "web")
    assert "x=y" in told
    assert "1 desired" in told


def test_a_rollout_is_restarted_listed_and_undone(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("-n", namespace, "wait", "--for=jsonpath={.status.replicas}=2", "deploy/web", "--timeout=10s")
    kubectl("-n", namespace, "rollout", "restart", "deploy/web")
    kubectl("-n", namespace, "wait", "--for=jsonpath={.status.updatedReplicas}=1", "deploy/web", "--timeout=10s")
    assert kubectl("-n", namespace, "rollout", "history", "deploy/web").count("<none>") == 2
    assert "rolled back" in kubectl("-n", namespace, "rollout", "undo", "deploy/web")


def test_explain_reads_the_schema(kubectl: Kubectl) -> None:
    assert "Periodic probe of container liveness" in kubectl("explain", "pod.spec.containers.livenessProbe")


def test_explain_reads_the_one_document_of_old_clients_too(kubectl: Kubectl) -> None:
    told = kubectl("explain", "--output=plaintext-openapiv2", "deploy.spec.strategy")
    assert "RESOURCE: strategy <Object>" in told
    assert "The deployment strategy to use to replace existing pods with new ones." in told


def test_an_unknown_field_is_refused(kubectl: Kubectl, namespace: str) -> None:
    broken = DEPLOYMENT.replace("replicas: 2", "replicas: 2\n  replica: 3")
    told = kubectl("-n", namespace, "apply", "-f", "-", stdin=broken, is_refused=True)
    assert 'unknown field "spec.replica"' in told


def test_every_fault_is_told_with_its_field(kubectl: Kubectl, namespace: str) -> None:
    container = {"name": "B_d", "image": "x", "ports": [{"containerPort": 70000}]}
    spec = {"containers": [container]}
    pod = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
    told = kubectl("-n", namespace, "create", "-f", "-", stdin=pod, is_refused=True)
    assert "spec.containers[0].name" in told
    assert "spec.containers[0].ports[0].containerPort" in told


def test_create_makes_objects_from_the_command_line(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "create", "configmap", "c", "--from-literal=a=b")
    kubectl("-n", namespace, "create", "secret", "generic", "s", "--from-literal=k=v")
    kubectl("-n", namespace, "create", "serviceaccount", "robot")
    kubectl("-n", namespace, "create", "deployment", "d", "--image=nginx:1", "--replicas=0")
    kubectl("-n", namespace, "create", "role", "reader", "--verb=get", "--resource=pods")
    assert kubectl("-n", namespace, "get", "cm", "c", "-o", "jsonpath={.data.a}") == "b"
    assert kubectl("-n", namespace, "create", "token", "robot").count(".") == 2


def test_auth_can_i_tells_the_truth_also_for_others(kubectl: Kubectl) -> None:
    assert kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    assert "kubernetes-admin" not in kubectl("auth", "can-i", "create", "pods", "--as=jane", is_refused=True)


def test_a_refusal_of_can_i_is_a_bare_no(newest_kubectl: Kubectl) -> None:
    asked = {"user": "jane", "resourceAttributes": {"verb": "get", "resource": "pods"}}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": asked}
    told = newest_kubectl("create", "-f", "-", "-o", "jsonpath={.status}", stdin=json.dumps(review))
    assert json.loads(told) == {"allowed": False}


def test_debug_leaves_its_container_in_the_pod_for_the_agent(newest_kubectl: Kubectl, namespace: str) -> None:
    newest_kubectl("-n", namespace, "run", "p", "--image=i")
    newest_kubectl("-n", namespace, "debug", "p", "--image=tools", "-c", "beside", "--profile=general")
    shown = newest_kubectl("-n", namespace, "get", "pod", "p", "-o", "jsonpath={.spec.ephemeralContainers[*].image}")
    assert shown == "tools"


def test_a_budget_that_allows_nothing_refuses_evictions_at_once(newest_kubectl: Kubectl, namespace: str) -> None:
    newest_kubectl("-n", namespace, "run", "p", "--image=i", "--labels=app=p")
    newest_kubectl("-n", namespace, "patch", "pod", "p", "--subresource=status", "-p", '{"status":{"phase":"Running"}}')
    newest_kubectl("-n", namespace, "create", "pdb", "b", "--selector=app=p", "--min-available=1")
    newest_kubectl("-n", namespace, "wait", "--for=jsonpath={.status.expectedPods}=1", "pdb/b", "--timeout=10s")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/p/eviction"
    told = newest_kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction), is_refused=True)
    assert "Cannot evict pod as it would violate the pod's disruption budget." in told


def test_whoami_names_the_user(newest_kubectl: Kubectl) -> None:
    assert "kubernetes-admin" in newest_kubectl("auth", "whoami")


def test_deleting_a_deployment_in_the_foreground_takes_its_pods_along(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("-n", namespace, "wait", "--for=jsonpath={.status.replicas}=2", "deploy/web", "--timeout=10s")
    kubectl("-n", namespace, "delete", "deploy", "web", "--cascade=foreground", "--timeout=15s")
    assert kubectl("-n", namespace, "get", "pods,rs", "-o", "name") == ""


def test_deleting_a_namespace_removes_everything_in_it(kubectl: Kubectl, namespace: str) -> None:
    kubectl("-n", namespace, "apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("delete", "namespace", namespace, "--timeout=15s")
    assert "not found" in kubectl("get", "namespace", namespace, is_refused=True)


def test_a_defined_resource_is_served_scaled_and_gone_again(kubectl: Kubectl, namespace: str) -> None:
    group = f"{namespace}.example.com"
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wg"]},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
                        }
                    },
                }
            ],
        },
    }
    kubectl("create", "-f", "-", stdin=json.dumps(crd))
    kubectl("wait", "--for=condition=Established", f"crd/widgets.{group}", "--timeout=10s")
    widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "one"}, "spec": {"size": 3}}
    kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(widget))
    shown = kubectl("-n", namespace, "get", f"widgets.{group}", "one", "-o", "jsonpath={.spec.size}")
    assert shown == "3"
    assert "size\t<integer>" in kubectl("explain", "--output=plaintext-openapiv2", f"widgets.{group}.spec")
    kubectl("-n", namespace, "scale", f"widgets.{group}", "one", "--replicas=5")
    assert kubectl("-n", namespace, "get", f"widgets.{group}", "one", "-o", "jsonpath={.spec.size}") == "5"
    kubectl("delete", "crd", f"widgets.{group}", "--timeout=10s")
    assert "doesn't have a resource type" in kubectl("-n", namespace, "get", f"widgets.{group}", is_refused=True)
