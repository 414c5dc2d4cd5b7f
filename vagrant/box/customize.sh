#!/bin/sh
# Runs while the box is made; $1 is its root folder. Vagrant's conventions: a user of its own, with the well-known
# key, that may do everything. Vagrant replaces that key at its first login (config.ssh.insert_key).
set -eu
root=$1
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

inside useradd -m -s /bin/bash vagrant
printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
install -d -m 700 "$root/home/vagrant/.ssh"
cat >"$root/home/vagrant/.ssh/authorized_keys" <<'KEY'
ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEFHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ== vagrant insecure public key
KEY
chmod 600 "$root/home/vagrant/.ssh/authorized_keys"
inside chown -R vagrant:vagrant /home/vagrant/.ssh
printf 'UseDNS no\nGSSAPIAuthentication no\nPermitRootLogin no\nPasswordAuthentication no\n' \
  >"$root/etc/ssh/sshd_config.d/vagrant.conf"

echo netplane-box >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 netplane-box\n' >"$root/etc/hosts"
printf 'auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\nsource /etc/network/interfaces.d/*\n' \
  >"$root/etc/network/interfaces"
mkdir -p "$root/etc/network/interfaces.d"
echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
echo '/dev/vda1 / ext4 defaults,noatime 0 1' >"$root/etc/fstab"

# A small initial file system, and nothing at boot that a node has no use for: under emulation each costs seconds.
printf 'MODULES=list\nBUSYBOX=n\nCOMPRESS=zstd\n' >"$root/etc/initramfs-tools/conf.d/small"
printf 'virtio_pci\nvirtio_blk\nvirtio_net\next4\n' >"$root/etc/initramfs-tools/modules"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer logrotate.timer systemd-timesyncd.service systemd-pstore.service getty@tty1.service \
  ifupdown-wait-online.service ifupdown-pre.service systemd-logind.service ipvsadm.service haproxy.service \
  systemd-binfmt.service systemd-update-utmp.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n' >"$root/etc/systemd/journald.conf.d/small.conf"
rm -f "$root"/etc/update-motd.d/*
inside update-initramfs -u -k "$(basename "$(ls -d "$root"/lib/modules/* | tail -n 1)")" >/dev/null
