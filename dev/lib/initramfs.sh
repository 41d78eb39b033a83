#!/bin/busybox sh
# First program of a virtual machine: mounts the disks of its cache and hands over to dev/lib/guest.py.
# Each disk carries its place below /cache as its serial number, which may be 20 characters long.
b=/bin/busybox
die() { echo "initramfs: $*"; $b sleep 1; $b poweroff -f; }
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
  $b insmod "$module" || die "cannot load $module"
done
$b mount -t tmpfs -o mode=755 tmpfs /new
$b mkdir /new/disks /new/root /new/upper /new/work
tries=0
while [ ! -e /sys/block/vda/serial ]; do
  tries=$((tries + 1)); [ $tries -lt 100 ] || die "no disk"
  $b sleep 0.1
done
for disk in /sys/block/vd*; do
  name=$($b cat $disk/serial)
  $b mkdir -p /new/disks/$name
  mode=ro; [ $name != scratch ] || mode=rw
  $b mount -t ext4 -o $mode /dev/${disk##*/} /new/disks/$name || die "cannot mount $name"
done
$b mount -t overlay -o lowerdir=/new/disks/rootfs,upperdir=/new/upper,workdir=/new/work overlay /new/root ||
  die "cannot mount the root"
$b mkdir /new/root/disks
$b mount --move /dev /new/root/dev
for disk in /new/disks/*; do
  place=/new/root/disks/${disk##*/}
  [ $disk != /new/disks/modules ] || place=/new/root/usr/lib/modules
  $b mkdir -p $place
  $b mount -o bind $disk $place
done
$b umount /proc /sys
exec $b switch_root /new/root /bin/sh -c '
  mount -t proc proc /proc && mount -t sysfs sysfs /sys && modprobe 9pnet_virtio && modprobe 9p && mkdir -p /src /out &&
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro src /src &&
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 out /out && exec python3 -IB /src/dev/lib/guest.py
  echo "initramfs: cannot start the guest"; sleep 1; echo o >/proc/sysrq-trigger; sleep 10'
