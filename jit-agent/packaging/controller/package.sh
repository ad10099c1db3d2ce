#!/bin/sh
# Installed as /usr/lib/jit-controller/package. The scripts of the .deb and of the .rpm call it, so that
# both do the same. It works without systemd running (a chroot, an image build): then it only makes the
# user and the directory.
#
#   package configure     after files were unpacked, at an installation or an upgrade
#   package remove        before they are removed; never at an upgrade
set -e

STATE=/var/lib/jit-controller

# Not `echo`: in some shells it changes what has a backslash.
say() {
    printf 'jit-controller: %s\n' "$*" >&2
}

# Whether this root is that of the running system.
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

# As in jit-controller.sysusers.conf. An existing user keeps what it has.
make_user() {
    case "$(getent passwd jit-controller)" in
    "" | */nologin | */false) ;;
    *) say "the user jit-controller was there before, and can log in. Who logs in as it can read its keys." \
        "Take that away: usermod --lock --shell /usr/sbin/nologin jit-controller" ;;
    esac
    if has systemd-sysusers; then
        systemd-sysusers jit-controller.conf
        return
    fi
    getent group jit-controller >/dev/null || groupadd --system jit-controller
    getent passwd jit-controller >/dev/null ||
        useradd --system --gid jit-controller --no-create-home --home-dir "$STATE" \
            --shell /usr/sbin/nologin --comment "jit-agent controller" jit-controller
}

configure() {
    make_user
    # An existing directory keeps its owner and mode.
    [ -d "$STATE" ] || install -d -o jit-controller -g jit-controller -m 0700 "$STATE"
    is_booted || return 0
    systemctl daemon-reload || say "systemd does not read its units again: systemctl daemon-reload"
    if systemctl --quiet is-active jit-controller.service; then
        # What is open stays open: each host ends it on time by itself.
        invoke restart jit-controller.service ||
            say "the new version does not start. Hosts keep what is open. See: journalctl -u jit-controller"
    elif [ ! -e "$STATE/controller.toml" ]; then
        say "there is no controller yet. Next: runuser -u jit-controller -- jit-controller init --help"
    fi
}

remove() {
    if is_booted; then
        invoke stop jit-controller.service || true
    fi
    if has systemctl; then
        systemctl --quiet --no-reload disable jit-controller.service || true
    fi
}

case "$1" in
configure | remove) "$1" ;;
*)
    say "unknown step \"$1\""
    exit 64
    ;;
esac
