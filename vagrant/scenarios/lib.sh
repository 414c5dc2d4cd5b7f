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

deploy() { # name replicas [seconds]: echo servers, one Service port 80 before them, spread over the nodes; they leave a
  # node that is not ready after so many seconds: an emulated one is for a minute when its agent starts anew, and answers
  # its probes late meanwhile
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
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: ${3:-300}}
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: ${3:-300}}
      containers:
        - name: echo
          image: $ECHO
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
          lifecycle: {preStop: {sleep: {seconds: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: $1}
spec:
  selector: {app: $1}
  ports: [{name: http, port: 80, targetPort: 8080}]
YAML
}

client() { # name node: a pod on that node that asks, and answers, too
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
}

all_up() { # waits until everything that was deployed is there: it comes up side by side
  for each in $(k get deployments -o name); do
    k rollout status "$each" --timeout=240s >/dev/null
  done
  k wait --for=condition=Ready pods --all --timeout=240s >/dev/null
}

# What pods ask with is busybox alone: where machines are emulated, a Python's start takes seconds. Its wget needs a name
# service and has none; its nc waits for a connection no longer than told, and for an answer as long as it is let.
ASK='
fetch() { # host port [path [name]]: the answer as it came
  printf "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" "${3:-/}" "${4:-$1}" | nc -w 10 "$1" "$2" 2>/dev/null
}
ask() { fetch "$@" | sed -n "s/^{\"pod\": \"\([^\"]*\)\".*/\1/p" | grep .; }
load() { # host port seconds pause: asks on until the time is over or /tmp/enough is there, then tells how it went
  asked=0 failed=0 end=$(($(date +%s) + $3))
  while [ "$(date +%s)" -lt "$end" ] && [ ! -e /tmp/enough ]; do
    asked=$((asked + 1))
    fetch "$1" "$2" | grep -q "^HTTP/1.1 200 " || { failed=$((failed + 1)); date "+%T: request $asked failed" >&2; }
    sleep "$4"
  done
  echo "$asked $failed"
}
'
inside() { # pod script words...: runs a script of the functions above in a pod, with the words as its arguments
  pod=$1 script=$2; shift 2
  k exec "$pod" -- /bin/sh -c "$ASK$script" sh "$@"
}

ask() { # client host port [path [name]]: the pod that answered
  client=$1; shift
  inside "$client" 'ask "$@"' "$@"
}

PAUSE=${SCENARIO_PAUSE:-0.05}
load() { # client host port seconds: prints how many requests were made, and how many failed
  inside "$1" 'load "$@"' "$2" "$3" "$4" "$PAUSE"
}

begin_load() { # client host port: asks from now on, by a process of the pod's own, which nothing outside can interrupt
  inside "$1" 'rm -f /tmp/enough /tmp/load; (exec >/tmp/load 2>&1; load "$@") &' "$2" "$3" 1200 "$PAUSE"
}

end_load() { # client: ends the scenario when one request failed
  k exec "$1" -- touch /tmp/enough
  until_true 60 counted "$1"
  read -r asked failed <<TEXT
$(k exec "$1" -- tail -n 1 /tmp/load)
TEXT
  say "$failed of $asked requests failed meanwhile"
  [ "$failed" = 0 ] || { k exec "$1" -- tail -n 5 /tmp/load; fail "the Service did not go on"; }
}
counted() { k exec "$1" -- tail -n 1 /tmp/load | grep -Eq '^[0-9]+ [0-9]+$'; }

containers() { # the ids of all the containers there are
  k get pods -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID}{"\n"}{end}' | sort
}

service_ip() { k get service "$1" -o 'jsonpath={.spec.clusterIP}'; }
node_port() { k get service "$1" -o 'jsonpath={.spec.ports[0].nodePort}'; }
in_url() { case $1 in *:*) echo "[$1]" ;; *) echo "$1" ;; esac; }

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
