//! Whether the configuration can be read, by the service's user too, and whether it is in force; and
//! what `check` says of it.

use std::io::ErrorKind;

use super::{
    finding::Finding,
    host::{Agent, Host},
};
use crate::{config::Config, oncall::check};

const NAME: &str = "configuration";
const CHECK: &str = "jit-agent check";

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let path = host.path.display();
    match (host.unopened, &host.config) {
        (Some(ErrorKind::NotFound), _) => vec![missing(host)],
        (Some(ErrorKind::PermissionDenied), _) => {
            vec![Finding::unseen(NAME, format!("this user may not read {path}"))]
        }
        // A key of another user in a directory that only root may read is no fault of the file.
        (_, Err(error)) if !host.is_root && error.to_string().contains("Permission denied") => {
            vec![Finding::unseen(NAME, format!("this user may not read all of it: {error}"))]
        }
        (_, Err(error)) => {
            let seen = format!("{path} is refused: {}", error.brief());
            vec![Finding::failure(NAME, seen).fix(CHECK)]
        }
        (_, Ok(config)) => of_good(host, config),
    }
}

/// There is no file.
fn missing(host: &Host) -> Finding {
    let path = host.path.display();
    let seen = format!("there is no {path}");
    let fix = format!("write {path}; the shipped example has every key; then {CHECK}");
    if host.is_bare() {
        return Finding::warning(NAME, format!("{seen} yet: the defaults are assumed")).fix(fix);
    }
    Finding::failure(NAME, format!("{seen}: the next start uses the last good one")).fix(fix)
}

/// A file that is good by itself.
fn of_good(host: &Host, config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(owner) = host.glimpse.paths.owner() {
        match check::denied(&owner, &host.glimpse) {
            Ok(denied) => found.extend(denied.map(|(_, finding)| finding.fix(CHECK))),
            Err(error) => found.push(Finding::unseen(NAME, error.to_string())),
        }
    }
    let state = host.status.as_ref().ok().filter(|_| host.agent == Agent::Answers);
    let state = state.and_then(|status| status.configuration.as_ref());
    if let Some(state) = state.filter(|state| !state.refused.is_empty()) {
        let seen = format!("the file on disk is not in force: {}", state.refused);
        found.push(Finding::failure(NAME, seen).fix(CHECK).fix("systemctl reload jit-agent"));
    }
    let devices = host.devices.as_deref().ok();
    found.extend(check::of_settings(config, devices));
    if found.is_empty() {
        let path = host.path.display();
        let sections = config.policy.sections().len();
        found.push(Finding::ok(NAME, format!("{path} is good, [[port]] sections: {sections}")));
    }
    found
}
