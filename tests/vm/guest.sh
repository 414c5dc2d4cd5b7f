#!/bin/sh
# First program of the virtual machine, with the host's root (read-only, 9p) under an overlay in memory.
# The share `job` is the host's: it holds the command, and takes its output and exit code.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
mkdir -p /run/netns /run/job
mount -t 9p -o trans=virtio,version=9p2000.L,access=any,msize=262144 job /run/job
hostname netplane-vm
mkdir -p /lib/modules
ln -sfn "$(cat /run/job/modules)" "/lib/modules/$(uname -r)"
# Its parameters are there only once it is loaded, and namespaces made before have none.
modprobe nf_conntrack
ip link set lo up
sh /run/job/command >/run/job/output 2>&1
echo $? >/run/job/code
sync
echo o >/proc/sysrq-trigger
sleep 10
