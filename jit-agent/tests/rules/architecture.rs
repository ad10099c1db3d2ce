//! The tree is the architecture: who may import whom (docs/design.md, section "Layers").
//!
//! This is read from the `use` lines of every crate of the workspace, without tests. A module may
//! use its children and its parents. Between all other files there is no circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The layers of the agent, lowest first: a layer imports only from lower ones. Two on one line do
/// not import from each other.
const LAYERS: &[&[&str]] = &[
    &["rules"],
    &["system"],
    &["config"],
    &["kernel", "disk"],
    &["gate"],
    &["control"],
    // `check` reads the certificates that `control` serves with.
    &["oncall"],
    &["cli", "app"],
    &["main", "lib"],
];

/// Crates of the workspace, and the crates that their manifests must not name.
const NEVER: &[(&str, &[&str])] = &[
    ("jit-common", &["jit-proto", "jit-client", "jit-agent", "tokio", "redb", "serde", "tonic"]),
    ("jit-agent-ebpf", &["jit-proto", "jit-client", "jit-agent", "tokio", "redb", "aya", "serde"]),
    ("proto", &["tokio", "aya", "redb", "clap", "jit-client", "jit-agent"]),
    ("jit-agent", &["jitctl", "xtask", "jit-tests"]),
    ("jit-agent/client", &["clap", "aya", "redb", "jit-agent"]),
    ("jit-agent/controller", &["aya", "redb", "jit-agent", "jitctl"]),
    ("jit-agent/jitctl", &["aya", "redb", "jit-agent"]),
];

/// Directories of the crates' sources.
const SOURCES: &[&str] = &[
    "jit-common/src",
    "jit-agent-ebpf/src",
    "proto/src",
    "jit-agent/client/src",
    "jit-agent/controller/src",
    "jit-agent/jitctl/src",
    "jit-agent/src",
    "xtask/src",
    "tests/src",
];

/// A file of a crate, by its path below `src` without `.rs` and `/mod`: `gate/cut`.
type Module = String;

/// What the files of a crate import from each other.
#[derive(Default)]
struct Imports {
    /// Every file, with the paths of its `use` lines and of its `pub use` lines.
    files: BTreeMap<Module, Vec<Use>>,
}

/// One imported path: `crate::gate::Gate` is `["gate", "Gate"]`.
#[derive(Clone, Debug, PartialEq)]
struct Use {
    path: Vec<String>,
    exported: bool,
}

impl Imports {
    fn of(directory: &Path) -> Self {
        let mut imports = Self::default();
        for file in rust_files(directory) {
            let relative = file.strip_prefix(directory).unwrap().with_extension("");
            let name = relative.to_str().unwrap().trim_end_matches("/mod").to_owned();
            // An own program, which includes another one by path.
            if name.starts_with("bin/") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            imports.add(&name, &text);
        }
        assert!(imports.files.len() > 1, "{} has no sources", directory.display());
        imports
    }

    fn add(&mut self, name: &str, text: &str) {
        self.files.insert(name.to_owned(), uses(name, text));
    }

    /// The file that defines what a path names; re-exports are followed.
    fn target(&self, path: &[String]) -> Option<Module> {
        let deepest = (1..=path.len())
            .rev()
            .map(|length| path.get(..length).unwrap_or_default().join("/"))
            .find(|module| self.files.contains_key(module))?;
        let depth = deepest.split('/').count();
        let Some(item) = path.get(depth) else { return Some(deepest) };
        let exported = self.files.get(&deepest)?.iter().find(|one| {
            one.exported && one.path.last() == Some(item) && self.target_file(&one.path) != deepest
        });
        match exported {
            Some(one) => self.target(&one.path),
            None => Some(deepest),
        }
    }

    fn target_file(&self, path: &[String]) -> Module {
        (1..=path.len())
            .rev()
            .map(|length| path.get(..length).unwrap_or_default().join("/"))
            .find(|module| self.files.contains_key(module))
            .unwrap_or_default()
    }

