#!/bin/sh
# Pods on two nodes speak through WireGuard: the nodes announce keys, and the pods' path takes the tunnel's MTU.
. "$(dirname "$0")/lib.sh"
key() { kubectl get node "$1" -o 'jsonpath={.metadata.annotations.netplane\.io/wireguard-public-key}'; }
first=$(nodes | head -n 1)
last=$(nodes | tail -n 1)
[ -n "$(key "$first")" ] || { echo "   not here: the nodes are not joined by WireGuard"; exit 77; }
begin

[ "$(key "$first")" != "$(key "$last")" ] || fail "two nodes have one key"
say "each node announces a key of its own"
client one "$first"
client two "$last"
all_up
address=$(k get pod two -o 'jsonpath={.status.podIP}')
until_true 60 ask one "$address" 8080
say "$first to $last: $address answers through the tunnel"
