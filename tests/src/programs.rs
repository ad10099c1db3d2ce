//! Finds the programs under test. They are of the same build profile as the running test program.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Directory of the agent with the next layouts, below the target directory. So it does not replace
/// the other agent.
const NEXT: &str = "next-abi";

/// The layouts of the tables that programs are built with.
enum Layouts {
    Present,
    Next,
}

/// A program of the product, built from the present sources.
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORIES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let directories = DIRECTORIES.get_or_init(directories);
    let mut programs = directories.iter().map(|directory| directory.join(name));
    programs
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is in none of {directories:?}"))
}

/// Copies a program, to run the copy.
///
/// Another process writes it: a child that a test beside starts meanwhile would inherit the open file,
/// and until it has let it go the kernel runs no file that is open for writing (execve(2), ETXTBSY).
pub fn copy(program: &Path, to: &Path) {
    let status = Command::new("cp").arg(program).arg(to).status().expect("start cp");
    assert!(status.success(), "copying {} to {}: {status}", program.display(), to.display());
}

/// The agent with the next version of the tables' layouts.
pub fn next_agent() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = || {
        let profile = built().into_iter().next().unwrap_or_else(|| build(Layouts::Next));
        let target = profile.parent().expect("a target directory");
        let name = profile.file_name().expect("a profile");
        target.join(NEXT).join(name).join("jit-agent")
    };
    PROGRAM.get_or_init(program).clone()
}

/// Returns the directories of the programs. `cargo xtask test` has just built them, and gives the
/// directories in a variable. Otherwise cargo builds those that are missing or older than their
/// sources: `cargo test` does not build another package's programs.
fn directories() -> Vec<PathBuf> {
    let built = built();
    if built.is_empty() { vec![build(Layouts::Present)] } else { built }
}

/// The directories of the built programs, if a variable names them.
fn built() -> Vec<PathBuf> {
    let named = env::var_os("JIT_AGENT_PROGRAMS");
    named.iter().flat_map(env::split_paths).collect()
}

/// Builds programs. Returns the directory of this program's build profile, which they are in, too.
fn build(layouts: Layouts) -> PathBuf {
    // target/<profile>/deps/<test>
    let program = env::current_exe().expect("the path of this program");
    let profile = program.parent().and_then(Path::parent).expect("target/<profile>");
    let target = profile.parent().expect("a target directory");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut command = Command::new(env!("CARGO"));
    // Together with this package, so that dependencies keep the features that it asks for.
    command.args(["build", "--quiet", "--package", "jit-agent", "--package", "jit-tests"]);
    match layouts {
        Layouts::Present => {
            let packages = ["--package", "jitctl", "--package", "jit-controller", "--bins"];
            command.args(packages).arg("--target-dir").arg(target)
        }
        Layouts::Next => {
            let shared = format!("build.build-dir={:?}", target.display().to_string());
            command.args(["--bin", "jit-agent", "--config", "tests/next-abi.toml", "--config"]);
            command.arg(shared).arg("--target-dir").arg(target.join(NEXT))
        }
    };
    command.current_dir(workspace);
    // `cargo test` describes this package in the environment. Some build scripts are run again when
    // that changes, and with them everything that depends on their crates is built again.
    for (name, _) in env::vars_os() {
        let of_package =
            |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("start cargo to build programs of jit-agent");
    assert!(status.success(), "{command:?}: {status}");
    profile.to_owned()
}
