//! Finds the programs under test: those of the same profile, beside the running test program.
//!
//! `cargo test` does not build another package's programs, so missing or outdated ones are built
//! here, once. Where they are current, as under `cargo xtask test`, cargo is not even asked: for
//! this package alone it would compile them again with other features of their dependencies.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

const PROGRAMS: [&str; 2] = ["jit-agent", "jitctl"];

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// A program of the product, built with this test's own profile from the sources as they are.
pub fn binary(name: &str) -> PathBuf {
    let directory = DIRECTORY.get_or_init(|| {
        let directory = profile_directory();
        if !PROGRAMS.iter().all(|name| is_current(&directory.join(name))) {
            build(&directory);
        }
        directory
    });
    directory.join(name)
}

/// `target/<profile>`: test programs are in `deps` below it.
fn profile_directory() -> PathBuf {
    let program = env::current_exe().expect("the path of this program");
    let deps = program.parent().expect("a program lies in a directory");
    assert!(deps.ends_with("deps"), "not a test program of cargo: {}", program.display());
    deps.parent().expect("target/<profile>").to_owned()
}

/// There, and not older than anything in cargo's list of what it was made from.
fn is_current(program: &Path) -> bool {
    let Some(built) = newest(program) else { return false };
    let list = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let sources = list.split_once(": ").map(|(_, sources)| sources).unwrap_or_default();
    !sources.is_empty()
        && sources
            .split_whitespace()
            .all(|source| newest(Path::new(source)).is_some_and(|changed| changed <= built))
}

/// When a file, or any file below a directory, was last changed; `None` when it is not there.
fn newest(path: &Path) -> Option<SystemTime> {
    let metadata = fs::metadata(path).ok()?;
    let own = metadata.modified().ok()?;
    if !metadata.is_dir() {
        return Some(own);
    }
    let entries = fs::read_dir(path).ok()?;
    entries.flatten().filter_map(|entry| newest(&entry.path())).chain([own]).max()
}

fn build(directory: &Path) {
    let mut command = Command::new(env!("CARGO"));
    // With this package, so that dependencies have the features that they have for it.
    command.args([
        "build",
        "--quiet",
        "--package",
        "jit-agent",
        "--package",
        "jit-tests",
        "--bins",
    ]);
    command.arg("--target-dir").arg(directory.parent().expect("a target directory"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    if directory.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().unwrap_or_else(|error| {
        panic!(
            "{} has no current jit-agent and jitctl, and cargo cannot be started to build them: \
             {error}; run `cargo build --package jit-agent --bins` first",
            directory.display()
        )
    });
    assert!(status.success(), "cannot build jit-agent and jitctl: {status}");
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::Duration};

    use super::*;

    #[test]
    fn a_program_is_current_until_a_source_changes_or_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("sources")).unwrap();
        let now = SystemTime::now();
        let write = |name: &str, text: &str, age: u64| {
            fs::write(path(name), text).unwrap();
            let changed = now - Duration::from_secs(age);
            File::options().write(true).open(path(name)).unwrap().set_modified(changed).unwrap();
        };
        write("main.rs", "", 60);
        write("sources/lib.rs", "", 60);
        let sources = File::open(path("sources")).unwrap();
        sources.set_modified(now - Duration::from_secs(60)).unwrap();
        write("program", "", 30);
        let program = path("program");
        assert!(!is_current(&program), "no list of sources");
        let list = [path("program"), path("main.rs"), path("sources")];
        let [program_name, main, sources] = list.each_ref().map(|path| path.display());
        write("program.d", &format!("{program_name}: {main} {sources}\n"), 30);
        assert!(is_current(&program));
        write("sources/lib.rs", "changed", 10);
        assert!(!is_current(&program), "changed below a directory");
        write("sources/lib.rs", "changed", 60);
        fs::remove_file(path("main.rs")).unwrap();
        assert!(!is_current(&program), "a source is gone");
        fs::remove_file(&program).unwrap();
        assert!(!is_current(&program), "there is no program");
    }
}
