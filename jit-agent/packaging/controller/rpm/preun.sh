# Before a removal ($1 is 0). At an upgrade (1) nothing is stopped.
if [ "$1" -eq 0 ]; then
    /usr/lib/jit-controller/package remove || exit 1
fi
