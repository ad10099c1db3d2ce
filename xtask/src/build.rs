//! `cargo xtask build`: builds the two programs. The agent contains the kernel programs.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{setup, shell};

const CONTROLLER: &str = "jit-controller";

/// What to build.
#[derive(Args)]
pub(crate) struct Options {
    /// Optimised, as it is installed
    #[arg(long)]
    release: bool,
}

/// Paths of the built programs.
pub(crate) struct Programs {
    /// `jit-agent`, the daemon.
    pub(crate) agent: PathBuf,
    /// `jitctl`, the controller's command line.
    pub(crate) jitctl: PathBuf,
}

/// Builds the programs and prints their paths.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { release } = options;
    setup::ensure(setup::Purpose::Build)?;
    let Programs { agent, jitctl } = programs(release)?;
    println!("{}\n{}", agent.display(), jitctl.display());
    Ok(())
}

/// Builds the programs in the chosen profile.
pub(crate) fn programs(release: bool) -> Result<Programs> {
    let mut arguments = vec!["build", "--bin", "jit-agent", "--bin", "jitctl"];
    if release {
        arguments.extend(["--profile", optimised("jit-agent")]);
    }
    // The next layouts are for tests of upgrades, whatever the environment says.
    shell::visible(shell::cargo(arguments).env_remove("JIT_NEXT_ABI"))?;
    built(release)
}

/// Builds the controller. It is no default member: its dependencies take minutes.
pub(crate) fn controller(release: bool) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--package", CONTROLLER, "--bin", CONTROLLER];
    if release {
        arguments.extend(["--profile", optimised(CONTROLLER)]);
    }
    shell::visible(&mut shell::cargo(arguments))?;
    built_controller(release)
}

/// The controller of an earlier build.
pub(crate) fn built_controller(release: bool) -> Result<PathBuf> {
    let program = std::path::absolute(directory(CONTROLLER, release))?.join(CONTROLLER);
    ensure!(program.is_file(), "{} does not exist: leave out --built", program.display());
    Ok(program)
}

/// The profile that a program is optimised with, and its directory below the one for what is built: all are
/// small but the controller, which thousands of hosts talk to.
pub(crate) fn optimised(program: &str) -> &'static str {
    if program == CONTROLLER { "quick" } else { "release" }
}

fn directory(program: &str, release: bool) -> PathBuf {
    shell::target().join(if release { optimised(program) } else { "debug" })
}

/// The programs of an earlier build.
pub(crate) fn built(release: bool) -> Result<Programs> {
    let directory = std::path::absolute(directory("jit-agent", release))?;
    let programs =
        Programs { agent: directory.join("jit-agent"), jitctl: directory.join("jitctl") };
    for program in [&programs.agent, &programs.jitctl] {
        ensure!(program.is_file(), "{} does not exist: run `cargo xtask build`", program.display());
    }
    Ok(programs)
}
