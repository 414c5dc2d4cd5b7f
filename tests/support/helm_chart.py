"""A chart of what charts are made of, and the helm that installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_NAME = "{{ .Release.Name }}"
_WIDGETS = """apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, default: 3}, colour: {type: string}}}
"""
_CONFIG = """apiVersion: v1
kind: ConfigMap
metadata: {name: NAME}
data:
  colour: {{ .Values.colour }}
  kubernetes: {{ .Capabilities.KubeVersion.Version | quote }}
  widgets: {{ .Capabilities.APIVersions.Has "shop.example/v1/Widget" | quote }}
  seen: {{ index ((lookup "v1" "ConfigMap" .Release.Namespace "seen").data | default dict) "word" | default "nothing" }}
---
apiVersion: v1
kind: Secret
metadata: {name: NAME}
stringData: {password: {{ .Values.colour }}}
---
apiVersion: shop.example/v1
kind: Widget
metadata: {name: NAME}
spec: {colour: {{ .Values.colour }}}
"""
_RIGHTS = """apiVersion: v1
kind: ServiceAccount
metadata: {name: NAME}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: NAME}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: NAME}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: NAME}
subjects: [{kind: ServiceAccount, name: NAME, namespace: {{ .Release.Namespace }}}]
"""
_WEB = """apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: web, image: {{ .Values.image | quote }}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: NAME}
spec:
  rules:
  - host: shop.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: NAME, port: {name: http}}}}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: NAME}
spec: {minAvailable: 1, selector: {matchLabels: {app: NAME}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: NAME}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: NAME}, minReplicas: 1, maxReplicas: 3}
"""
_OTHERS = """apiVersion: apps/v1
kind: StatefulSet
metadata: {name: NAME}
spec:
  replicas: 2
  serviceName: NAME
  selector: {matchLabels: {app: NAME-set}}
  template: {metadata: {labels: {app: NAME-set}}, spec: {containers: [{name: web, image: "echo:1"}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME-each}}
  template: {metadata: {labels: {app: NAME-each}}, spec: {containers: [{name: web, image: "echo:1"}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: NAME}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: once, image: "echo:1"}]}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: NAME-kept, annotations: {helm.sh/resource-policy: keep}}
"""
HOOKS = ("pre-install", "post-install", "pre-upgrade", "post-upgrade", "pre-rollback", "post-rollback", "pre-delete",
         "post-delete", "test")  # fmt: skip


def hook(when: str, *, image: str = "echo:1", policy: str = "before-hook-creation,hook-succeeded") -> str:
    """Return a Job that runs at one moment of a release's life."""
    return f"""apiVersion: batch/v1
kind: Job
metadata:
  name: {_NAME}-{when}
  annotations: {{helm.sh/hook: {when}, helm.sh/hook-delete-policy: "{policy}"}}
spec: {{backoffLimit: 0, template: {{spec: {{restartPolicy: Never, containers: [{{name: run, image: "{image}"}}]}}}}}}
"""


def write(folder: Path, templates: dict[str, str], *, crds: str = "", values: str = "{}") -> Path:
    """Write a chart named as its folder; `NAME` in a template is the release's name."""
    for inner in ("templates", "crds"):
        (folder / inner).mkdir(parents=True)
    (folder / "Chart.yaml").write_text(
        f'apiVersion: v2\nname: {folder.name}\nversion: 0.1.0\nkubeVersion: ">=1.25.0-0"\n'
    )
    (folder / "values.yaml").write_text(values)
    if crds:
        (folder / "crds" / "all.yaml").write_text(crds)
    for name, text in templates.items():
        (folder / "templates" / name).write_text(text.replace("NAME", _NAME))
    return folder


def shop(folder: Path) -> Path:
    """Write a chart with a definition and an object of it, a web server with what belongs to one, and every hook."""
    hooks = {f"hook-{when}.yaml": hook(when) for when in HOOKS}
    templates = {
        "config.yaml": _CONFIG,
        "rights.yaml": _RIGHTS,
        "web.yaml": _WEB,
        "NOTES.txt": "Shop of NAME.\n",
        **hooks,
    }
    return write(folder, templates, crds=_WIDGETS, values="image: echo:1\nreplicas: 2\ncolour: red\n")


def others(folder: Path) -> Path:
    """Write a chart of the other workloads, and a ConfigMap that outlives its release."""
    return write(folder, {"all.yaml": _OTHERS})


@dataclass(frozen=True, slots=True)
class Helm:
    """helm, with a kubeconfig and its files in a folder of its own."""

    kubeconfig: Path
    home: Path

    def __call__(self, *arguments: str, is_refused: bool = False) -> str:
        """Run a line; return what it printed, or what it complained of when it is to be refused."""
        program = shutil.which("helm", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        assert program, "no helm: install netplane[dev]"
        folders = {f"HELM_{name}_HOME": str(self.home / name) for name in ("CACHE", "CONFIG", "DATA")}
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home), **folders}
        line = [program, *arguments]
        done = subprocess.run(line, capture_output=True, text=True, timeout=100, env=environment, check=False)
        assert (done.returncode != 0) == is_refused, f"helm {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stderr if is_refused else done.stdout
