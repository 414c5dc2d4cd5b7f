#!/bin/sh
# Every pod reaches every other by its address, on its own node and on any other, and keeps its own address doing so.
. "$(dirname "$0")/lib.sh"
begin

for node in $(nodes); do
  client "on-$node" "$node"
  client "beside-$node" "$node"
done
for from in $(nodes); do
  for to in $(nodes); do
    address=$(k get pod "beside-$to" -o 'jsonpath={.status.podIP}')
    answer=$(ask "on-$from" "http://$(in_url "$address"):8080/")
    [ "$answer" = "beside-$to" ] || fail "from $from to $address on $to: $answer answered"
    say "$from to $to: $address answers"
  done
done

first=$(nodes | head -n 1)
last=$(nodes | tail -n 1)
own=$(k get pod "on-$first" -o 'jsonpath={.status.podIP}')
seen=$(k exec "on-$first" -- /usr/bin/python3 -c '
import json, sys, urllib.request
print(json.load(urllib.request.urlopen(sys.argv[1], timeout=5))["client"]["address"])' \
  "http://$(in_url "$(k get pod "beside-$last" -o 'jsonpath={.status.podIP}')"):8080/")
[ "$seen" = "$own" ] || fail "$own was seen as $seen on $last"
say "a pod is seen by its own address: $own"
k exec "on-$first" -- /usr/bin/python3 -c '
import sys, urllib.request
data = b"x" * 300_000
urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=data), timeout=20).read()' \
  "http://$(in_url "$(k get pod "beside-$last" -o 'jsonpath={.status.podIP}')"):8080/" || fail "300 kB do not get through"
say "300 kB go through whole"
