# After an installation ($1 is 1) or an upgrade (2): the gate stays in force meanwhile.
# rpm has no second try: a failure that it gets would only be lost among its messages.
/usr/lib/jit-agent/package configure ||
    echo "jit-agent: not configured. Mend that, then run: /usr/lib/jit-agent/package configure" >&2
