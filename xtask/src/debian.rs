//! Finds Debian's archive through this machine's apt, for a second apt that has lists of its own.
//! No address of an archive is written here. The machine's apt is not changed.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::shell;

/// The format in which apt lists the machine's archives.
const FORMAT: &str = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
/// The file with the keys that sign Debian's archive. It has had these two names.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Addresses of the archives from which this machine gets Debian's packages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Archives {
    /// The archive itself.
    main: String,
    /// The archive of security updates, if the machine has one as a source.
    security: Option<String>,
}

impl Archives {
    /// Finds the machine's archives. Asks apt to fetch its lists if it has none yet.
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

    /// Picks Debian's archives out of apt's list in [`FORMAT`]. `None`: the machine has only other
    /// archives, or has never fetched its lists.
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

    /// A list of sources with these suites of the archive, and these of its security updates.
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

/// The machine's settings for downloads, such as its proxy, as a configuration for apt.
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
