#!/bin/sh
# The control plane's machine loses its power: on the other nodes everything runs on, and when it is back it works again.
. "$(dirname "$0")/lib.sh"
here_is server-power "nobody can pull the plug of the control plane's machine in this place"
begin

first=$(nodes | head -n 1)
last=$(nodes | tail -n 1)
[ "$first" != "$last" ] || { echo "   not here: one node alone"; exit 77; }
client serves "$last"
client asker "$last"
all_up
k expose pod serves --port 80 --target-port 8080 >/dev/null
ip=$(service_ip serves)
until_true 60 ask asker "$ip" 80
started=$(containers)
begin_load asker "$ip" 80
mend="place on $first"

place off "$first"
sleep 15
place on "$first" >/dev/null
mend=:
until_true 420 kubectl get --raw /readyz
until_true 420 ready "$first"
until_true 240 ready "$last"
say "$first, and the control plane with it, was without power and is back"
end_load asker
[ "$started" = "$(containers)" ] || fail "containers were restarted"
say "no container on $last was restarted"
client returned "$first"
all_up
until_true 60 ask returned "$ip" 80
say "and it works: a new pod runs on $first"
