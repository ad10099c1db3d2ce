#!/bin/busybox sh
# First process in the virtual machines of `cargo xtask vm-test`. It prepares the system, runs the
# list of checks, and turns the machine off. Lines for the host begin with @vm (see console.rs).
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /bin /sbin /usr/bin /usr/sbin /root
/bin/busybox --install -s
export PATH=/vm/tools:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NO_COLOR=1 RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
for place in /run /tmp; do mount -t tmpfs tmpfs "$place"; done
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/net
[ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
# The tests count the interfaces of their namespaces: the kernel must not add gre0, sit0 or tunl0.
echo 1 >/proc/sys/net/core/fb_tunnels_only_for_init_net
while read -r module; do
    insmod "/vm/modules/$module" || echo "cannot load $module"
done </vm/modules/order
echo "@vm kernel $(uname -r)"

now() {
    read -r seconds _ </proc/uptime
    echo "${seconds%.*}${seconds#*.}"
}
while read -r name limit command; do
    echo "@vm begin $name"
    began=$(now)
    timeout -s KILL "$limit" sh -c "$command" </dev/null 2>&1
    code=$?
    echo
    echo "@vm end $name $code $(($(now) - began))"
done </vm/checks
echo "@vm done"
poweroff -f