    /// For each file the files that it imports from.
    fn edges(&self) -> BTreeMap<&str, BTreeSet<Module>> {
        let edges = self.files.iter().map(|(file, uses)| {
            let targets = uses.iter().filter_map(|one| self.target(&one.path));
            (file.as_str(), targets.filter(|target| target != file).collect())
        });
        edges.collect()
    }

    /// Each import of a layer from one that is not below it.
    fn crossings(&self) -> Vec<String> {
        let layer = |module: &str| {
            let top = module.split('/').next().unwrap_or_default();
            let rank = LAYERS.iter().position(|layer| layer.contains(&top));
            (top.to_owned(), rank.unwrap_or_else(|| panic!("{top} is no layer of LAYERS")))
        };
        let mut crossings = Vec::new();
        for (file, targets) in self.edges() {
            let (own, rank) = layer(file);
            for target in &targets {
                let (other, below) = layer(target);
                let program = own == "main" || own == "lib";
                if other != own && below >= rank && !program {
                    crossings.push(format!("{file} imports {target}"));
                }
            }
        }
        crossings
    }

    /// A circle of files. A module and its children count as one file.
    fn circle(&self) -> Option<Vec<String>> {
        let inside = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
                || matches!(other, "lib" | "main")
        };
        let all = self.edges();
        let edges: BTreeMap<&str, Vec<&str>> = all
            .iter()
            .map(|(file, targets)| {
                let others = targets.iter().map(String::as_str);
                (*file, others.filter(|to| !inside(file, to) && !inside(to, file)).collect())
            })
            .collect();
        // Files that import from no remaining file are removed, again and again.
        let mut left = edges;
        loop {
            let ends: BTreeSet<&str> = left
                .iter()
                .filter(|(_, to)| to.iter().all(|to| !left.contains_key(to)))
                .map(|(file, _)| *file)
                .collect();
            if ends.is_empty() {
                break;
            }
            left.retain(|file, _| !ends.contains(file));
        }
        let mut file = *left.keys().next()?;
        let mut seen = vec![file.to_owned()];
        loop {
            file = left.get(file)?.iter().find(|to| left.contains_key(*to))?;
            seen.push(file.to_owned());
            if seen.iter().filter(|one| *one == file).count() > 1 {
                let start = seen.iter().position(|one| one == file)?;
                return Some(seen.split_off(start));
            }
        }
    }
}

/// Paths that a file imports from its own crate, also those written where they are used. The file's
/// tests are left out.
fn uses(name: &str, text: &str) -> Vec<Use> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for statement in code.split(';') {
        let start = statement.rfind("use ").filter(|at| {
            let before = statement.get(..*at).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default().trim();
            line.is_empty() || line.starts_with("pub")
        });
        let Some(start) = start else { continue };
        let exported = statement
            .get(..start)
            .unwrap_or_default()
            .rsplit('\n')
            .next()
            .is_some_and(|line| line.trim_start().starts_with("pub"));
        let tree: String = statement.get(start + 4..).unwrap_or_default().split_whitespace().fold(
            String::new(),
            |out, word| match word {
                "as" => out + " as ",
                word => out + word,
            },
        );
        for path in leaves(&tree) {
            found.extend(absolute(name, &path).map(|path| Use { path, exported }));
        }
    }
    for (at, _) in code.match_indices("crate::") {
        let rest = code.get(at..).unwrap_or_default();
        let end = rest.find(|letter: char| !(letter.is_alphanumeric() || ":_".contains(letter)));
        let path = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default().trim_end_matches(':');
        found.extend(absolute(name, path).map(|path| Use { path, exported: false }));
    }
    found
}

/// Every path of a `use` tree.
fn leaves(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.trim_end_matches("::self").to_owned()];
    };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let mut parts = vec![String::new()];
    let mut depth = 0_u32;
    for letter in inner.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts
        .flat_map(|part| match part.as_str() {
            "self" => vec![head.trim_end_matches("::").to_owned()],
            part => leaves(&format!("{head}{part}")),
        })
        .collect()
}

