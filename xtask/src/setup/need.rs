//! Whether a needed thing is there, and where the compiler comes from.

use clap::ValueEnum;

/// Result of the search for one thing.
pub(super) enum Found {
    /// It is there. The text says which version, or where.
    Yes(String),
    /// It is missing or cannot be used. The text is the reason.
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
