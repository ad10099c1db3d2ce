//! `[[port]]`: the protected ports.

use std::time::Duration;

use jit_proto::port_section::{TomlSection, stands_twice};

use crate::rules::policy::Policy;

/// Checks all `[[port]]` sections: no two name the same port. `signers` is the number of
/// sections whose keys sign grants.
pub(super) fn policy(
    sections: Vec<TomlSection>,
    signers: usize,
    max_duration: Duration,
) -> Result<Policy, String> {
    let sections =
        sections.into_iter().map(|section| section.check(signers)).collect::<Result<_, _>>()?;
    Policy::new(sections, max_duration).map_err(stands_twice)
}
