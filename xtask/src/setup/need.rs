//! What is said of each thing that has to be there.

use clap::ValueEnum;

/// Whether one thing is there.
pub(super) enum Found {
    /// There, in this form.
    Yes(String),
    /// Not there, or not usable as it is, for this reason.
    No(String),
}

/// Where the compiler for the kernel programs comes from.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Source {
    /// rustup if it may download (RUSTUP_AUTO_INSTALL is not 0) and its servers answer, else Debian
    Auto,
    /// Debian's archive: rustc-web, rust-web-src and LLVM
    Debian,
    /// rustup: nightly with rust-src
    Rustup,
}
