//! Debian's archive as this machine's apt knows it, for an apt that runs with lists of its own
//! beside the machine's. No address of an archive is written here, and nothing of the machine's
//! apt is changed.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::shell;

/// How apt is asked to list the archives of the machine.
const FORMAT: &str = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
/// Where the keys that Debian signs its archive with are, by the two names that it had.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Where Debian's packages come from on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Archives {
    /// The archive itself.
    main: String,
    /// Its security updates, where the machine takes them from an archive of their own.
    security: Option<String>,
}

impl Archives {
    /// The machine's archives; asks apt to fetch its lists when it has none yet.
    pub(crate) fn find() -> Result<Self> {
        let ask = || {
            let arguments = ["indextargets", "--format", FORMAT, "Created-By: Packages"];
            Self::read(&shell::answer(&mut shell::program("apt-get", arguments))?)
        };
        if let Some(archives) = ask() {
            return Ok(archives);
        }
        let update = shell::program("apt-get", ["update"]);
        let mut update = shell::as_root("apt has no lists of packages yet", update)?;
        shell::long("apt-get update", &mut update)?;
        ask().context("no archive of Debian is among apt's sources")
    }

    /// Picks Debian's archives out of what apt lists in [`FORMAT`]. `None` without one: then the
    /// machine has other archives, or has never fetched its lists.
    fn read(listed: &str) -> Option<Self> {
        let of = |wanted: &str| {
            listed.lines().find_map(|line| {
                let mut fields = line.trim().split('|');
                let debian = fields.next() == Some("Debian") && fields.next() == Some(wanted);
                fields.next().filter(|uri| debian && !uri.is_empty()).map(str::to_owned)
            })
        };
        Some(Self { main: of("Debian")?, security: of("Debian-Security") })
    }

    /// A list of sources: these suites of the archive, and these of its security updates.
    pub(crate) fn sources(&self, suites: &[&str], security: &[&str]) -> Result<String> {
        let keyring = KEYRINGS
            .iter()
            .find(|path| Path::new(path).exists())
            .context("Debian's keyring is missing: install the package debian-archive-keyring")?;
        let line = |archive: &str, suite: &&str| {
            format!("deb [signed-by={keyring}] {archive} {suite} main\n")
        };
        let main = suites.iter().map(|suite| line(&self.main, suite));
        let updates = self
            .security
            .iter()
            .flat_map(|archive| security.iter().map(move |suite| line(archive, suite)));
        Ok(main.chain(updates).collect())
    }
}

/// How this machine fetches: its proxy, and what it thinks of old lists. As apt's configuration.
pub(crate) fn acquisition() -> String {
    let dump = shell::answer(&mut shell::program("apt-config", ["dump"])).unwrap_or_default();
    dump.lines()
        .filter(|line| line.starts_with("Acquire::") && !line.contains("::IndexTargets"))
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_archives_are_found_among_others() {
        let listed = "Google, Inc.|x|https://example.org/apt/\n\
                      Debian|Debian|http://mirror.example.net/debian/\n\
                      Debian|Debian|http://other.example.net/debian/\n\
                      Debian|Debian-Security|http://mirror.example.net/debian-security/\n";
        let expected = Archives {
            main: "http://mirror.example.net/debian/".to_owned(),
            security: Some("http://mirror.example.net/debian-security/".to_owned()),
        };
        assert_eq!(Archives::read(listed), Some(expected));
        let alone = Archives::read("Debian|Debian|http://mirror.example.net/debian/\n");
        assert_eq!(alone.and_then(|archives| archives.security), None);
        assert_eq!(Archives::read(""), None);
        assert_eq!(Archives::read("Ubuntu|Ubuntu|http://mirror.example.net/ubuntu/"), None);
    }
}
