#!/bin/sh
# A new version is rolled out while somebody uses the old one: not one request fails.
. "$(dirname "$0")/lib.sh"
begin

deploy web 3
client asker "$(nodes | head -n 1)"
ip=$(service_ip web)
rate=${SCENARIO_RATE:-20}
load asker "$ip" 80 "${SCENARIO_SECONDS:-25}" "$rate" >"/tmp/$space.$$" &
loading=$!
sleep 2
k set env deployment/web VERSION=2 >/dev/null
k rollout status deployment/web --timeout=240s >/dev/null
say "version 2 is out"
wait "$loading" || fail "the load ended badly"
read -r asked failed <"/tmp/$space.$$"
rm -f "/tmp/$space.$$"
say "$failed of $asked requests failed"
[ "$failed" = 0 ] || fail "requests failed during the roll-out"
