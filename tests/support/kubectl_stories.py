"""What people type at kubectl, as data: stories of lines that follow one another in a namespace of their own.

A line is `arguments` or `arguments => what is printed must hold this`; `! arguments => text` must be refused with it.
`{n}` is the namespace's name, `{d}` a folder with what `files` writes. The editor replaces `before` by
`after`.
"""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import tls

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain, labels: {made: file}}\ndata: {key: before}\n"
WEB = """apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1"}]}
"""
CSR = """apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: %s-%s}
spec:
  request: %s
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
"""
RULES = """apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reconciled, namespace: %s}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
"""

STORIES: dict[str, tuple[str, ...]] = {
    "what is there is shown in every form": (
        "apply -f {d}/cm.yaml => created",
        "get cm plain -o json => \"key\": \"before\"",
        "get cm plain -o yaml => key: before",
        "get cm -o wide => DATA",
        "get cm plain -o name => configmap/plain",
        "get cm plain -o jsonpath={{.data.key}} => before",
        "get cm plain -o jsonpath-as-json={{.data}} => \"key\"",
        "get cm -o custom-columns=N:.metadata.name => plain",
        "get cm plain -o go-template={{{{.data.key}}}} => before",
        "get cm --show-labels --sort-by=.metadata.name => made=file",
        "get cm -L made --no-headers --show-kind => configmap/plain",
        "get cm -A --chunk-size=1 --field-selector metadata.name=plain => {n}",
        "get cm -l made=file,nothing!=here -o name => configmap/plain",
        "get all",
        "get --raw /version => v1.33",
        "get --raw /livez?verbose => livez check passed",
        "describe cm plain => before",
        "describe ns {n} => Active",
        "explain deploy.spec.strategy => rollingUpdate",
        "explain pods --recursive => livenessProbe",
        "explain hpa --api-version=autoscaling/v2 => HorizontalPodAutoscaler",
        "api-resources -o wide --verbs=list => deployments",
        "api-resources --api-group=metrics.k8s.io => NodeMetrics",
        "api-versions => discovery.k8s.io/v1",
        "version => v1.33",
        "cluster-info => control plane",
        "cluster-info dump --namespaces={n} => DeploymentList",
        "! get cm nothing => \"nothing\" not found",
        "! get nothings => doesn't have a resource type",
    ),
    "every generator makes its object": (
        "create deployment web --image=nginx:1 --replicas=0 --port=80 => created",
        "create clusterrole {n}-r --verb=get,list --resource=pods => created",
        "create clusterrole {n}-a --aggregation-rule=a=b => created",
        "create clusterrolebinding {n}-b --clusterrole={n}-r --user=jane => created",
        "create configmap c --from-literal=a=b --from-file={d}/cm.yaml => created",
        "create cronjob cj --image=i --schedule=@hourly -- true => created",
        "create ingress ing --rule=a.example.com/x=web:80,tls=t --class=c => created",
        "create job j --image=i -- true => created",
        "create job j2 --from=cronjob/cj => created",
        "create pdb p --selector=app=web --min-available=1 => created",
        "create priorityclass {n}-p --value=10 => created",
        "create role r --verb=get --resource=pods => created",
        "create rolebinding rb --role=r --user=jane => created",
        "create secret generic s --from-literal=k=v => created",
        "create secret docker-registry sd --docker-username=u --docker-password=p --docker-email=e@e => created",
        "create secret tls st --cert={d}/server-127.0.0.1.pem --key={d}/server-127.0.0.1.pem => created",
        "create service clusterip sc --tcp=80 => created",
        "create service externalname se --external-name=example.com => created",
        "create service loadbalancer sl --tcp=80 => created",
        "create service nodeport sn --tcp=80 => created",
        "create serviceaccount sa => created",
        "create token sa --duration=20m => .",
        "create quota q --hard=configmaps=10 => created",
        "run pod --image=i --expose --port=80 => created",
        "run dry --image=i --dry-run=server -o yaml => uid:",
        "expose deploy web --port=80 --name=exposed => exposed",
        "autoscale deploy web --min=1 --max=3 --cpu-percent=50 => autoscaled",
        "kustomize {d} => name: kz-plain",
        "apply -k {d} => created",
        *(
            f"describe {each}"
            for each in (
                "deploy web", "clusterrole {n}-r", "clusterrolebinding {n}-b", "cronjob cj", "ingress ing", "job j",
                "pdb p", "pc {n}-p", "quota q", "role r", "rolebinding rb", "secret s", "svc sc", "sa sa", "pod pod",
                "hpa web", "endpointslices",
            )
        ),
        "delete clusterrole {n}-r {n}-a => deleted",
        "delete clusterrolebinding {n}-b => deleted",
        "delete pc {n}-p => deleted",
        "get pc system-node-critical => 2000001000",
        "! delete pc system-node-critical => this is a system priority class and cannot be deleted",
    ),
    "a deployment is applied, changed, rolled and scaled": (
        "apply -f {d}/web.yaml => created",
        "diff -f {d}/web.yaml",
        "apply -f {d}/web.yaml => unchanged",
        "apply --server-side --force-conflicts -f {d}/web.yaml => serverside-applied",
        "apply view-last-applied deploy/web => nginx:1",
        "wait --for=jsonpath={{.status.replicas}}=2 deploy/web --timeout=20s => condition met",
        "wait --for=condition=Progressing deploy/web --timeout=20s => condition met",
        "set image deploy/web web=nginx:2 => image updated",
        "set env deploy/web A=b => env updated",
        "set env deploy/web --list => A=b",
        "set resources deploy/web --limits=cpu=200m,memory=64Mi => resource requirements updated",
        "set serviceaccount deploy/web default => serviceaccount updated",
        "rollout pause deploy/web => paused",
        "rollout resume deploy/web => resumed",
        "rollout restart deploy/web => restarted",
        "rollout status deploy/web --watch=false",
        "rollout history deploy/web --revision=1 => nginx:1",
        "rollout undo deploy/web --to-revision=1 => rolled back",
        "get deploy web -o jsonpath={{.spec.template.spec.containers[0].image}} => nginx:1",
        "scale deploy/web --replicas=1 --current-replicas=2 => scaled",
        "patch deploy web --subresource=scale --type=merge -p '{{\"spec\":{{\"replicas\":3}}}}' => patched",
        "get deploy web --subresource=scale => DESIRED",
        "get deploy web --subresource=status -o jsonpath={{.spec.replicas}} => 3",
        "events --for=deploy/web => ScalingReplicaSet",
        "get events --sort-by=.lastTimestamp => ScalingReplicaSet",
        "describe deploy web => 3 desired",
    ),
    "an object is edited, patched, labelled and replaced": (
        "apply -f {d}/cm.yaml => created",
        "edit cm plain => edited",
        "get cm plain -o jsonpath={{.data.key}} => after",
        "patch cm plain -p '{{\"data\":{{\"a\":\"1\"}}}}' => patched",
        "patch cm plain --type=merge -p '{{\"data\":{{\"a\":null}}}}' => patched",
        "patch cm plain --type=json -p '[{{\"op\":\"add\",\"path\":\"/data/b\",\"value\":\"2\"}}]' => patched",
        "get cm plain -o jsonpath={{.data}} => {{\"b\":\"2\",\"key\":\"after\"}}",
        "label cm plain z=1 => labeled",
        "! label cm plain z=2 => already has a value",
        "label cm plain z=2 --overwrite => labeled",
        "label cm plain z- => unlabeled",
        "annotate cm --all q=r => annotate",
        "annotate cm plain --list => q=r",
        "replace -f {d}/cm.yaml => replaced",
        "replace --force -f {d}/cm.yaml => replaced",
        "create -f {d}/cm.yaml --dry-run=client -o yaml => before",
        "! create -f {d}/cm.yaml => already exists",
    ),
    "who may do what is asked, given and taken": (
        "create serviceaccount sa => created",
        "create role r --verb=get --resource=pods => created",
        "create rolebinding rb --role=r --serviceaccount={n}:sa => created",
        "auth can-i get pods --as=system:serviceaccount:{n}:sa => yes",
        "! auth can-i delete pods --as=system:serviceaccount:{n}:sa =>",
        "auth can-i --list --as=system:serviceaccount:{n}:sa => pods",
        "set subject rolebinding rb --user=joe => updated",
        "auth can-i get pods --as=joe => yes",
        "auth reconcile -f {d}/rules.yaml => reconciled",
        "auth whoami => kubernetes-admin",
        "! get pods --as=jane => cannot list resource",
    ),
    "a node is closed, drained, tainted and opened again": (
        "create -f {d}/node.yaml => created",
        "cordon node-{n} => cordoned",
        "get node node-{n} => SchedulingDisabled",
        "drain node-{n} --ignore-daemonsets => drained",
        "uncordon node-{n} => uncordoned",
        "taint node node-{n} a=b:NoSchedule => tainted",
        "taint node node-{n} a- => untainted",
        "describe node node-{n} => Unschedulable",
        "delete node node-{n} => deleted",
    ),
    "a certificate is asked for, approved and denied": (
        "create -f {d}/csr.yaml => created",
        "certificate approve yes-{n} => approved",
        "certificate deny no-{n} => denied",
        "get csr => Denied",
        "describe csr yes-{n} => Approved",
        "wait --for=condition=Approved csr/yes-{n} --timeout=20s => condition met",
        "delete csr yes-{n} no-{n} => deleted",
    ),
    "what is deleted takes along what it should": (
        "apply -f {d}/web.yaml => created",
        "wait --for=jsonpath={{.status.replicas}}=2 deploy/web --timeout=20s => condition met",
        "delete deploy web --dry-run=server => dry run",
        "delete deploy web --cascade=orphan => deleted",
        "get rs -l app=web -o name => replicaset.apps/web-",
        "delete rs -l app=web --cascade=foreground --timeout=20s => deleted",
        "apply -f {d}/web.yaml => created",
        "delete deploy web --cascade=background => deleted",
        "wait --for=delete pod -l app=web --timeout=20s",
        "wait --for=delete deploy/web --timeout=20s",
        "apply -f {d}/cm.yaml => created",
        "delete -f {d}/cm.yaml --wait=false => deleted",
        "delete cm --all --now",
        "delete ns {n} --timeout=30s => deleted",
    ),
}  # fmt: skip


def files(directory: Path, namespace: str) -> None:
    """Write what the stories refer to."""
    directory.mkdir(parents=True)
    tls.authority(directory)
    requests = [CSR % (name, namespace, _request(name)) for name in ("yes", "no")]
    texts = {
        "cm.yaml": CONFIG,
        "web.yaml": WEB,
        "rules.yaml": RULES % namespace,
        "csr.yaml": "---\n".join(requests),
        "node.yaml": f"apiVersion: v1\nkind: Node\nmetadata: {{name: node-{namespace}}}\n"
        "spec: {taints: [{key: closed, effect: NoSchedule}]}\n",
        "kustomization.yaml": "resources: [cm.yaml]\nnamePrefix: kz-\n",
    }
    for name, text in texts.items():
        (directory / name).write_text(text)


def _request(name: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return base64.b64encode(asked.public_bytes(serialization.Encoding.PEM)).decode()
