#!/bin/sh
# A lab on this machine (netplane lab up --name $LAB): its nodes are network namespaces.
set -eu
lab=${LAB:-lab}
netplane=${NETPLANE:-netplane}
case ${1:?} in
  can) case ${2:?} in power | cable | restart-server | restart-daemons) ;; *) exit 1 ;; esac ;;
  off) "$netplane" lab kill --name "$lab" "${2:?}" ;;
  on) "$netplane" lab up --name "$lab" ;;
  cut) "$netplane" lab exec --name "$lab" underlay -- ip link set "${2:?}" down ;;
  mend) "$netplane" lab exec --name "$lab" underlay -- ip link set "${2:?}" up ;;
  restart-server) "$netplane" lab kill --name "$lab" server ;;
  restart-daemons) for what in cni agent proxy; do "$netplane" lab kill --name "$lab" "${2:?}/$what"; done; sleep 2 ;;
  *) echo "the lab cannot: $*" >&2; exit 1 ;;
esac
