//! Which release: its version, the time that all files get, the architecture, and its programs.

use std::{
    env::consts::ARCH,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Programs},
    shell,
};

/// A release.
pub(crate) struct Release {
    /// Without the revision of a package, as `0.1.0`.
    pub(crate) version: String,
    /// Seconds since the Unix epoch: the time of the commit.
    pub(crate) epoch: u64,
}

impl Release {
    /// The revision of the packages: it rises when only the packaging changes.
    pub(crate) const REVISION: &'static str = "1";

    /// The release of this checkout. `version`: in place of the workspace's own.
    pub(crate) fn read(version: Option<String>) -> Result<Self> {
        let own = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { version: version.unwrap_or(own), epoch: commit_time()? })
    }

    /// The architecture, as Debian calls it.
    pub(crate) fn debian_architecture() -> Result<&'static str> {
        Ok(match ARCH {
            "aarch64" => "arm64",
            "x86_64" => "amd64",
            other => bail!("no packages are made for {other}"),
        })
    }

    /// Builds the programs, or takes those of an earlier build.
    pub(crate) fn programs(&self, debug: bool) -> Result<Programs> {
        if debug {
            return build::programs(false);
        }
        // Paths of this machine are in messages of panics and in what debuggers read.
        let home = cargo_home()?;
        let from = |path: &Path, to: &str| format!("--remap-path-prefix={}={to}", path.display());
        let flags = [from(shell::root(), "/jit-agent"), from(&home, "/cargo")].join("\x1f");
        let target = std::path::absolute(shell::target().join("dist-build"))?;
        let arguments = ["build", "--release", "--locked", "--bin", "jit-agent", "--bin", "jitctl"];
        let mut cargo = shell::cargo(arguments);
        cargo
            .arg("--target-dir")
            .arg(&target)
            .env_remove("JIT_NEXT_ABI")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        shell::long("building jit-agent and jitctl, optimised", &mut cargo)?;
        let directory = target.join("release");
        Ok(Programs { agent: directory.join("jit-agent"), jitctl: directory.join("jitctl") })
    }
}

fn cargo_home() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let below = || std::env::home_dir().map(|home| home.join(".cargo"));
    home.or_else(below).context("neither CARGO_HOME nor a home directory is known")
}

/// Seconds since the Unix epoch of the last commit, or of SOURCE_DATE_EPOCH
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn commit_time() -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}"));
    }
    let mut git = shell::program("git", ["log", "-1", "--format=%ct"]);
    let said = shell::answer(git.current_dir(shell::root()));
    let said = said.context("git does not say when the last commit was: set SOURCE_DATE_EPOCH")?;
    said.trim().parse().with_context(|| format!("git says the last commit was at {said:?}"))
}
