#!/bin/sh
# The nodes' proxies go over to IPVS and back while a client asks: not one request fails.
. "$(dirname "$0")/lib.sh"
here_is ipvs "the nodes' kernel has no IPVS, or nobody can change their mode"
begin

deploy web 2
client asker "$(nodes | tail -n 1)"
all_up
ip=$(service_ip web)
back() { for node in $(nodes); do place proxy-mode "$node" nftables; done; }
mend=back
begin_load asker "$ip" 80
for node in $(nodes); do place proxy-mode "$node" ipvs; done
say "the proxies run IPVS"
ask asker "$ip" 80 >/dev/null || fail "no answer on IPVS"
back
mend=:
say "and nftables again"
end_load asker
