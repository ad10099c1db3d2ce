//! Who may read the files of a configuration: the service all of them, and whoever may ask for the
//! status not the private key.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{certificates::KEY, settings::SETTINGS};
use crate::{
    config::{Config, Glimpse},
    oncall::finding::Finding,
    system::owner::{KEY_GROUP, Owner, STATUS_GROUP},
};

/// The bit of a file's mode that lets its group read it.
const GROUP_READS: u32 = 0o040;

/// The files that the service's user may not read, and what to do; `None`: it may read all.
///
/// # Errors
/// This process cannot become that user.
pub(in crate::oncall) fn denied(
    owner: &Owner,
    glimpse: &Glimpse,
) -> io::Result<Option<(Vec<PathBuf>, Finding)>> {
    let denied = owner.unreadable(glimpse.files.clone())?;
    if denied.is_empty() {
        return Ok(None);
    }
    let all: Vec<_> = denied.iter().map(|path| path.display().to_string()).collect();
    let is_key = |path: &&PathBuf| glimpse.secrets.contains(path);
    let cures = [
        denied.iter().find(|path| !is_key(path)).map(|path| cure(STATUS_GROUP, path)),
        denied.iter().find(is_key).map(|path| cure(KEY_GROUP, path)),
    ];
    let seen = format!("the service runs as {owner}, which may not read {}", all.join(" "));
    let finding = cures.into_iter().flatten().fold(Finding::failure(SETTINGS, seen), Finding::fix);
    let finding = finding.fix("the same for each of them; their directories need g+x");
    Ok(Some((denied, finding)))
}

fn cure(group: &str, path: &Path) -> String {
    let path = path.display();
    format!("chgrp {group} {path} && chmod g+r {path}")
}

/// The private keys that can be read by everybody who may ask for the status.
pub(super) fn exposed_keys(config: &Config) -> Vec<Finding> {
    let control = config.control.as_ref().map(|control| ("control", &control.key));
    let uplink = config.uplink.as_ref().map(|uplink| ("uplink", &uplink.key));
    let keys = control.into_iter().chain(uplink);
    keys.filter_map(|(section, key)| exposed_key(config, section, key)).collect()
}

fn exposed_key(config: &Config, section: &str, key: &Path) -> Option<Finding> {
    let key_file = fs::metadata(key).ok()?;
    // The group of the socket's directory is the one that may ask.
    let runtime = fs::metadata(&config.paths.runtime).ok();
    let group = runtime.map_or_else(
        || config.paths.owner().map(|owner| owner.group()),
        |runtime| Some(runtime.gid()),
    )?;
    let exposed = group != 0 && key_file.gid() == group && key_file.mode() & GROUP_READS != 0;
    exposed.then(|| {
        let key = key.display();
        let seen = format!(
            "[{section}] key: {key} can be read by its whole group, which may also ask for the status; \
             the key has a group of its own"
        );
        Finding::warning(KEY, seen).at(format!("{section}.key")).fix(format!("chgrp {KEY_GROUP} {key}"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    /// A group without a name.
    const STATUS: u32 = 64_998;

    #[test]
    fn a_key_that_the_group_of_the_status_may_read_is_named() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give files away.
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("run")).unwrap();
        fs::write(path("agent.key"), "").unwrap();
        let text = format!(
            "[host]\nid = \"web-1\"\n[control]\nlisten = \"0.0.0.0:7443\"\n\
             certificate = \"a.pem\"\nkey = \"agent.key\"\nclient_ca = \"ca.pem\"\n\
             [paths]\nruntime = {:?}\n",
            path("run")
        );
        let config = Config::parse(&text, &path("config.toml")).unwrap();
        for (of_run, of_key, mode, exposed) in [
            (STATUS, STATUS, 0o640, true),
            (STATUS, STATUS, 0o600, false),
            (STATUS, STATUS - 1, 0o640, false),
            // Without a group for the status, only root may ask.
            (0, 0, 0o640, false),
        ] {
            chown(path("run"), None, Some(of_run)).unwrap();
            chown(path("agent.key"), None, Some(of_key)).unwrap();
            fs::set_permissions(path("agent.key"), fs::Permissions::from_mode(mode)).unwrap();
            let found = exposed_keys(&config);
            assert_eq!(!found.is_empty(), exposed, "{of_run} {of_key} {mode:o}: {found:?}");
        }
    }
}
