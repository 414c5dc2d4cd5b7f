#!/bin/sh
# A new version is rolled out while somebody uses the old one: not one request fails.
. "$(dirname "$0")/lib.sh"
begin

deploy web 3
client asker "$(nodes | head -n 1)"
all_up
begin_load asker "$(service_ip web)" 80
k set env deployment/web VERSION=2 >/dev/null
k rollout status deployment/web --timeout=240s >/dev/null
say "version 2 is out"
old_gone() { [ "$(pods_of web | wc -l)" = 3 ]; }
until_true 60 old_gone
end_load asker
