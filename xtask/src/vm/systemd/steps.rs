//! The steps, in their order. Each needs those before it that are marked as foundations.

use anyhow::Result;

use super::scene::Scene;

mod boots;
mod faults;
mod host;
mod install;
mod packages;

/// One thing that is done to the machine, and must hold.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Its name, one word.
    pub(super) name: &'static str,
    /// What it does, and what must hold.
    pub(super) what: &'static str,
    /// The others make no sense without it.
    pub(super) foundation: bool,
    /// Only the long run has it.
    pub(super) long: bool,
    /// Does it. Returns what was seen.
    pub(super) run: fn(&mut Scene) -> Result<String>,
}

const fn step(
    name: &'static str,
    what: &'static str,
    run: fn(&mut Scene) -> Result<String>,
) -> Step {
    Step { name, what, foundation: false, long: false, run }
}

const fn foundation(
    name: &'static str,
    what: &'static str,
    run: fn(&mut Scene) -> Result<String>,
) -> Step {
    Step { foundation: true, ..step(name, what, run) }
}

const fn long(
    name: &'static str,
    what: &'static str,
    run: fn(&mut Scene) -> Result<String>,
) -> Step {
    Step { long: true, ..step(name, what, run) }
}

/// All steps.
pub(super) const STEPS: &[Step] = &[
    foundation("boot", "the machine without the package: the stranger gets in", install::boot),
    foundation("install", "apt install: nothing is shut out yet", install::install),
    foundation(
        "configure",
        "keys, certificates, configuration: `check` accepts",
        install::configure,
    ),
    foundation("start", "systemctl enable --now: closed from then on", install::start),
    step("rights", "three capabilities; user nobody reads nothing", install::rights),
    foundation("grant", "jitctl grant: the client gets in, the stranger does not", install::grant),
    step(
        "upgrade",
        "apt install of a higher version: no gap, the session lives",
        packages::upgrade,
    ),
    step("downgrade", "and back: the same", packages::downgrade),
    step("reload", "systemctl reload fails on a bad file, and changes nothing", host::reload),
    step("watchdog", "SIGSTOP: systemd kills and restarts the agent; no gap", host::watchdog),
    step("journald", "journald restarted and stopped: the agent goes on", host::journald),
    step("disk_full", "disk full: closed, named, `close --all` works", host::disk_full),
    step("reboot", "systemctl reboot: closed from before the kernel's start", boots::reboot),
    step("power", "power cut: the same, with an end of a grant meanwhile", boots::power),
    step("faults_files", "boot: no certificate, foreign key, no signer, no audit", faults::files),
    step("faults_configuration", "boot: a typo, the port is taken", faults::configuration),
    long("fault_missing", "boot without the certificate", faults::certificate_missing),
    long("fault_unreadable", "boot with a certificate nobody may read", faults::unreadable),
    long("fault_ended", "boot with a certificate that has ended", faults::ended),
    long("fault_key", "boot with a key of another certificate", faults::foreign_key),
    long("fault_taken", "boot with the listening port taken", faults::port_taken),
    long("fault_signer", "boot without the signer's key", faults::signer_missing),
    long("fault_audit_key", "boot with an audit key that others can write", faults::audit_key),
    long("fault_audit", "boot with an audit directory that is a file", faults::audit_directory),
    long("fault_typo", "boot with a typo in the configuration", faults::typo),
    step("secrets", "no key in journal, arguments, environment or state", host::secrets),
    step("removal", "apt remove: the gate is taken off, and it says so", packages::removal),
    step("purge", "apt purge: state and configuration are gone", packages::purge),
];

/// The names of all steps.
pub(super) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_word_and_unique() {
        let names: std::collections::BTreeSet<_> = names().into_iter().collect();
        assert_eq!(names.len(), STEPS.len());
        assert!(names.iter().all(|name| !name.contains(' ')));
    }

    #[test]
    fn no_foundation_is_left_out_of_the_short_run() {
        assert!(STEPS.iter().all(|step| !(step.foundation && step.long)));
    }
}