/// A path from the root of the crate, if it is one of the crate's own.
fn absolute(file: &str, path: &str) -> Option<Vec<String>> {
    let mut segments: Vec<&str> = path.split("::").collect();
    let own: Vec<&str> = file.split('/').filter(|part| !matches!(*part, "lib" | "main")).collect();
    let (root, skip) = match *segments.first()? {
        "crate" => (Vec::new(), 1),
        "self" => (own, 1),
        "super" => {
            let ups = segments.iter().take_while(|part| **part == "super").count();
            (own.get(..own.len().checked_sub(ups)?)?.to_vec(), ups)
        }
        _ => return None,
    };
    let rest = segments.split_off(skip);
    Some(root.into_iter().chain(rest).map(str::to_owned).collect())
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn no_layer_imports_from_one_that_is_not_below_it() {
    let agent = Imports::of(&workspace().join("jit-agent/src"));
    assert_eq!(agent.crossings(), Vec::<String>::new());
}

#[test]
fn an_import_across_the_layers_is_found() {
    let mut agent = Imports::of(&workspace().join("jit-agent/src"));
    let file = workspace().join("jit-agent/src/rules/policy.rs");
    let text = fs::read_to_string(file).unwrap();
    for (line, target) in [
        ("use crate::disk::store::Store;\n", "disk/store"),
        ("use crate::{kernel::{datapath::{self, Datapath}}};\n", "kernel/datapath"),
        ("fn f() { crate::system::sys::now(); }\n", "system/sys"),
    ] {
        agent.add("rules/policy", &format!("{line}{text}"));
        let found = agent.crossings();
        assert!(found.iter().any(|one| one.contains(target)), "{line}: {found:?}");
    }
    agent.add("rules/policy", &text);
    assert_eq!(agent.crossings(), Vec::<String>::new());
}

#[test]
fn no_crate_has_a_circle_among_its_files() {
    for directory in SOURCES {
        let circle = Imports::of(&workspace().join(directory)).circle();
        assert_eq!(circle, None, "{directory}: each of these imports from the next");
    }
}

#[test]
fn a_circle_is_found_also_through_a_re_export() {
    let mut imports = Imports::default();
    imports.add("a", "pub use self::x::X;\nmod x;");
    imports.add("a/x", "use crate::b::{Y, z::Z};");
    imports.add("b", "use crate::c::C;");
    imports.add("b/z", "");
    imports.add("c", "");
    assert_eq!(imports.circle(), None);
    imports.add("c", "use crate::a::X;");
    let circle = imports.circle().unwrap();
    assert_eq!(circle.len(), 4, "{circle:?}");
    assert!(["a/x", "b", "c"].iter().all(|file| circle.iter().any(|one| one == file)));
}

#[test]
fn a_crate_depends_on_none_that_it_must_not() {
    for (krate, never) in NEVER {
        let manifest = fs::read_to_string(workspace().join(krate).join("Cargo.toml")).unwrap();
        let named = forbidden(&manifest, never);
        assert!(named.is_empty(), "{krate}/Cargo.toml names {named:?}");
    }
    let manifest = "[dependencies]\naya = { workspace = true }\n[dev-dependencies]\nclap = \"1\"\n";
    assert_eq!(forbidden(manifest, &["aya", "clap", "redb"]), ["aya"]);
}

/// Those of `never` that a manifest's dependencies name, other than optional ones and for tests.
fn forbidden<'a>(manifest: &str, never: &[&'a str]) -> Vec<&'a str> {
    let mut section = "";
    let mut named = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some((name, value)) = line.split_once(" = ") else { continue };
        let counts = section == "[dependencies]" && !value.contains("optional = true");
        named.extend(never.iter().filter(|never| counts && **never == name));
    }
    named
}
