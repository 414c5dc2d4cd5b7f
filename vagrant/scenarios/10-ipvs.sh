#!/bin/sh
# The nodes' proxies go over to IPVS and back while a client asks: not one request fails.
. "$(dirname "$0")/lib.sh"
here_is ipvs "the nodes' kernel has no IPVS, or nobody can change their mode"
begin

deploy web 2
client asker "$(nodes | tail -n 1)"
ip=$(service_ip web)
back() { for node in $(nodes); do place proxy-mode "$node" nftables; done; }
mend=back
load asker "$ip" 80 "${SCENARIO_SECONDS:-40}" 10 >"/tmp/$space.$$" &
loading=$!
for node in $(nodes); do place proxy-mode "$node" ipvs; done
say "the proxies run IPVS"
[ -n "$(ask asker "http://$(in_url "$ip")/")" ] || fail "no answer on IPVS"
back
mend=:
say "and nftables again"
wait "$loading" || fail "the load ended badly"
read -r asked failed <"/tmp/$space.$$"
rm -f "/tmp/$space.$$"
say "$failed of $asked requests failed"
[ "$failed" = 0 ] || fail "requests failed on the way"
