#!/bin/sh
# The machines of vagrant/Vagrantfile. Run it in that folder, or say where with VAGRANT_CWD.
set -eu
export VAGRANT_CWD="${VAGRANT_CWD:-$(cd "$(dirname "$0")/../.." && pwd)}"
on() { node=$1; shift; vagrant ssh "$node" --no-tty --command "sudo sh -c '$*'" </dev/null; }
kill="systemctl kill --kill-whom=main --signal=KILL"
case ${1:?} in
  can) case ${2:?} in
    power | server-power | cable | restart-server | restart-daemons | kill-runtime | ipvs | upgrade) ;; *) exit 1 ;; esac ;;
  off) # With libvirt, Vagrant asks even then that the machine shut itself down.
    if virsh -c qemu:///system domstate "netplane_${2:?}" >/dev/null 2>&1
    then virsh -c qemu:///system --quiet destroy "netplane_$2"; else vagrant halt --force "$2"; fi ;;
  on) vagrant up "${2:?}" ;;
  cut) on "${2:?}" 'systemd-run --quiet --on-active=90 ip link set eth1 up; ip link set eth1 down' ;;
  mend) on "${2:?}" 'ip link set eth1 up' ;;
  restart-server) on node1 "$kill netplane-server" ;;
  restart-daemons) on "${2:?}" "for each in cni agent proxy; do $kill netplane-\$each; systemctl restart netplane-\$each; done" ;;
  kill-runtime) on "${2:?}" "$kill containerd" ;;
  upgrade) # Going on from the next version is going back to the first.
    marker="${VAGRANT_DOTFILE_PATH:-$VAGRANT_CWD/.vagrant}/$2.next" bundle=netplane.tar.gz
    [ -e "$marker" ] || bundle=next/netplane.tar.gz
    LOCAL_VERSION=next WHEELS="$VAGRANT_CWD/wheelhouse/wheels" "$VAGRANT_CWD/provision/bundle.sh" "$VAGRANT_CWD/wheelhouse/next"
    vagrant rsync "$2"
    NETPLANE_BUNDLE="/vagrant/wheelhouse/$bundle" vagrant provision --provision-with netplane "$2"
    if [ -e "$marker" ]; then rm "$marker"; else touch "$marker"; fi ;;
  proxy-mode) on "${2:?}" "sed -i s/^mode:.*/mode:\ ${3:?}/ /etc/netplane/proxy.yaml; systemctl restart netplane-proxy" ;;
  *) echo "vagrant cannot: $*" >&2; exit 1 ;;
esac
