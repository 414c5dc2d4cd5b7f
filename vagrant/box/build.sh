#!/bin/bash
# Make the offline box: Debian 12 with its own kernel and everything a node needs, from Debian's packages alone.
#   box/build.sh FOLDER     leaves netplane-bookworm.box, and disk.qcow2, vmlinuz, initrd.img for plain qemu
# About 95 s. Needs root for a loop device. A FOLDER that holds what these packages make is left as it is.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?"which folder? usage: box/build.sh FOLDER"}
size=${BOX_SIZE:-6G}
packages=$(grep -v '^#' "$here/packages" | paste -sd,)
tools="mmdebstrap extlinux syslinux-common fdisk e2fsprogs qemu-utils"

[ "$(id -u)" = 0 ] || { echo "box/build.sh: a loop device needs root" >&2; exit 1; }
missing=$(for p in $tools; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || echo "$p"; done)
if [ -n "$missing" ]; then
  echo "installing $(echo $missing)"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
inputs=$(cat "$here/build.sh" "$here/packages" "$here/customize.sh" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$folder/inputs" 2>/dev/null)" = "$inputs" ]; then
  echo "the box is up to date: $folder/netplane-bookworm.box"
  exit 0
fi

work=$(mktemp -d "$folder/work.XXXXXX")
loop=
clean() {
  mountpoint -q "$work/mnt" && umount "$work/mnt"
  [ -z "$loop" ] || losetup -d "$loop"
  rm -rf --one-file-system "$work"
}
trap clean EXIT

echo "1/4 install Debian into a folder"
# In a mount namespace of its own: whatever ends it, nothing of the host stays mounted below the folder.
unshare --mount --propagation private mmdebstrap --mode=root --quiet --variant=minbase --components=main --include="$packages" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --customize-hook="$here/customize.sh" bookworm "$work/root"
version=$(basename "$(ls -d "$work"/root/lib/modules/* | tail -n 1)")
rm -rf "$work"/root/var/cache/apt/*.bin "$work"/root/var/lib/apt/lists/*
mkdir -p "$work/root/boot/extlinux"
cat >"$work/root/boot/extlinux/extlinux.conf" <<CONF
default debian
prompt 0
timeout 0
label debian
  kernel /boot/vmlinuz-$version
  append initrd=/boot/initrd.img-$version root=/dev/vda1 rw console=ttyS0 net.ifnames=0 biosdevname=0 quiet loglevel=3
CONF

echo "2/4 write the disk"
truncate -s "$size" "$work/disk.raw"
echo '2048,,83,*' | sfdisk --quiet "$work/disk.raw"
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$work/disk.raw" conv=notrunc bs=440 count=1 status=none
bytes=$(($(stat -c %s "$work/disk.raw") - 2048 * 512))
loop=$(losetup --find --show --offset $((2048 * 512)) --sizelimit "$bytes" "$work/disk.raw")
mkfs.ext4 -q -F -O ^64bit,^metadata_csum,^has_journal -E lazy_itable_init=1 -L root -d "$work/root" "$loop"
mkdir "$work/mnt"
mount "$loop" "$work/mnt"
extlinux --install "$work/mnt/boot/extlinux" 2>&1 | tail -n 1
umount "$work/mnt"
losetup -d "$loop"
loop=

echo "3/4 pack it"
qemu-img convert -c -O qcow2 "$work/disk.raw" "$work/box.img"
gigabytes=$(($(stat -c %s "$work/disk.raw") >> 30))
echo "{\"provider\":\"libvirt\",\"format\":\"qcow2\",\"virtual_size\":$gigabytes}" >"$work/metadata.json"
echo 'Vagrant.configure("2") { |c| c.ssh.username = "vagrant" }' >"$work/Vagrantfile"
tar -C "$work" -czf "$folder/netplane-bookworm.box" metadata.json Vagrantfile box.img
echo "4/4 keep what plain qemu needs"
mv "$work/box.img" "$folder/disk.qcow2"
cp "$work/root/boot/vmlinuz-$version" "$folder/vmlinuz"
cp "$work/root/boot/initrd.img-$version" "$folder/initrd.img"
echo "$inputs" >"$folder/inputs"
echo "made $folder/netplane-bookworm.box"
