#!/bin/sh
# Give the second link its addresses, at every boot: boxes differ in what configures links, and IPv6 Vagrant leaves out.
set -eu
link=$(ip -o link show | awk -F': ' '$2 != "lo" {print $2}' | sed -n 2p)
[ -n "$link" ] || { echo "link.sh: this machine has no second link" >&2; exit 1; }
ip link set "$link" up
for address; do
  case $address in
    *:*) ip -6 addr replace "$address/64" dev "$link" nodad ;;
    *) ip addr replace "$address/24" dev "$link" ;;
  esac
done
