//! What the product takes from outside: licences, sources, withdrawn crates and known vulnerabilities, by
//! cargo-deny and `deny.toml`.
//!
//! Vulnerabilities need RustSec's database, by git. Where that cannot be reached they are not checked,
//! and the summary says so. Which crates are withdrawn is in the registry's index, which every build
//! needs: that is always checked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{setup, shell};

/// Longest time to fetch the database, in seconds. A firewall may drop packets silently.
const PATIENCE: &str = "60";
/// Stands for an address in the configuration of a database without advisories: git replaces it.
const NOWHERE: &str = "https://advisories.invalid/none";
/// An advisory about no crate: a database without any is refused.
const ABOUT_NOTHING: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2000-0000\"\npackage = \"none\"\n\
                             date = \"2000-01-01\"\n\n[versions]\npatched = [\">= 0.0.1\"]\n```\n\n# None\n";

/// Checks licences, sources, and what must not be among the dependencies.
pub(crate) fn licences() -> Result<()> {
    shell::visible(&mut deny(&[
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))
}

/// Checks withdrawn crates and known vulnerabilities. Returns a note if there is no database of these.
pub(crate) fn advisories() -> Result<Option<String>> {
    // Reads the index again for each locked crate, and changes nothing.
    shell::quiet(&mut shell::cargo(["update", "--dry-run"]))?;
    let mut fetch = shell::program("timeout", [PATIENCE]);
    fetch.arg(setup::deny()).args(["fetch", "db"]).current_dir(shell::root());
    let Err(error) = shell::quiet(fetch.env("GIT_TERMINAL_PROMPT", "0")) else {
        let check = ["--locked", "check", "--disable-fetch", "advisories"];
        return shell::visible(&mut deny(&check)).map(|()| None);
    };
    withdrawn()?;
    Ok(Some(no_database(&format!("{error:#}"))))
}

/// What the summary says.
fn no_database(error: &str) -> String {
    let last = error.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("no reason");
    format!(
        "known vulnerabilities were NOT CHECKED: there is no database of them here ({last}). Elsewhere: \
         cargo deny check advisories"
    )
}

/// Withdrawn crates only: the same check, with a database that knows nothing.
fn withdrawn() -> Result<()> {
    let place = std::path::absolute(shell::target().join("setup/no-advisories"))?;
    let (configuration, database) = lay_out(&place)?;
    let mut check = deny(&["--locked", "--config"]);
    check.arg(configuration).args(["check", "advisories"]);
    check.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_VALUE_0", NOWHERE);
    check.env("GIT_CONFIG_KEY_0", format!("url.file://{}.insteadOf", database.display()));
    // Not visible: it says that advisories are well.
    shell::quiet(&mut check).context("a crate is withdrawn, or the index cannot be read")?;
    println!("  no crate is withdrawn");
    Ok(())
}

/// Makes the database without advisories anew. Returns the configuration that names it, and its directory.
fn lay_out(place: &Path) -> Result<(PathBuf, PathBuf)> {
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("emptying {}", place.display()))?;
    }
    let database = place.join("database");
    let advisory = database.join("crates/none/RUSTSEC-2000-0000.md");
    let parent = advisory.parent().context("it has a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    fs::write(&advisory, ABOUT_NOTHING).context("writing an advisory about nothing")?;
    for arguments in [
        &["init", "--quiet", "--initial-branch", "main"][..],
        &["add", "."],
        &["-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "--quiet", "-m", "None"],
    ] {
        shell::quiet(shell::program("git", arguments).current_dir(&database))?;
    }
    let own = shell::root().join("deny.toml");
    let own = fs::read_to_string(&own).with_context(|| own.display().to_string())?;
    let configuration = place.join("deny.toml");
    let text = without_database(&own, &place.join("copies"));
    fs::write(&configuration, text).context("writing a configuration of cargo-deny")?;
    Ok((configuration, database))
}

/// The configuration with [`NOWHERE`] as its database, whose copy is in this directory.
fn without_database(own: &str, copies: &Path) -> String {
    let of_database = format!(
        "[advisories]\ndb-urls = [\"{NOWHERE}\"]\ndb-path = {:?}\ngit-fetch-with-cli = true\n",
        copies.display().to_string()
    );
    own.replacen("[advisories]\n", &of_database, 1)
}

fn deny(arguments: &[&str]) -> Command {
    let mut deny = shell::program(setup::deny(), arguments);
    deny.current_dir(shell::root());
    deny
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_without_database_keeps_what_is_denied() {
        let own = fs::read_to_string(shell::root().join("deny.toml")).unwrap();
        let made = without_database(&own, Path::new("/clone/copies"));
        let section = made.split("[advisories]\n").nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        for line in [
            &format!("db-urls = [\"{NOWHERE}\"]"),
            "db-path = \"/clone/copies\"",
            "yanked = \"deny\"",
        ] {
            assert!(section.contains(line), "{line} is not in\n{section}");
        }
    }

    #[test]
    fn the_summary_says_that_there_was_no_database_and_why() {
        let said = no_database("`cargo-deny fetch db` failed:\nfatal: Could not resolve host\n\n");
        assert!(said.contains("NOT CHECKED"), "{said}");
        assert!(said.contains("(fatal: Could not resolve host)"), "{said}");
    }
}
