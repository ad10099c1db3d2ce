//! The programs under test: those of the same profile, beside the running test program.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A program of the product, built from the sources as they are.
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(directory).join(name)
}

/// The agent with the next version of the tables' layouts.
pub fn next_agent() -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        built().unwrap_or_else(|| {
            build(&["--bin", "jit-agent-next", "--features", "jit-agent/next-abi"])
        })
    });
    directory.join("jit-agent-next")
}

/// `cargo xtask test` has just built them, and says where; otherwise cargo builds what is missing or
/// older than its sources, which `cargo test` does not do for another package's programs.
fn directory() -> PathBuf {
    built().unwrap_or_else(|| build(&["--bins"]))
}

/// Where all programs are already.
fn built() -> Option<PathBuf> {
    env::var_os("JIT_AGENT_PROGRAMS").map(PathBuf::from)
}

/// Builds programs, and returns their directory.
fn build(which: &[&str]) -> PathBuf {
    // target/<profile>/deps/<test>
    let program = env::current_exe().expect("the path of this program");
    let profile = program.parent().and_then(Path::parent).expect("target/<profile>");
    let target = profile.parent().expect("a target directory");
    let mut command = Command::new(env!("CARGO"));
    // With this package, so that dependencies have the features that they have for it.
    command.args(["build", "--quiet", "--package", "jit-agent", "--package", "jit-tests"]);
    command.args(which);
    command.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("start cargo to build programs of jit-agent");
    assert!(status.success(), "{command:?}: {status}");
    profile.to_owned()
}
