# After a removal ($1 is 0) or an upgrade (1). Keys and audit stay in /var/lib/jit-controller.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || :
    fi
    echo "jit-controller: /var/lib/jit-controller stays: it has keys and the audit; remove it by hand" >&2
fi
