//! LLVM's unwinder, which Rust's standard library calls in a static program. Debian's package of it
//! stands in the way of another unwinder's. So it is only unpacked, below the target directory.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{
    apt, compiler,
    need::{Found, Source},
};
use crate::shell;

const LIBRARY: &str = "libunwind.a";
/// The library in the package.
const IN_PACKAGE: &str = "usr/lib/x86_64-linux-gnu";

/// The directory of the library.
pub(crate) fn unwinder() -> PathBuf {
    shell::target().join("setup/unwinder")
}

pub(super) fn find() -> Found {
    let library = unwinder().join(LIBRARY);
    if library.is_file() {
        Found::Yes(library.display().to_string())
    } else {
        Found::No(format!("{} does not exist", library.display()))
    }
}

pub(super) fn provide(_: Source) -> Result<()> {
    let llvm = compiler::llvm().context("the compiler comes first")?;
    let package = format!("libunwind-{llvm}-dev");
    ensure!(
        apt::available() && apt::has(&package),
        "LLVM's unwinder is in Debian's package {package}, and there is none here: \
         put {LIBRARY} into {}",
        unwinder().display()
    );
    let directory = unwinder();
    drop(fs::remove_dir_all(&directory));
    let content = apt::unpack(&package, &directory.join("package"))?;
    fs::rename(content.join(IN_PACKAGE).join(LIBRARY), directory.join(LIBRARY))
        .with_context(|| format!("taking {LIBRARY} out of the package"))?;
    fs::remove_dir_all(directory.join("package"))
        .with_context(|| format!("removing {}", directory.join("package").display()))
}
