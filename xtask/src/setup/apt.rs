//! Debian's packages. Never removes one to make room for another.

use std::sync::Once;

use anyhow::{Result, bail};

use crate::shell;

static UPDATED: Once = Once::new();

/// Whether this is a machine with Debian's packages.
pub(super) fn available() -> bool {
    shell::find("apt-get").is_some()
}

/// Installs packages, as root or through sudo for this reason.
pub(super) fn install(reason: &str, packages: &[&str]) -> Result<()> {
    if !available() {
        bail!(
            "{reason} needs {}, and there is no apt-get here: \
             install what these Debian packages hold by other means, then run this again",
            packages.join(" ")
        );
    }
    update(reason);
    let mut apt = shell::program(
        "apt-get",
        ["install", "--yes", "--no-install-recommends", "--no-remove"].iter().chain(packages),
    );
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    let mut apt = shell::as_root(&format!("{reason}: apt-get install"), apt)?;
    shell::long(&format!("apt-get install {}", packages.join(" ")), &mut apt)
}

/// Whether the archive has this package.
pub(super) fn has(package: &str) -> bool {
    update("reading the list of packages");
    shell::answer(&mut shell::program("apt-cache", ["policy", package])).is_some_and(|policy| {
        policy.contains("Candidate:") && !policy.contains("(none)\n  Version")
    })
}

fn update(reason: &str) {
    UPDATED.call_once(|| {
        let updated = shell::as_root(
            &format!("{reason}: apt-get update"),
            shell::program("apt-get", ["update"]),
        )
        .and_then(|mut apt| shell::long("apt-get update", &mut apt));
        if let Err(error) = updated {
            // One unreachable source must not hide the others: the install decides.
            println!("  going on with the package lists there are: {error}");
        }
    });
}
