//! Which release: its version, the time that all files get, what it is built for, and its programs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{Profile, hardening, target::Target};
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
    pub(crate) target: Target,
}

impl Release {
    /// The revision of the packages: it rises when only the packaging changes.
    pub(crate) const REVISION: &'static str = "1";

    /// The release of this checkout. `version`: in place of the workspace's own.
    pub(crate) fn read(version: Option<String>, target: Target) -> Result<Self> {
        let own = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { version: version.unwrap_or(own), epoch: commit_time()?, target })
    }

    /// The programs. Those that are not optimised lose their symbols in `scratch`.
    pub(crate) fn programs(&self, profile: Profile, scratch: &Path) -> Result<Programs> {
        match (profile.is_debug, profile.is_built) {
            (false, _) => self.optimised(),
            (true, false) => stripped(&build::programs(false)?, scratch),
            (true, true) => stripped(&build::built(false)?, scratch),
        }
    }

    fn optimised(&self) -> Result<Programs> {
        // Names of directories here are in messages of panics and in what debuggers read.
        let home = cargo_home()?;
        let root = shell::root();
        let place = std::path::absolute(shell::target().join("dist-build"))?;
        let mut cargo = self.target.cargo(&[(root, "/jit-agent"), (&home, "/cargo")])?;
        cargo
            .arg("--target-dir")
            .arg(&place)
            .env_remove("JIT_NEXT_ABI")
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        let label = self.target.label();
        shell::long(&format!("building jit-agent and jitctl for {label}, optimised"), &mut cargo)?;
        let directory = place.join(self.target.triple()).join("release");
        let programs =
            Programs { agent: directory.join("jit-agent"), jitctl: directory.join("jitctl") };
        for program in [&programs.agent, &programs.jitctl] {
            let found = hardening::check(program, &[root, &home])?;
            let is_static = self.target.is_static();
            ensure!(
                found.is_static == is_static,
                "{} is {found}, and {label} is not",
                program.display()
            );
            println!("  {}: hardened, {found}", program.display());
        }
        Ok(programs)
    }
}

/// The same programs without symbols, which are most of what is not optimised.
fn stripped(programs: &Programs, scratch: &Path) -> Result<Programs> {
    let Programs { agent, jitctl } = programs;
    let strip = |program: &Path| {
        let to = scratch.join(program.file_name().context("a program has a name")?);
        shell::quiet(shell::program("strip", ["-o"]).arg(&to).arg(program))?;
        anyhow::Ok(to)
    };
    Ok(Programs { agent: strip(agent)?, jitctl: strip(jitctl)? })
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
