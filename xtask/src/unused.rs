//! Finds dependencies that a manifest names and no source uses. Each of them costs time in every
//! build and every review.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;

/// Dependencies that only code from a build script uses. That code is not among the sources.
const GENERATED: &[(&str, &str)] = &[("jit-proto", "prost"), ("jit-proto", "tonic-prost")];

/// The files of a crate, by the kind of dependency that they may use.
const NORMAL: &[&str] = &["src"];
const BUILD: &[&str] = &["build.rs"];
const DEVELOPMENT: &[&str] = &["src", "tests", "benches", "examples"];

/// A dependency in a manifest.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    package: String,
    directory: PathBuf,
    dependency: String,
    /// Files and directories of the package that may use the dependency.
    places: &'static [&'static str],
}

/// Fails with every unused dependency of the workspace.
pub(crate) fn check() -> Result<()> {
    let metadata = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let printed = shell::quiet(&mut shell::cargo(metadata))?.stdout;
    let metadata = serde_json::from_slice(&printed).context("what cargo metadata prints")?;
    let named = named(&metadata).context("cargo metadata lists no dependencies")?;
    let mut unused = Vec::new();
    for Named { package, directory, dependency, places } in &named {
        if GENERATED.contains(&(package.as_str(), dependency.as_str())) {
            continue;
        }
        let mut code = String::new();
        for place in *places {
            read(&directory.join(place), &mut code)?;
        }
        if !uses(&code, &dependency.replace('-', "_")) {
            unused.push(format!("{package} does not use {dependency}"));
        }
    }
    if unused.is_empty() {
        println!("  all {} dependencies of the workspace's crates are used", named.len());
        return Ok(());
    }
    bail!("{}", unused.join("\n"))
}

/// All dependencies of the workspace's own packages.
fn named(metadata: &Value) -> Option<Vec<Named>> {
    let mut named = Vec::new();
    for package in metadata.get("packages")?.as_array()? {
        let manifest = Path::new(package.get("manifest_path")?.as_str()?);
        for dependency in package.get("dependencies")?.as_array()? {
            let text = |key: &str| dependency.get(key).and_then(Value::as_str);
            named.push(Named {
                package: package.get("name")?.as_str()?.to_owned(),
                directory: manifest.parent()?.to_owned(),
                dependency: text("rename").or_else(|| text("name"))?.to_owned(),
                places: match text("kind") {
                    None => NORMAL,
                    Some("build") => BUILD,
                    Some(_) => DEVELOPMENT,
                },
            });
        }
    }
    Some(named)
}

/// Appends a file, or all Rust files below a directory. A path that does not exist has no code.
fn read(path: &Path, code: &mut String) -> Result<()> {
    let reading = || format!("reading {}", path.display());
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(reading)? {
            let entry = entry.with_context(reading)?.path();
            if entry.is_dir() || entry.extension().is_some_and(|extension| extension == "rs") {
                read(&entry, code)?;
            }
        }
    } else if path.exists() {
        code.push_str(&fs::read_to_string(path).with_context(reading)?);
        code.push('\n');
    }
    Ok(())
}

/// Whether the name of a crate is a word in the code, outside of comments.
fn uses(code: &str, name: &str) -> bool {
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut words = code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crate_is_used_where_its_name_is_a_word_of_the_code() {
        assert!(uses("use serde::Serialize;", "serde"));
        assert!(uses("    aya_log::init();", "aya_log"));
        assert!(!uses("use serde_json::json;", "serde"));
        assert!(!uses("// serde would do it\n    /// as `serde` does", "serde"));
    }

    #[test]
    fn every_kind_of_dependency_has_its_places() {
        let dependency = |name, kind| json!({ "name": name, "kind": kind, "rename": null });
        let metadata = json!({ "packages": [{
            "name": "one",
            "manifest_path": "/clone/one/Cargo.toml",
            "dependencies": [
                dependency("aya", json!(null)),
                dependency("aya-build", json!("build")),
                dependency("tempfile", json!("dev")),
                { "name": "hyper", "kind": null, "rename": "http" },
            ],
        }] });
        let found = named(&metadata).unwrap();
        let found: Vec<_> =
            found.iter().map(|named| (named.dependency.as_str(), named.places)).collect();
        let expected =
            [("aya", NORMAL), ("aya-build", BUILD), ("tempfile", DEVELOPMENT), ("http", NORMAL)];
        assert_eq!(found, expected);
        assert_eq!(named(&json!({})), None);
    }

    #[test]
    fn sources_below_a_directory_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("src/a");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("b.rs"), "use glob::glob;").unwrap();
        fs::write(below.join("c.txt"), "use toml::Value;").unwrap();
        let mut code = String::new();
        read(&directory.path().join("src"), &mut code).unwrap();
        read(&directory.path().join("benches"), &mut code).unwrap();
        assert!(uses(&code, "glob"));
        assert!(!uses(&code, "toml"));
    }
}
