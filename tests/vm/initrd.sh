#!/bin/busybox sh
# Mounts the host's root over 9p under an overlay, and goes there.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /ro /rw /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod "/mods/$module.ko"; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=1048576 host /ro
/bin/busybox mount -t tmpfs rw /rw
/bin/busybox mkdir /rw/upper /rw/work
/bin/busybox mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work root /new
guest=$(/bin/busybox sed -n 's/.*netplane.guest=\([^ ]*\).*/\1/p' /proc/cmdline)
exec /bin/busybox switch_root /new "$guest"
