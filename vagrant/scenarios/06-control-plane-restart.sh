#!/bin/sh
# The control plane goes away and comes back: the network goes on meanwhile, and nothing that was written is lost.
. "$(dirname "$0")/lib.sh"
here_is restart-server "nobody can restart the control plane in this place"
begin

deploy web 2
client asker "$(nodes | tail -n 1)"
ip=$(service_ip web)
k create configmap kept --from-literal=said=before >/dev/null
started=$(k get pods -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID}{"\n"}{end}' | sort)
# A process of the pod's own: an exec'd one hangs on the control plane that goes away.
k exec asker -- /bin/sh -c "/usr/bin/python3 -c '$LOAD' $ip 80 15 20 >/tmp/load 2>&1 &"
place restart-server
until_true 240 kubectl get --raw /readyz
say "the control plane is back"
[ "$(k get configmap kept -o 'jsonpath={.data.said}')" = before ] || fail "what was written is lost"
until_true 120 k exec asker -- grep -q '[0-9]' /tmp/load
counted() { k exec asker -- tail -n 1 /tmp/load | grep -Eq '^[0-9]+ [0-9]+$'; }
until_true 60 counted
read -r asked failed <<TEXT
$(k exec asker -- tail -n 1 /tmp/load)
TEXT
say "$failed of $asked requests failed meanwhile"
[ "$failed" = 0 ] || fail "the Service did not go on"
now=$(k get pods -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID}{"\n"}{end}' | sort)
[ "$started" = "$now" ] || fail "containers were restarted"
say "no container was restarted"
k scale deployment/web --replicas=3 >/dev/null
k rollout status deployment/web --timeout=240s >/dev/null
say "and it works: the Deployment has a third pod"
