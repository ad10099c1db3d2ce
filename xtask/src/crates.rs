//! Compares the dependencies that cargo resolves with those that each crate must never have.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The dependencies that one crate must not have, with its default features. The rule is also for
/// its build script.
struct Rule {
    /// The crate.
    of: &'static str,
    never: Never,
}

enum Never {
    /// Every crate outside of the workspace.
    Outside,
    /// `anywhere`: neither directly nor through other crates. `directly`: not in its manifest.
    These { anywhere: &'static [&'static str], directly: &'static [&'static str] },
}

/// Crates for the kernel's side and for the agent's database.
const OF_THE_AGENT: &[&str] = &["aya", "aya-build", "aya-obj", "jit-agent", "redb"];

/// Crates of the controller: databases, rules, web clients, clients of message brokers, key devices; and
/// others of these kinds. None of them may run with the agent's rights: what it asks over HTTP it asks
/// with hyper.
const NOT_FOR_THE_AGENT: &[&str] = &[
    "async-nats",
    "attohttpc",
    "cedar-policy",
    "cryptoki",
    "curl",
    "hyper-rustls",
    "isahc",
    "jit-controller",
    "lapin",
    "minreq",
    "nkeys",
    "rdkafka",
    "reqwest",
    "rumqttc",
    "sqlx",
    "sqlx-core",
    "surf",
    "ureq",
];

const RULES: &[Rule] = &[
    Rule { of: "jit-common", never: Never::Outside },
    Rule {
        of: "jit-agent-ebpf",
        never: Never::These { anywhere: &["jit-agent", "jit-proto"], directly: &[] },
    },
    Rule { of: "jit-proto", never: Never::These { anywhere: OF_THE_AGENT, directly: &["tokio"] } },
    Rule { of: "jit-client", never: Never::These { anywhere: OF_THE_AGENT, directly: &["clap"] } },
    // Neither knows the other's program. They share the wire, and what a client of the agent needs.
    Rule { of: "jit-agent", never: Never::These { anywhere: NOT_FOR_THE_AGENT, directly: &[] } },
    Rule { of: "jit-controller", never: Never::These { anywhere: OF_THE_AGENT, directly: &[] } },
    Rule { of: "jitctl", never: Never::These { anywhere: OF_THE_AGENT, directly: &[] } },
];

/// A crate as `cargo tree` names it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dependency<'a> {
    name: &'a str,
    /// 0: the crate itself. 1: a crate that its manifest names.
    depth: usize,
    /// Part of the workspace.
    own: bool,
}

/// Fails with a list of all forbidden dependencies.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for Rule { of, never } in RULES {
        let tree = ["tree", "--edges", "normal,build", "--prefix", "depth"];
        let mut tree = shell::cargo(tree);
        match shell::quiet(tree.args(["--package", of])) {
            Ok(output) => {
                let printed = String::from_utf8(output.stdout).context("what cargo tree prints")?;
                let found = broken(never, &dependencies(&printed)?);
                wrong.extend(found.into_iter().map(|what| format!("{of} depends on {what}")));
            }
            Err(error) => wrong.push(format!("{of}: {error}")),
        }
    }
    if wrong.is_empty() {
        println!("  {} crates keep to what they may depend on", RULES.len());
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

/// The dependencies that a rule forbids, each once.
fn broken<'a>(never: &Never, dependencies: &[Dependency<'a>]) -> BTreeSet<&'a str> {
    let forbidden = |found: &&Dependency<'a>| match never {
        Never::Outside => !found.own,
        Never::These { anywhere, directly } => {
            anywhere.contains(&found.name) || (found.depth == 1 && directly.contains(&found.name))
        }
    };
    let below = dependencies.iter().filter(|found| found.depth > 0);
    below.filter(forbidden).map(|found| found.name).collect()
}

/// Reads what `cargo tree --prefix depth` prints: `1aya v0.14.0 (*)`.
fn dependencies(printed: &str) -> Result<Vec<Dependency<'_>>> {
    let read = |line| dependency(line).with_context(|| format!("cargo tree printed {line:?}"));
    printed.lines().filter(|line| !line.is_empty()).map(read).collect()
}

fn dependency(line: &str) -> Option<Dependency<'_>> {
    let name_at = line.find(|c: char| !c.is_ascii_digit())?;
    let (depth, rest) = line.split_at_checked(name_at)?;
    let (name, source) = rest.split_once(' ')?;
    // A crate with a path is part of the workspace: all others come from registries.
    Some(Dependency { name, depth: depth.parse().ok()?, own: source.contains("(/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0jitctl v0.1.0 (/clone/jit-agent/jitctl)\n\
                        1clap v4.6.0\n\
                        2clap_derive v4.6.0 (proc-macro)\n\
                        1jit-client v0.1.0 (/clone/jit-agent/client)\n\
                        2tokio v1.49.0\n\
                        3aya v0.14.0\n\
                        2clap v4.6.0 (*)\n";

    fn broken_by(never: &Never) -> Vec<&'static str> {
        broken(never, &dependencies(TREE).unwrap()).into_iter().collect()
    }

    #[test]
    fn a_forbidden_crate_is_found_however_deep() {
        let never = Never::These { anywhere: OF_THE_AGENT, directly: &[] };
        assert_eq!(broken_by(&never), ["aya"]);
        let never = Never::These { anywhere: &["redb", "jitctl"], directly: &[] };
        assert!(broken_by(&never).is_empty(), "a crate is not its own dependency");
    }

    #[test]
    fn what_is_forbidden_in_the_manifest_may_come_through_others() {
        let never = |directly| Never::These { anywhere: &[], directly };
        assert_eq!(broken_by(&never(&["clap"])), ["clap"]);
        assert!(broken_by(&never(&["tokio"])).is_empty());
    }

    #[test]
    fn a_crate_without_dependencies_has_only_those_of_the_workspace() {
        assert_eq!(broken_by(&Never::Outside), ["aya", "clap", "clap_derive", "tokio"]);
        let alone = dependencies("0jit-common v0.1.0 (/clone/jit-common)\n").unwrap();
        assert!(broken(&Never::Outside, &alone).is_empty());
    }

    #[test]
    fn the_agent_and_the_controller_are_found_in_each_other() {
        let never = |of: &str| {
            let rule = RULES.iter().find(|rule| rule.of == of).unwrap();
            move |tree| broken(&rule.never, &dependencies(tree).unwrap())
        };
        let tree = "0jit-agent v0.1.0 (/clone/jit-agent)\n\
                    1jit-client v0.1.0 (/clone/jit-agent/client)\n\
                    2cryptoki v0.12.1\n2reqwest v0.13.5\n1tokio v1.54.1\n\
                    1jit-controller v0.1.0 (/clone/jit-agent/controller)\n\
                    2cedar-policy v4.14.1\n2sqlx v0.9.0\n";
        let found = never("jit-agent")(tree);
        let expected = ["cedar-policy", "cryptoki", "jit-controller", "reqwest", "sqlx"];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        let tree = "0jit-controller v0.1.0 (/clone/jit-agent/controller)\n1sqlx v0.9.0\n\
                    1jit-agent v0.1.0 (/clone/jit-agent)\n2aya v0.14.0\n2redb v4.6.0\n";
        let found = never("jit-controller")(tree);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["aya", "jit-agent", "redb"]);
    }

    #[test]
    fn what_is_no_line_of_a_tree_is_an_error() {
        assert!(dependencies("error: no such crate\n").is_err());
        assert!(dependencies("").unwrap().is_empty());
    }
}
