# After a removal ($1 is 0) or an upgrade (1). An RPM has no purge: state and keys stay in
# /var/lib/jit-agent and /etc/jit-agent.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || :
    fi
    echo "jit-agent: /var/lib/jit-agent and /etc/jit-agent stay; remove them by hand" >&2
fi
