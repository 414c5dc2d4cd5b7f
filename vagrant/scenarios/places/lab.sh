#!/bin/sh
# A lab on this machine (netplane lab up --name $LAB): its nodes are network namespaces. $VERSIONS is a folder in which
# the link `now` leads to the version that $NETPLANE runs, `first` or `next`; without it nothing can be upgraded.
set -eu
lab=${LAB:-lab}
netplane=${NETPLANE:-netplane}
case ${1:?} in
  can) case ${2:?} in power | cable | restart-server | restart-daemons) ;; upgrade) [ -n "${VERSIONS:-}" ] ;;
    kill-runtime) "$netplane" lab status --name "$lab" | grep -q " containerd " ;; *) exit 1 ;; esac ;;
  off) "$netplane" lab kill --name "$lab" "${2:?}" ;;
  on) "$netplane" lab up --name "$lab" ;;
  cut) "$netplane" lab exec --name "$lab" underlay -- ip link set "${2:?}" down ;;
  mend) "$netplane" lab exec --name "$lab" underlay -- ip link set "${2:?}" up ;;
  restart-server) "$netplane" lab kill --name "$lab" server ;;
  restart-daemons) for what in cni agent proxy; do "$netplane" lab kill --name "$lab" "${2:?}/$what"; done; sleep 2 ;;
  kill-runtime) "$netplane" lab kill --name "$lab" "${2:?}/containerd" ;;
  upgrade) # The control plane goes with the first node. Going on from the next version is going back to the first.
    first=$("$netplane" lab status --name "$lab" | awk '/^node-/ { print $1; exit }')
    if [ "$2" = "$first" ]; then
      case $(readlink "$VERSIONS/now") in next) to=first ;; *) to=next ;; esac
      ln -sfn "$to" "$VERSIONS/now"
      for what in server "$2/ingress"; do "$netplane" lab kill --name "$lab" "$what"; done
    fi
    for what in cni agent proxy; do "$netplane" lab kill --name "$lab" "$2/$what"; done ;;
  *) echo "the lab cannot: $*" >&2; exit 1 ;;
esac
