# After an installation ($1 is 1) or an upgrade (2): the gate stays in force meanwhile.
/usr/lib/jit-agent/package configure || :
