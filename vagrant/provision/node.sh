#!/bin/sh
# Make a Debian 12 machine a node of a netplane cluster. Run it again to bring it up to date: it changes what differs.
#
#   provision/node.sh --name node1 --address 192.168.56.11 --server 192.168.56.11 --token abcdef.0123456789abcdef
#     --role server|agent      the first node also runs the control plane         [agent]
#     --hosts "node1=192.168.56.11 node2=192.168.56.12"                          names for /etc/hosts
#     --proxy-mode nftables|ipvs|iptables                                          [nftables]
#     --fabric vxlan|direct|auto|wireguard                                         [vxlan]
#     --runtime containerd|embedded                                                [containerd]
#     --ip-family ipv4|ipv6|dual   the addresses are of these families               [ipv4]
#     --bundle FILE            what provision/bundle.sh made                       [beside this folder]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
name='' address='' server='' token='' hosts=''
role=agent proxy_mode=nftables fabric=vxlan runtime=containerd ip_family=ipv4
bundle="$here/../wheelhouse/netplane.tar.gz"
lib=/opt/netplane
started=/var/lib/netplane/started

die() { echo "node.sh: $*" >&2; exit 2; }
one_of() { # what value choices...
  what=$1 value=$2; shift 2
  for choice; do [ "$value" = "$choice" ] && return; done
  die "$what $value: one of $*"
}

while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "$1 needs a value"
  case $1 in
    --name) name=$2 ;; --address) address=$2 ;; --server) server=$2 ;; --token) token=$2 ;; --hosts) hosts=$2 ;;
    --role) role=$2 ;; --proxy-mode) proxy_mode=$2 ;; --fabric) fabric=$2 ;; --runtime) runtime=$2 ;;
    --ip-family) ip_family=$2 ;;
    --bundle) bundle=$2 ;;
    *) die "unknown option $1" ;;
  esac
  shift 2
done
for needed in name address server token; do
  eval "[ -n \"\$$needed\" ]" || die "--$needed is missing"
done
one_of --role "$role" server agent
one_of --proxy-mode "$proxy_mode" nftables ipvs iptables
one_of --fabric "$fabric" vxlan direct auto wireguard
one_of --runtime "$runtime" containerd embedded
one_of --ip-family "$ip_family" ipv4 ipv6 dual
case $server in *:*) server="[$server]" ;; esac
[ "$(id -u)" = 0 ] || die "run this as root"
[ -f "$bundle" ] || die "$bundle is not there: provision/bundle.sh makes it"

put() { # file [units]: writes stdin to the file; true when that changed it, and the units then have to start again.
  cat >"$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; return 1; fi
  target=$1; shift
  for each; do rm -f "$started/$each"; done
  mv "$target.new" "$target"
}

name_machine() {
  [ "$(hostname)" = "$name" ] || hostnamectl set-hostname "$name" 2>/dev/null || hostname "$name"
  { printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name"
    for pair in $hosts; do [ "${pair%%=*}" = "$name" ] || printf '%s %s\n' "${pair#*=}" "${pair%%=*}"; done
  } | put /etc/hosts || :
}

