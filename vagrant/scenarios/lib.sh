# What every scenario stands on. A scenario speaks to the cluster through kubectl alone; what kubectl cannot do to a
# machine (pull its plug, cut its cable) it asks of $PLACE, a command that knows the place: see places/.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$0" .sh)
space="scenario-${name#[0-9][0-9]-}"
mend=:  # what puts the place in order again, whatever happens
PLACE=${PLACE:-"sh $here/places/none.sh"}
BUSYBOX=netplane.local/busybox:1
ECHO=netplane.local/echo:1

say() { echo "   $*"; }
fail() { echo "   FAILED: $*" >&2; exit 1; }
place() { $PLACE "$@"; }
here_is() { place can "$1" || { echo "   not here: $2"; exit 77; }; }

until_true() { # seconds command...: waits until the command succeeds
  limit=$(($(date +%s) + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s)" -lt "$limit" ] || fail "not in time: $*"
    sleep 0.3
  done
}

k() { kubectl --namespace "$space" "$@"; }

nodes() { kubectl get nodes -o 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}'; }
ready() { [ "$(kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]; }
unready() { ! ready "$1"; }
node_address() { kubectl get node "$1" -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}' | cut -d' ' -f1; }
node_of() { k get pod "$1" -o 'jsonpath={.spec.nodeName}'; }
pods_of() { k get pods -l "app=$1" --field-selector=status.phase=Running -o 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}'; }

deploy() { # name replicas: echo servers, one Service port 80 before them, spread over the nodes
  k apply -f - >/dev/null <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: $1}
spec:
  replicas: $2
  selector: {matchLabels: {app: $1}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: $1}}
    spec:
      terminationGracePeriodSeconds: 5
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: $1}}}
      tolerations:
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers:
        - name: echo
          image: $ECHO
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
          lifecycle: {preStop: {sleep: {seconds: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: $1}
spec:
  selector: {app: $1}
  ports: [{name: http, port: 80, targetPort: 8080}]
YAML
  k rollout status "deployment/$1" --timeout=240s >/dev/null
}

client() { # name node: a pod on that node from which a scenario asks
  k apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: $1}}
spec:
  nodeName: $2
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers: [{name: echo, image: $ECHO}]
YAML
  k wait --for=condition=Ready "pod/$1" --timeout=240s >/dev/null
}

ask() { # client url: the pod that answered
  k exec "$1" -- /usr/bin/python3 -c '
import json, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
    print(json.load(answer)["pod"])' "$2"
}

service_ip() { k get service "$1" -o 'jsonpath={.spec.clusterIP}'; }
node_port() { k get service "$1" -o 'jsonpath={.spec.ports[0].nodePort}'; }
in_url() { case $1 in *:*) echo "[$1]" ;; *) echo "$1" ;; esac; }

LOAD='
import sys, time, http.client
host, port, seconds, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
asked = failed = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    begun = time.monotonic()
    asked += 1
    try:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request("GET", "/")
        failed += connection.getresponse().status != 200
        connection.close()
    except OSError as error:
        failed += 1
        print(error, file=sys.stderr)
    time.sleep(max(0, 1 / rate - (time.monotonic() - begun)))
print(asked, failed)
'
load() { # client host port seconds rate: prints how many requests were made, and how many failed
  k exec "$1" -- /usr/bin/python3 -c "$LOAD" "$2" "$3" "$4" "$5"
}

finish() {
  code=$?
  trap - EXIT
  $mend >/dev/null 2>&1 || :
  [ "$code" = 0 ] || [ "$code" = 77 ] || { k get pods -o wide || :; k get events --sort-by=.lastTimestamp | tail -n 8 || :; }
  kubectl delete namespace "$space" --ignore-not-found --wait=false >/dev/null 2>&1 || :
  exit "$code"
}

begin() {
  kubectl delete namespace "$space" --ignore-not-found --timeout=120s >/dev/null
  kubectl create namespace "$space" >/dev/null
  trap finish EXIT
}
