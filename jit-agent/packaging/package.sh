#!/bin/sh
# Installed as /usr/lib/jit-agent/package. The scripts of the .deb and of the .rpm call it, so that
# both do the same. It works without systemd running (a chroot, an image build): then it makes users
# and directories, and leaves the gate alone, which would be another system's.
#
#   package configure     after files were unpacked, at an installation or an upgrade
#   package remove        before they are removed; never at an upgrade
set -e

CONFIG=/etc/jit-agent

PINS=/sys/fs/bpf/jit-agent

# Not `echo`: in some shells it changes what has a backslash.
say() {
    printf 'jit-agent: %s\n' "$*" >&2
}

# Whether this root is that of the running system. One that is only worked on may have the running
# system's /run and /sys: its gate must not be taken off by a package in an image.
is_booted() {
    [ -d /run/systemd/system ] || return 1
    ! systemd-detect-virt --quiet --chroot 2>/dev/null
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Starts and stops as the distribution's policy allows it (policy-rc.d).
invoke() {
    if has deb-systemd-invoke; then
        deb-systemd-invoke "$@"
    else
        systemctl "$@"
    fi
}

# Users and groups, as in jit-agent.sysusers.conf. An existing user keeps what it has.
make_users() {
    case "$(getent passwd jit-agent)" in
    "" | */nologin | */false) ;;
    *) say "the user jit-agent was there before, and can log in. Who logs in as it can open the gate." \
        "Take that away: usermod --lock --shell /usr/sbin/nologin jit-agent" ;;
    esac
    if has systemd-sysusers; then
        systemd-sysusers jit-agent.conf
        return
    fi
    for group in jit-agent jit-agent-keys; do
        getent group "$group" >/dev/null || groupadd --system "$group"
    done
    getent passwd jit-agent >/dev/null ||
        useradd --system --gid jit-agent --groups jit-agent-keys --no-create-home \
            --home-dir /var/lib/jit-agent --shell /usr/sbin/nologin \
            --comment "jit-agent port gate" jit-agent
}

# An existing directory keeps its owner and mode.
directory() {
    [ -d "$4" ] || install -d -o "$1" -g "$2" -m "$3" "$4"
}

make_directories() {
    directory root root 0755 "$CONFIG/signers"
    directory root jit-agent-keys 0750 "$CONFIG/tls"
    directory jit-agent jit-agent 0700 /var/lib/jit-agent
    # The package cannot name the group: the file was unpacked before there was one.
    if [ "$(stat -c %U:%G:%a "$CONFIG/config.toml" 2>/dev/null)" = root:root:644 ]; then
        chgrp jit-agent "$CONFIG/config.toml"
        chmod 0640 "$CONFIG/config.toml"
    fi
    if is_booted; then
        systemd-tmpfiles --create jit-agent.conf ||
            say "systemd-tmpfiles failed; \`jit-agent doctor\` says what is missing"
    fi
}

configure() {
    make_users
    make_directories
    is_booted || return 0
    systemctl daemon-reload || say "systemd does not read its units again: systemctl daemon-reload"
    if systemctl --quiet is-active jit-agent.service; then
        # What is pinned stays in force: the new agent adopts it, and no packet sees a gap.
        invoke restart jit-agent.service ||
            say "the new version does not start; the gate stays in force. See: journalctl -u jit-agent"
    elif ! systemctl --quiet is-enabled jit-agent.service; then
        say "nothing is protected yet. Next: jit-agent init"
    fi
}

# Without the program nobody could take the gate off. So a gate that cannot be taken off keeps the
# package, and the agent runs again. In a chroot nothing is taken off: what is pinned is the host's.
take_off() {
    active=no
    systemctl --quiet is-active jit-agent.service && active=yes
    invoke stop jit-agent.service || true
    invoke stop jit-agent-early.service || true
    if said=$(/usr/bin/jit-agent detach --yes 2>&1); then
        say "$said"
        return 0
    fi
    say "$said"
    say "the gate cannot be taken off, so the package stays. Mend that, and remove it again."
    [ "$active" = no ] || invoke start jit-agent.service || true
    return 1
}

remove() {
    if is_booted; then
        take_off || return 1
    elif [ -n "$(ls -A "$PINS" 2>/dev/null)" ]; then
        say "nothing was taken off: this is not the root of a system that systemd runs." \
            "What is pinned in $PINS stays in force until the next boot."
    fi
    if has systemctl; then
        systemctl --quiet --no-reload disable jit-agent.service jit-agent-early.service || true
    fi
}

case "$1" in
configure | remove) "$1" ;;
*)
    say "unknown step \"$1\""
    exit 64
    ;;
esac
