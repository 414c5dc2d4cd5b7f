#!/bin/sh
# The control plane goes away and comes back: the network goes on meanwhile, and nothing that was written is lost.
. "$(dirname "$0")/lib.sh"
here_is restart-server "nobody can restart the control plane in this place"
begin

deploy web 2
client asker "$(nodes | tail -n 1)"
all_up
ip=$(service_ip web)
k create configmap kept --from-literal=said=before >/dev/null
started=$(containers)
begin_load asker "$ip" 80
place restart-server
until_true 240 kubectl get --raw /readyz
say "the control plane is back"
[ "$(k get configmap kept -o 'jsonpath={.data.said}')" = before ] || fail "what was written is lost"
end_load asker
[ "$started" = "$(containers)" ] || fail "containers were restarted"
say "no container was restarted"
k scale deployment/web --replicas=3 >/dev/null
k rollout status deployment/web --timeout=240s >/dev/null
say "and it works: the Deployment has a third pod"
