//! Packages for a machine that already has some from Debian's backports. The release's own packages
//! may be too old to work with those, and apt would remove them. So the missing packages come from
//! backports, too. A second apt with sources and lists of its own installs them: the machine's apt
//! does not change.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{debian, shell};

const OS_RELEASE: &str = "/etc/os-release";
/// Debian's mark in the version of a package that was built for an older release.
const MARK: &str = "~bpo";

/// The packages that apt would remove for an installation, by the output of `apt-get --simulate`.
pub(super) fn removed(simulated: &str) -> Vec<String> {
    let lines = simulated.lines().filter_map(|line| line.strip_prefix("Remv "));
    lines.map(str::to_owned).collect()
}

/// Whether one of them, with its version, is from backports.
pub(super) fn from_backports(removed: &[String]) -> bool {
    removed.iter().any(|package| package.contains(MARK))
}

/// The command that installs from the release and its backports. Backports come first.
pub(super) fn command() -> Result<Command> {
    let os = fs::read_to_string(OS_RELEASE).with_context(|| format!("reading {OS_RELEASE}"))?;
    let release = codename(&os)
        .with_context(|| format!("{OS_RELEASE} names no release of Debian (VERSION_CODENAME)"))?;
    let backports = format!("{release}-backports");
    let configuration = configure(release, &backports)?;
    let apt = |arguments: &[&str]| {
        let mut apt = shell::program("apt-get", arguments);
        apt.env("APT_CONFIG", &configuration);
        apt
    };
    let reason = format!("listing the packages of {backports}");
    let mut update = shell::as_root(&reason, apt(&["update", "--error-on=any"]))?;
    shell::long(&reason, &mut update)?;
    Ok(apt(&["--target-release", &backports]))
}

/// Writes the configuration of an apt that installs into this machine, with its own sources.
fn configure(release: &str, backports: &str) -> Result<PathBuf> {
    let directory = shell::target().join("setup/apt");
    let lists = directory.join("lists");
    fs::create_dir_all(lists.join("partial"))
        .with_context(|| format!("making {}", lists.display()))?;
    let sources = directory.join("sources.list");
    let security = format!("{release}-security");
    let list = debian::Archives::find()?.sources(&[release, backports], &[&security])?;
    let configuration = directory.join("apt.conf");
    // Without caches of its own it would overwrite the machine's.
    let own = format!(
        "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\nDir::State::lists \"{}\";\n\
         Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nAcquire::Languages \"none\";\n",
        sources.display(),
        lists.display()
    );
    for (file, text) in [(&sources, list), (&configuration, own)] {
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(configuration)
}

fn codename(os_release: &str) -> Option<&str> {
    let value = |key: &str| {
        let mut lines = os_release.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim_matches('"'))
    };
    value("VERSION_CODENAME").filter(|name| value("ID") == Some("debian") && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_go_is_found_and_where_it_came_from() {
        let simulated = "Reading package lists...\n\
                         Remv qemu-utils [1:10.0.2+ds-2~bpo12+1]\n\
                         Inst qemu-system-x86 (1:7.2 Debian:12/oldstable [amd64])\n";
        let found = removed(simulated);
        assert_eq!(found, ["qemu-utils [1:10.0.2+ds-2~bpo12+1]"]);
        assert!(from_backports(&found));
        assert!(!from_backports(&removed("Remv mawk [1.3.4-4]\n")));
        assert!(removed("Inst gawk (1:5.2.1-2 Debian:12.13/oldstable [amd64])\n").is_empty());
    }

    #[test]
    fn only_debian_has_its_backports() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(codename(debian), Some("bookworm"));
        assert_eq!(codename("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(codename("ID=debian\n"), None);
    }
}
