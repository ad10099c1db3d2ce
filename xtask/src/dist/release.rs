//! Which release: its version, the time that all files get, what it is built for, and its programs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Profile,
    contents::{PACKAGES, Package},
    hardening,
    target::Target,
};
use crate::{build, shell};

/// The largest `jit-agent` for x86_64, bytes: 0.5 MiB more than before agents connected to hubs. Each
/// host loads it before its network: what it grows by is a choice, which is made here.
const LARGEST_AGENT: usize = 12_526_592;

/// The program of each package, by the package's name.
pub(crate) type Programs = BTreeMap<&'static str, PathBuf>;

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

    /// The packages that there are for this target.
    pub(super) fn packages(&self) -> impl Iterator<Item = &'static Package> {
        let is_static = self.target.is_static();
        PACKAGES.iter().filter(move |package| package.is_static_too || !is_static)
    }

    /// The programs. Those that are not optimised lose their symbols in `scratch`.
    pub(crate) fn programs(&self, profile: Profile, scratch: &Path) -> Result<Programs> {
        if !profile.is_debug {
            return self.optimised();
        }
        let build::Programs { agent, jitctl } =
            if profile.is_built { build::built(false)? } else { build::programs(false)? };
        let controller = if profile.is_built {
            build::built_controller(false)?
        } else {
            build::controller(false)?
        };
        let all = [("jit-agent", agent), ("jit-controller", controller), ("jitctl", jitctl)];
        all.into_iter().map(|(name, program)| Ok((name, stripped(&program, scratch)?))).collect()
    }

    /// Each program is built by itself. In one build, all would get the features that any of them asks
    /// for: TLS 1.2 and an HTTP client in the agent.
    fn optimised(&self) -> Result<Programs> {
        // Names of directories here are in messages of panics and in what debuggers read.
        let home = cargo_home()?;
        let root = shell::root();
        let place = std::path::absolute(shell::target().join("dist-build"))?;
        let label = self.target.label();
        let mut programs = Programs::new();
        for package in self.packages() {
            let name = package.name;
            let mut cargo = self.target.cargo(&[(root, "/jit-agent"), (&home, "/cargo")])?;
            let profile = build::optimised(name);
            cargo.args(["--profile", profile, "--package", name, "--bin", name]);
            cargo.args(self.features(package));
            cargo
                .arg("--target-dir")
                .arg(&place)
                .env_remove("JIT_NEXT_ABI")
                .env("SOURCE_DATE_EPOCH", self.epoch.to_string());
            shell::long(&format!("building {name} for {label}, optimised"), &mut cargo)?;
            let program = place.join(self.target.triple()).join(profile).join(name);
            let found = hardening::check(&program, &[root, &home])?;
            let is_static = self.target.is_static();
            ensure!(
                found.is_static == is_static,
                "{} is {found}, and {label} is not",
                program.display()
            );
            bounded(name, self.target, found.size)?;
            println!("  {}: hardened, {found}", program.display());
            programs.insert(name, program);
        }
        Ok(programs)
    }

    /// The options of cargo for the features of a program: a static one loads no modules.
    pub(super) fn features(&self, package: &Package) -> Option<&'static str> {
        let loads = self.target.is_static() && package.loads_modules;
        loads.then_some("--no-default-features")
    }
}

/// Refuses an agent that has grown too large.
pub(super) fn bounded(name: &str, target: Target, size: usize) -> Result<()> {
    if name == "jit-agent" && target == Target::X86_64 && size > LARGEST_AGENT {
        bail!(
            "jit-agent has {size} bytes, and may have {LARGEST_AGENT} (LARGEST_AGENT in \
             xtask/src/dist/release.rs): find what it grew by, and raise the bound only for a reason"
        );
    }
    Ok(())
}

/// The same program without symbols, which are most of what is not optimised.
fn stripped(program: &Path, scratch: &Path) -> Result<PathBuf> {
    let to = scratch.join(program.file_name().context("a program has a name")?);
    shell::quiet(shell::program("strip", ["-o"]).arg(&to).arg(program))?;
    Ok(to)
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
