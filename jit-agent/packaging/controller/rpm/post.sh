# After an installation ($1 is 1) or an upgrade (2).
# rpm has no second try: a failure that it gets would only be lost among its messages.
/usr/lib/jit-controller/package configure ||
    echo "jit-controller: not configured. Mend that, then run: /usr/lib/jit-controller/package configure" >&2
