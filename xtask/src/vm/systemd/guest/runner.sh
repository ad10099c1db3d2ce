#!/bin/bash
# Runs in the machine what the host sends, one script after the other, and answers with exit code and
# output. It uses a port of the machine's own, not the network that is tested. Scripts and outputs are
# in hexadecimal: a line is a message.
port=/dev/virtio-ports/jit.control
script=/run/jit-vm-script
output=/run/jit-vm-output

until [ -e $port ]; do sleep 0.1; done
exec 3<>$port
echo "ready $(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r -u 3 number limit encoded; do
    printf '%b' "$encoded" >$script
    timeout --kill-after=5 "$limit" bash $script >$output 2>&1 3>&- </dev/null
    code=$?
    echo "done $number $code $(head -c 200000 $output | od -An -v -tx1 | tr -d ' \n')" >&3
done
