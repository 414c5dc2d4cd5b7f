#!/bin/sh
# Services of every kind: cluster IP, node port on each node, headless, affinity, UDP, local only, and one without pods.
. "$(dirname "$0")/lib.sh"
begin

deploy web 3
first=$(nodes | head -n 1)
client asker "$first"
all_up
ip=$(service_ip web)

answered=$(inside asker 'for _ in $(seq 20); do ask "$@"; done' "$ip" 80 | sort -u | wc -l)
[ "$answered" -ge 2 ] || fail "20 requests to the cluster IP met $answered pod"
say "the cluster IP leads to $answered pods"

k patch service web --type merge -p '{"spec":{"type":"NodePort"}}' >/dev/null
port=$(node_port web)
for node in $(nodes); do
  until_true 60 ask asker "$(node_address "$node")" "$port"
  say "node port $port answers on $node"
done

k patch service web --type merge -p '{"spec":{"sessionAffinity":"ClientIP"}}' >/dev/null
sticks() { [ "$(inside asker 'for _ in 1 2 3 4 5 6 7 8; do ask "$@"; done' "$ip" 80 | sort -u | wc -l)" = 1 ]; }
until_true 60 sticks
say "with session affinity a client stays with one pod"

k expose deployment web --name headless --port 8080 --cluster-ip None >/dev/null
until_true 60 sh -c "[ \"\$(kubectl -n $space get endpointslices -l kubernetes.io/service-name=headless -o 'jsonpath={.items[*].endpoints[*].addresses[0]}' | wc -w)\" = 3 ]"
say "the headless Service lists 3 pods and has no address"

k expose deployment web --name udp --port 8082 --protocol UDP >/dev/null
udp=$(service_ip udp)
until_true 60 k exec asker -- /usr/bin/python3 -c '
import socket, sys
kind = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(kind, socket.SOCK_DGRAM) as sock:
    sock.settimeout(3)
    sock.sendto(b"hello", (sys.argv[1], 8082))
    sys.exit(not sock.recv(2000))' "$udp"
say "UDP answers at $udp"

k create service clusterip nobody --tcp=80:8080 >/dev/null
nobody=$(service_ip nobody)
refused() { inside asker 'nc -w 3 "$1" 80 2>&1 </dev/null | grep refused' "$nobody"; }
until_true 60 refused
say "a Service without pods refuses at once"

k delete service web >/dev/null
gone() { ! ask asker "$ip" 80; }
until_true 60 gone
say "a deleted Service answers no more"
