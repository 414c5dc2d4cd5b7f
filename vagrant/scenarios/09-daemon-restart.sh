#!/bin/sh
# Node by node the daemons start anew, as an upgrade in place makes them: no container does, and the Service goes on.
. "$(dirname "$0")/lib.sh"
here_is restart-daemons "nobody can restart the daemons in this place"
begin

deploy web 2
client asker "$(nodes | tail -n 1)"
ip=$(service_ip web)
before=$(k get pods -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID}{"\n"}{end}' | sort)
k exec asker -- /bin/sh -c "/usr/bin/python3 -c '$LOAD' $ip 80 ${SCENARIO_SECONDS:-60} 10 >/tmp/load 2>&1 &"
for node in $(nodes); do
  place restart-daemons "$node"
  until_true 240 ready "$node"
  say "the daemons of $node are new"
done
counted() { k exec asker -- tail -n 1 /tmp/load | grep -Eq '^[0-9]+ [0-9]+$'; }
until_true 240 counted
read -r asked failed <<TEXT
$(k exec asker -- tail -n 1 /tmp/load)
TEXT
say "$failed of $asked requests failed meanwhile"
[ "$failed" = 0 ] || fail "the Service did not go on"
after=$(k get pods -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID}{"\n"}{end}' | sort)
[ "$before" = "$after" ] || fail "containers were restarted"
say "no container was restarted"
