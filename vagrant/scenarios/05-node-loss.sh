#!/bin/sh
# A node loses its power: its pods come up elsewhere in the time their tolerations say; when it is back, nothing is left.
. "$(dirname "$0")/lib.sh"
here_is power "nobody can pull a node's plug in this place"
begin

first=$(nodes | head -n 1)
lost=$(nodes | tail -n 1)
[ "$first" != "$lost" ] || { echo "   not here: one node alone"; exit 77; }
deploy web 2 5
client asker "$first"
all_up
ip=$(service_ip web)
mend="place on $lost"

place off "$lost"
until_true 240 unready "$lost"
say "$lost is lost, and NotReady"
both_elsewhere() {
  [ "$(k get pods -l app=web -o 'jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.spec.nodeName}{"\n"}{end}' | grep -vc "^$lost\$")" = 2 ]
}
begun=$(date +%s)
until_true 120 both_elsewhere
say "its pods, which bear that for 5 s, run elsewhere $(($(date +%s) - begun)) s later"
read -r asked failed <<TEXT
$(load asker "$ip" 80 4)
TEXT
[ "$failed" = 0 ] || fail "$failed of $asked requests failed after the pods had moved"
say "$asked requests, none to a pod that is gone"

place on "$lost" >/dev/null
mend=:
until_true 420 ready "$lost"
say "$lost is back, and Ready"
nothing_left() {
  [ -z "$(k get pods -o 'jsonpath={range .items[?(@.metadata.deletionTimestamp)]}{.metadata.name}{"\n"}{end}')" ] &&
    [ "$(pods_of web | wc -l)" = 2 ]
}
until_true 180 nothing_left
client returned "$lost"
all_up
until_true 60 ask returned "$ip" 80
say "nothing of the old pods is left, and new ones run there"
