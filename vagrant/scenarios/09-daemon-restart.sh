#!/bin/sh
# Node by node the daemons start anew, and what runs the containers is killed: no container is, and the Service goes on.
. "$(dirname "$0")/lib.sh"
here_is restart-daemons "nobody can restart the daemons in this place"
begin

deploy web 2
client asker "$(nodes | tail -n 1)"
all_up
before=$(containers)
begin_load asker "$(service_ip web)" 80
for node in $(nodes); do
  place restart-daemons "$node"
  until_true 240 ready "$node"
  say "the daemons of $node are new"
  place can kill-runtime || continue
  place kill-runtime "$node"
  there=$(k get pods --field-selector "spec.nodeName=$node" -o 'jsonpath={.items[0].metadata.name}')
  until_true 240 k exec "$there" -- true
  until_true 240 ready "$node"
  say "its containerd was killed and has come back"
done
end_load asker
[ "$before" = "$(containers)" ] || fail "containers were restarted"
say "no container was restarted"
