#!/bin/sh
# Netplane is upgraded in place, node by node, the control plane with its node: the versions that the cluster tells
# change, no container is restarted and the Service goes on.
. "$(dirname "$0")/lib.sh"
here_is upgrade "there is no other version at hand in this place"
begin

deploy web 2
client asker "$(nodes | tail -n 1)"
all_up
before=$(containers)
version() { kubectl get node "$1" -o 'jsonpath={.status.nodeInfo.kubeletVersion}'; }
served() { kubectl get --raw /version | sed -n 's/.*"gitVersion": *"\([^"]*\)".*/\1/p'; }
api=$(served)
begin_load asker "$(service_ip web)" 80
for node in $(nodes); do
  was=$(version "$node")
  place upgrade "$node" >/dev/null
  is_new() { now=$(version "$node") && [ -n "$now" ] && [ "$now" != "$was" ]; }
  until_true 300 is_new
  until_true 240 ready "$node"
  say "$node: $was is now $(version "$node")"
done
is_served_anew() { now=$(served) && [ -n "$now" ] && [ "$now" != "$api" ]; }
until_true 120 is_served_anew
say "the API: $api is now $(served)"
end_load asker
[ "$before" = "$(containers)" ] || fail "containers were restarted"
say "no container was restarted"
k scale deployment/web --replicas=3 >/dev/null
k rollout status deployment/web --timeout=240s >/dev/null
say "and it works: the Deployment has a third pod"
