//! The bill of materials (CycloneDX): which crates are in which program. Build tools and what only
//! tests use are not in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    contents::{Carried, Package},
    release::Release,
};
use crate::shell;

/// Writes a list for each program into `out`, and returns their paths. The tool writes beside each
/// manifest: so it works in a copy of the last commit, in `scratch`.
pub(super) fn write(release: &Release, scratch: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let copy = scratch.join("components");
    export(&copy)?;
    let target = release.target;
    let mut list = shell::cargo(["cyclonedx", "--format", "json", "--describe", "binaries"]);
    list.args(["--spec-version", "1.5", "--no-build-deps", "--all-features"]);
    list.args(["--target", target.triple()]);
    list.arg("--manifest-path").arg(copy.join("Cargo.toml"));
    list.env("SOURCE_DATE_EPOCH", release.epoch.to_string()).current_dir(&copy);
    shell::long("listing the crates of each program", &mut list)?;
    let mut written = Vec::new();
    for package in release.packages() {
        for Carried { name, directory } in package.carries {
            let found = copy.join(directory).join(format!("{name}_bin.cdx.json"));
            let text = fs::read_to_string(&found).with_context(|| {
                format!("reading what cargo cyclonedx wrote: {}", found.display())
            })?;
            let text = only(&text, &crates(release, package, name)?)
                .with_context(|| format!("the list of crates of {name}"))?;
            let text = without_directory(&text, &copy);
            ensure!(names_crates(&text), "the list of crates of {name} is empty");
            let file = out.join(format!("{name}-{}-{}.cdx.json", release.version, target.label()));
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            written.push(file);
        }
    }
    Ok(written)
}

/// Names and versions of the crates in a program, which is built by itself: `aya 0.14.0`.
fn crates(release: &Release, package: &Package, name: &str) -> Result<BTreeSet<String>> {
    let mut tree = shell::cargo(["tree", "--locked", "--edges", "normal", "--prefix", "none"]);
    tree.args(["--package", name, "--target", release.target.triple()]);
    if name == package.name {
        tree.args(release.features(package));
    }
    let printed = String::from_utf8(shell::quiet(&mut tree)?.stdout).context("cargo tree")?;
    let named = printed.lines().filter_map(|line| line.split_once(" v"));
    let version = |rest: &str| rest.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(named.map(|(name, rest)| format!("{name} {}", version(rest))).collect())
}

/// Leaves only these crates in a list. The tool lists what any crate of the workspace asks for, because
/// that is what the lock file has.
fn only(list: &str, crates: &BTreeSet<String>) -> Result<String> {
    let mut list: Value = serde_json::from_str(list).context("reading the list")?;
    let text = |of: &Value, field: &str| of.get(field).and_then(Value::as_str).map(str::to_owned);
    let components = list.get_mut("components").and_then(Value::as_array_mut);
    let components = components.context("there are no components")?;
    let mut gone = BTreeSet::new();
    components.retain(|one| {
        let (name, version) = (text(one, "name"), text(one, "version"));
        let known = name
            .zip(version)
            .is_some_and(|(name, version)| crates.contains(&format!("{name} {version}")));
        if !known {
            gone.extend(text(one, "bom-ref"));
        }
        known
    });
    if let Some(edges) = list.get_mut("dependencies").and_then(Value::as_array_mut) {
        edges.retain(|one| text(one, "ref").is_none_or(|one| !gone.contains(&one)));
        for edge in edges {
            if let Some(on) = edge.get_mut("dependsOn").and_then(Value::as_array_mut) {
                on.retain(|one| one.as_str().is_none_or(|one| !gone.contains(one)));
            }
        }
    }
    Ok(serde_json::to_string_pretty(&list).context("writing the list")? + "\n")
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
    let list: Option<Value> = serde_json::from_str(list).ok();
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
    fn what_only_another_program_asks_for_is_not_in_the_list() {
        let list = r#"{"components": [
            {"bom-ref": "a", "name": "aya", "version": "0.14.0"},
            {"bom-ref": "r", "name": "reqwest", "version": "0.13.5"}
        ], "dependencies": [{"ref": "a", "dependsOn": ["r", "x"]}, {"ref": "r"}]}"#;
        let crates = BTreeSet::from(["aya 0.14.0".to_owned(), "reqwest 0.12.0".to_owned()]);
        let kept: Value = serde_json::from_str(&only(list, &crates).unwrap()).unwrap();
        assert_eq!(
            kept,
            serde_json::json!({
                "components": [{"bom-ref": "a", "name": "aya", "version": "0.14.0"}],
                "dependencies": [{"ref": "a", "dependsOn": ["x"]}],
            })
        );
        assert!(only("{}", &crates).is_err());
    }

    #[test]
    fn an_empty_list_is_noticed() {
        assert!(names_crates(r#"{"components": [{"name": "aya"}]}"#));
        for empty in [r#"{"components": []}"#, "{}", "", r#"{"components": 1}"#] {
            assert!(!names_crates(empty), "{empty}");
        }
    }
}
