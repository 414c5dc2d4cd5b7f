#!/bin/sh
# A node's cable is cut for a while: it is NotReady, its pods run on, and when the cable is mended they are the same.
. "$(dirname "$0")/lib.sh"
here_is cable "nobody can cut a cable in this place"
begin

first=$(nodes | head -n 1)
apart=$(nodes | tail -n 1)
[ "$first" != "$apart" ] || { echo "   not here: one node alone"; exit 77; }
client stays "$apart"
client asker "$first"
all_up
container=$(k get pod stays -o 'jsonpath={.status.containerStatuses[0].containerID}')
address=$(k get pod stays -o 'jsonpath={.status.podIP}')
mend="place mend $apart"

place cut "$apart"
until_true 240 unready "$apart"
say "$apart is cut off, and NotReady"
place mend "$apart"
until_true 240 ready "$apart"
until_true 60 ask asker "$address" 8080
[ "$(k get pod stays -o 'jsonpath={.status.containerStatuses[0].containerID}')" = "$container" ] || fail "its pod was restarted"
say "its pod is the same as before, and answers"
