//! Node.js with the packages of `tests/node`: a real provider of sign-ins for the controller's
//! tests.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{
    apt,
    need::{Found, Source},
};
use crate::shell;

/// The oldest version that runs the packages.
const OLDEST: u32 = 20;
const DIRECTORY: &str = "tests/node";
const LOCK: &str = "package-lock.json";
const REASON: &str = "testing sign-in at a provider";

/// The directory with the packages.
pub(crate) fn modules() -> PathBuf {
    shell::target().join("node/node_modules")
}

pub(super) fn find() -> Found {
    let version = shell::answer(&mut shell::program("node", ["--version"])).unwrap_or_default();
    if major(&version) < Some(OLDEST) {
        return Found::No(format!("no node of version {OLDEST} or later on the PATH"));
    }
    let modules = modules();
    let wanted = fs::read(shell::root().join(DIRECTORY).join(LOCK)).ok();
    let there = fs::read(modules.with_file_name(LOCK)).ok();
    match wanted.is_some() && wanted == there && modules.exists() {
        true => Found::Yes(format!("{}, {}", version.trim(), modules.display())),
        false => Found::No(format!("{} lacks what {DIRECTORY}/{LOCK} lists", modules.display())),
    }
}

pub(super) fn provide(_: Source) -> Result<()> {
    let has_node = || {
        let version = shell::answer(&mut shell::program("node", ["--version"]));
        version.is_some_and(|version| major(&version) >= Some(OLDEST))
    };
    if !has_node() || shell::find("npm").is_none() {
        apt::install(REASON, &["nodejs", "npm"])?;
    }
    if !has_node() {
        bail!("{REASON} needs Node.js {OLDEST} or later, and this release has an older one");
    }
    let modules = modules();
    let directory = modules.parent().context("the packages have a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    for name in ["package.json", LOCK] {
        let from = shell::root().join(DIRECTORY).join(name);
        fs::copy(&from, directory.join(name))
            .with_context(|| format!("copying {}", from.display()))?;
    }
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let mut install = shell::program("npm", arguments);
    shell::long(&format!("npm ci, for {REASON}"), install.current_dir(directory))
}

/// The first number of `v20.20.2`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_of_a_version_counts() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert!(major("v18.19.0") < Some(OLDEST) && major("") < Some(OLDEST));
    }
}
