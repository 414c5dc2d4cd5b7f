#!/bin/sh
# Every pod reaches every other by its address, on its own node and on any other, and keeps its own address doing so.
. "$(dirname "$0")/lib.sh"
begin

for node in $(nodes); do
  client "on-$node" "$node"
  client "beside-$node" "$node"
done
all_up
address() { k get pod "$1" -o 'jsonpath={.status.podIP}'; }
beside=$(for node in $(nodes); do address "beside-$node"; echo; done)
for from in $(nodes); do
  answers=$(inside "on-$from" 'for to; do ask "$to" 8080 || echo nobody; done' $beside)
  [ "$answers" = "$(nodes | sed 's/^/beside-/')" ] || fail "from $from, of the pods at" $beside "answered" $answers
  say "from $from every node's pod answers:" $beside
done

first=$(nodes | head -n 1)
last=$(nodes | tail -n 1)
there=$(address "beside-$last")
own=$(address "on-$first")
seen=$(inside "on-$first" 'fetch "$@" | sed -n "s/.*\"client\": {\"address\": \"\([^\"]*\)\".*/\1/p"' "$there" 8080)
[ "$seen" = "$own" ] || fail "$own was seen as $seen on $last"
say "a pod is seen by its own address: $own"
inside "on-$first" '
  { printf "POST / HTTP/1.0\r\nContent-Length: 300000\r\n\r\n"; head -c 300000 /dev/zero; } |
    nc -w 10 "$1" 8080 | grep -q "\"length\": 300000"' "$there" || fail "300 kB do not get through"
say "300 kB go through whole"
