//! The steps, in their order. Each names those that it builds on.

use anyhow::Result;

use super::scene::Scene;

mod ansible;
mod boots;
mod faults;
mod floods;
mod host;
mod install;
mod packages;
mod readme;
mod refused;
mod trial;

/// One thing that is done to the machine, and must hold.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Its name, one word.
    pub(super) name: &'static str,
    /// What it does, and what must hold.
    pub(super) what: &'static str,
    /// The steps that it builds on.
    pub(super) on: &'static [&'static str],
    /// Only the long run has it.
    pub(super) long: bool,
    /// Does it. Returns what was seen.
    pub(super) run: fn(&mut Scene) -> Result<String>,
}

/// A machine without the package.
const BARE: &[&str] = &["boot"];
/// The package is installed, and the service enforces.
const SERVICE: &[&str] = &["boot", "install", "configure", "start", "grant"];
/// The package was installed as the README says.
const COPIED: &[&str] = &["boot", "readme"];

const fn step(
    name: &'static str,
    what: &'static str,
    on: &'static [&'static str],
    run: fn(&mut Scene) -> Result<String>,
) -> Step {
    Step { name, what, on, long: false, run }
}

const fn long(
    name: &'static str,
    what: &'static str,
    on: &'static [&'static str],
    run: fn(&mut Scene) -> Result<String>,
) -> Step {
    Step { long: true, ..step(name, what, on, run) }
}

/// All steps, in their order.
pub(super) const STEPS: &[Step] = &[
    step("boot", "the machine without the package: the stranger gets in", &[], install::boot),
    step("install", "apt install: nothing is shut out yet", BARE, install::install),
    step(
        "configure",
        "keys, certificates, configuration: `check` accepts",
        &["boot", "install"],
        install::configure,
    ),
    step(
        "start",
        "systemctl enable --now: closed from then on",
        &["boot", "install", "configure"],
        install::start,
    ),
    step(
        "rights",
        "three capabilities; user nobody reads nothing",
        &["boot", "install", "configure", "start"],
        install::rights,
    ),
    step(
        "grant",
        "jitctl grant: the client gets in, the stranger does not",
        &["boot", "install", "configure", "start"],
        install::grant,
    ),
    step(
        "upgrade",
        "apt install of a higher version: no gap, the session lives",
        SERVICE,
        packages::upgrade,
    ),
    step("downgrade", "and back: the same", SERVICE, packages::downgrade),
    step(
        "reload",
        "systemctl reload fails on a bad file, and changes nothing",
        SERVICE,
        host::reload,
    ),
    step(
        "watchdog",
        "SIGSTOP: systemd kills and restarts the agent; no gap",
        SERVICE,
        host::watchdog,
    ),
    step("journald", "journald restarted and stopped: the agent goes on", SERVICE, host::journald),
    step("capabilities", "a missing capability is named", SERVICE, refused::capabilities),
    step("pins", "a foreign, writable, linked pin directory is named", SERVICE, refused::pins),
    long("floods", "the service under floods: served in 2 s, no OOM", SERVICE, floods::floods),
    step("disk_full", "disk full: closed, named, `close --all` works", SERVICE, host::disk_full),
    step(
        "reboot",
        "systemctl reboot: closed from before the kernel's start",
        SERVICE,
        boots::reboot,
    ),
    step("power", "power cut: the same, with an end of a grant meanwhile", SERVICE, boots::power),
    step(
        "faults_files",
        "boot: no certificate, foreign key, no signer, no audit",
        SERVICE,
        faults::files,
    ),
    step("faults_configuration", "boot: a typo, the port is taken", SERVICE, faults::configuration),
    long("pins_at_boot", "boot with a pin directory of somebody else", SERVICE, refused::at_boot),
    long("fault_missing", "boot without the certificate", SERVICE, faults::certificate_missing),
    long(
        "fault_unreadable",
        "boot with a certificate nobody may read",
        SERVICE,
        faults::unreadable,
    ),
    long("fault_ended", "boot with a certificate that has ended", SERVICE, faults::ended),
    long("fault_key", "boot with a key of another certificate", SERVICE, faults::foreign_key),
    long("fault_taken", "boot with the listening port taken", SERVICE, faults::port_taken),
    long("fault_signer", "boot without the signer's key", SERVICE, faults::signer_missing),
    long(
        "fault_audit_key",
        "boot with an audit key that others can write",
        SERVICE,
        faults::audit_key,
    ),
    long(
        "fault_audit",
        "boot with an audit directory that is a file",
        SERVICE,
        faults::audit_directory,
    ),
    long("fault_typo", "boot with a typo in the configuration", SERVICE, faults::typo),
    step("secrets", "no key in journal, arguments, environment or state", SERVICE, host::secrets),
    step(
        "removal",
        "apt remove: the gate is taken off, and it says so",
        SERVICE,
        packages::removal,
    ),
    step("purge", "apt purge: state and configuration are gone", SERVICE, packages::purge),
    step("readme", "the README's section, copied: ends ENFORCING", BARE, readme::readme),
    step("trial_ends", "enforce without confirm: it observes again", COPIED, trial::ends),
    step("trial_holds", "enforce, confirm over a new session, reboot", COPIED, trial::holds),
    long("ansible", "the role: installs, changes nothing, refuses", BARE, ansible::ansible),
];

/// The steps of a run: `only` these with what they build on, else all, or all but the long ones.
pub(super) fn chosen(long: bool, only: &[String]) -> Vec<&'static Step> {
    let named = |step: &&Step| only.iter().any(|name| name == step.name);
    let on: Vec<_> = STEPS.iter().filter(named).flat_map(|step| step.on).collect();
    let chosen = |step: &&Step| match only {
        [] => long || !step.long,
        _ => named(step) || on.contains(&&step.name),
    };
    STEPS.iter().filter(chosen).collect()
}

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
    fn a_step_builds_on_steps_before_it_that_the_short_run_takes() {
        for (place, step) in STEPS.iter().enumerate() {
            for on in step.on {
                let found = STEPS.iter().take(place).find(|before| before.name == *on);
                assert!(found.is_some_and(|before| !before.long), "{} on {on}", step.name);
            }
        }
    }

    #[test]
    fn a_chosen_step_brings_what_it_builds_on() {
        let chosen = |only: &[&str]| -> Vec<_> {
            let only: Vec<_> = only.iter().map(ToString::to_string).collect();
            chosen(false, &only).iter().map(|step| step.name).collect()
        };
        assert_eq!(chosen(&["trial_ends"]), ["boot", "readme", "trial_ends"]);
        assert_eq!(
            chosen(&["fault_typo", "boot"]),
            ["boot", "install", "configure", "start", "grant", "fault_typo"]
        );
        assert!(!chosen(&[]).contains(&"fault_typo"));
    }
}
