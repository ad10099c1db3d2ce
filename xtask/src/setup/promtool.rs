//! `promtool`, which checks metrics and alert rules. Debian has it in the package of the Prometheus
//! server, whose installation would start that server. So the package is only unpacked, below the
//! target directory.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{
    apt,
    need::{Found, Source},
};
use crate::shell;

const PACKAGE: &str = "prometheus";
/// The program in the package.
const PROGRAM: &str = "usr/bin/promtool";

/// The unpacked program.
pub(crate) fn promtool() -> PathBuf {
    shell::target().join("setup/promtool")
}

pub(super) fn find() -> Found {
    let program = promtool();
    match shell::answer(&mut shell::program(&program, ["--version"])) {
        Some(said) => {
            let version = said.lines().next().unwrap_or_default().to_owned();
            Found::Yes(format!("{}, {version}", program.display()))
        }
        None => Found::No(format!("{} is missing or does not run", program.display())),
    }
}

pub(super) fn provide(_: Source) -> Result<()> {
    ensure!(
        apt::available() && apt::has(PACKAGE),
        "promtool is in Debian's package {PACKAGE}, and there is none here: put promtool into {}",
        promtool().display()
    );
    let directory = shell::target().join("setup/prometheus");
    drop(fs::remove_dir_all(&directory));
    let content = apt::unpack(PACKAGE, &directory)?;
    fs::rename(content.join(PROGRAM), promtool())
        .with_context(|| format!("taking {PROGRAM} out of the package"))?;
    fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))
}