install_packages() {
  missing=$(grep -v '^#' "$here/packages" | while read -r package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done)
  [ -z "$missing" ] && return
  echo "   installing $(echo $missing)"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

prepare_kernel() {
  printf '%s\n' overlay br_netfilter nf_conntrack vxlan wireguard ip_vs ip_vs_rr ip_vs_wrr ip_vs_sh |
    put /etc/modules-load.d/netplane.conf || :
  printf '%s\n' net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 fs.inotify.max_user_instances=1024 |
    put /etc/sysctl.d/90-netplane.conf || :
  xargs modprobe -a </etc/modules-load.d/netplane.conf 2>/dev/null || :
  sysctl -q -p /etc/sysctl.d/90-netplane.conf
}

install_netplane() {
  stamp=$(sha256sum "$bundle" | cut -c1-16)
  if [ ! -d "$lib/$stamp" ]; then
    mkdir -p "$lib"
    rm -rf "$lib/new"
    mkdir "$lib/new"
    tar -C "$lib/new" -xzf "$bundle"
    mv "$lib/new/lib" "$lib/$stamp"
    rmdir "$lib/new"
  fi
  # One rename decides which version starts next; what runs keeps the files it has.
  if [ "$(readlink "$lib/lib" || :)" != "$stamp" ]; then
    rm -rf "$started"
    ln -sfn "$stamp" "$lib/lib.new"
    mv -T "$lib/lib.new" "$lib/lib"
  fi
  # Of earlier versions the last stays, for what runs yet and loads a module only now.
  for old in $(ls -td "$lib"/*/ | grep -v -e "/$stamp/$" -e '/lib/$' | tail -n +2); do rm -rf "$old"; done
  # A program goes on with the version with which it began: the path is where the link led then.
  printf '%s\n' '#!/usr/bin/python3 -I' 'import os' 'import sys' '' "sys.path.insert(0, os.path.realpath(\"$lib/lib\"))" \
    'from netplane.cli import main  # noqa: E402' '' 'main()' | put /usr/bin/netplane || :
  chmod 755 /usr/bin/netplane
}

install_units() {
  id netplane >/dev/null 2>&1 || useradd --system --home-dir /var/lib/netplane --shell /usr/sbin/nologin netplane
  mkdir -p /etc/netplane
  reload=
  for file in "$here"/units/*.service; do
    unit=$(basename "$file")
    put "/etc/systemd/system/$unit" "${unit%.service}" <"$file" && reload=yes
  done
  [ -z "$reload" ] || systemctl daemon-reload
}

configure() { # unit; the file's content on stdin
  put "/etc/netplane/${1#netplane-}.yaml" "$1" || :
}

start() { # Starts a unit, again when what it runs has changed since it last was; a type of notify waits until it serves.
  # Enabled is what the next boot reads: that systemd reads all its units anew here takes an emulated machine 9 s a time.
  systemctl enable --quiet --no-reload "$1"
  if [ -e "$started/$1" ]; then systemctl start "$1"; else systemctl restart "$1"; fi
  mkdir -p "$started" # A run that is cut short leaves the rest to the next.
  : >"$started/$1"
}

run_server() {
  case $ip_family in
    ipv4) services=10.96.0.0/16 pods=10.244.0.0/16 listen='"0.0.0.0:6443"' ;;
    ipv6) services=fd00:96::/112 pods=fd00:244::/48 listen='"[::]:6443"' ;;
    dual) services=10.96.0.0/16,fd00:96::/112 pods=10.244.0.0/16,fd00:244::/48 listen='"0.0.0.0:6443", "[::]:6443"' ;;
  esac
  configure netplane-server <<CONF
data-dir: /var/lib/netplane/server
listen: [$listen]
advertise-address: "${address%%,*}"
service-cidr: "$services"
cluster-cidr: "$pods"
CONF
  start netplane-server
  knows_token || said=$(netplane token create "$token" --ttl 0 2>&1) || case $said in
    *"already exists"*) ;; # It was just started again, and has not yet signed what it says.
    *) die "no token: $said" ;;
  esac
}

knows_token() { # The cluster tells everybody which tokens it knows: it signs what it says about itself with each.
  curl --silent --insecure --fail --max-time 20 "https://$server:6443/api/v1/namespaces/kube-public/configmaps/cluster-info" |
    grep -q "jws-kubeconfig-${token%%.*}"
}

join_cluster() { # Machines are made side by side: the control plane may still be on its way.
  [ ! -f /etc/netplane/node.kubeconfig ] || return 0
  limit=$(($(date +%s) + 600))
  until knows_token; do
    [ "$(date +%s)" -lt "$limit" ] || die "no control plane that knows the token answers at https://$server:6443"
    sleep 1
  done
  netplane join "https://$server:6443" --token "$token" --node-name "$name" >/dev/null
}

run_runtime() {
  [ "$runtime" = containerd ] || return 0
  mkdir -p /etc/containerd
  if put /etc/containerd/config.toml <"$here/containerd.toml"; then
    systemctl restart containerd
  fi
  systemctl enable --quiet --no-reload containerd
  systemctl start containerd
}

build_images() { netplane image build builtin >/dev/null; }

run_node() {
  configure netplane-cni <<CONF
kubeconfig: /etc/netplane/cni.kubeconfig
node-name: $name
fabric: $fabric
CONF
  configure netplane-agent <<CONF
kubeconfig: /etc/netplane/node.kubeconfig
node-name: $name
node-ip: "$address"
runtime: $runtime
CONF
  configure netplane-proxy <<CONF
kubeconfig: /etc/netplane/proxy.kubeconfig
node-name: $name
mode: $proxy_mode
CONF
  start netplane-cni
  start netplane-agent
  start netplane-proxy
}

open_door() { # The front door stands on the control plane's machine; its key is made where the cluster's keys are.
  id netplane-ingress >/dev/null 2>&1 ||
    useradd --system --home-dir /var/lib/netplane/ingress --shell /usr/sbin/nologin netplane-ingress
  if [ ! -f /etc/netplane/ingress.kubeconfig ]; then
    (umask 077; netplane kubeconfig --data-dir /var/lib/netplane/server --server "https://$server:6443" \
      --user system:netplane-ingress >/etc/netplane/ingress.kubeconfig)
    chown netplane-ingress /etc/netplane/ingress.kubeconfig
  fi
  configure netplane-ingress <<CONF
kubeconfig: /etc/netplane/ingress.kubeconfig
publish-address: ["${address%%,*}"]
CONF
  start netplane-ingress
}

steps=7
[ "$role" = server ] && steps=9
step=0
say() { step=$((step + 1)); echo "$step/$steps $*"; }

say "name the machine $name"; name_machine
say "install Debian packages"; install_packages
say "prepare the kernel"; prepare_kernel
say "install netplane"; install_netplane; install_units
if [ "$role" = server ]; then say "run the control plane"; run_server; fi
say "run the container runtime"; run_runtime; build_images
say "join the cluster"; join_cluster
say "run the node"; run_node
if [ "$role" = server ]; then say "open the front door"; open_door; fi
echo "$name is a node: $(uname -r), $runtime, $proxy_mode proxy, $fabric fabric"
