# Before a removal ($1 is 0). At an upgrade (1) nothing is stopped or taken off.
if [ "$1" -eq 0 ]; then
    /usr/lib/jit-agent/package remove || exit 1
fi
