//! The bill of materials (CycloneDX): which crates are in which program. Build tools and what only
//! tests use are not in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{release::Release, target::Target};
use crate::shell;

/// The programs, and the directories of their crates. The agent carries the kernel programs.
const PROGRAMS: [(&str, &str); 3] = [
    ("jit-agent", "jit-agent"),
    ("jit-agent-ebpf", "jit-agent-ebpf"),
    ("jitctl", "jit-agent/jitctl"),
];

/// Writes a list for each program into `out`, and returns their paths. The tool writes beside each
/// manifest: so it works in a copy of the last commit, in `scratch`.
pub(super) fn write(
    release: &Release,
    target: Target,
    scratch: &Path,
    out: &Path,
) -> Result<Vec<PathBuf>> {
    let copy = scratch.join("components");
    export(&copy)?;
    let mut list = shell::cargo(["cyclonedx", "--format", "json", "--describe", "binaries"]);
    list.args(["--spec-version", "1.5", "--no-build-deps", "--target", target.triple()]);
    list.arg("--manifest-path").arg(copy.join("Cargo.toml"));
    list.env("SOURCE_DATE_EPOCH", release.epoch.to_string()).current_dir(&copy);
    shell::long("listing the crates of each program", &mut list)?;
    let mut written = Vec::new();
    for (program, directory) in PROGRAMS {
        let found = copy.join(directory).join(format!("{program}_bin.cdx.json"));
        let text = fs::read_to_string(&found)
            .with_context(|| format!("reading what cargo cyclonedx wrote: {}", found.display()))?;
        let text = without_directory(&text, &copy);
        ensure!(names_crates(&text), "the list of crates of {program} is empty");
        let file = out.join(format!("{program}-{}-{}.cdx.json", release.version, target.label()));
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        written.push(file);
    }
    Ok(written)
}

/// Unpacks the last commit into a new directory.
fn export(copy: &Path) -> Result<()> {
    fs::create_dir_all(copy).with_context(|| format!("making {}", copy.display()))?;
    let archive = copy.with_extension("tar");
    let mut git = shell::program("git", ["archive", "--format=tar", "--output"]);
    git.arg(&archive).arg("HEAD");
    shell::quiet(git.current_dir(shell::root()))?;
    let mut tar = shell::program("tar", ["--extract", "--file"]);
    shell::quiet(tar.arg(&archive).arg("--directory").arg(copy))?;
    fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))
}

/// The crates of the workspace are named by their directories: this takes out where it was.
fn without_directory(list: &str, copy: &Path) -> String {
    list.replace(&format!("file://{}", copy.display()), "file:///jit-agent")
}

fn names_crates(list: &str) -> bool {
    let list: Option<serde_json::Value> = serde_json::from_str(list).ok();
    let components = list.as_ref().and_then(|list| list.get("components")?.as_array());
    components.is_some_and(|components| !components.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_the_copy_is_not_in_the_list() {
        let list = r#"{"bom-ref": "path+file:///tmp/x/jit-common#0.1.0"}"#;
        let expected = r#"{"bom-ref": "path+file:///jit-agent/jit-common#0.1.0"}"#;
        assert_eq!(without_directory(list, Path::new("/tmp/x")), expected);
    }

    #[test]
    fn an_empty_list_is_noticed() {
        assert!(names_crates(r#"{"components": [{"name": "aya"}]}"#));
        for empty in [r#"{"components": []}"#, "{}", "", r#"{"components": 1}"#] {
            assert!(!names_crates(empty), "{empty}");
        }
    }
}
