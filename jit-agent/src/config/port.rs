//! `[[port]]`: the protected ports.

use std::time::Duration;

use jit_proto::{
    PortSection,
    port_section::{TomlSection, stands_twice},
    wrong::Wrongs,
};

use crate::rules::policy::Policy;

/// Checks all `[[port]]` sections: no two name the same port. `signers` is the number of
/// sections whose keys sign grants.
pub(super) fn policy(
    sections: Vec<TomlSection>,
    signers: usize,
    max_duration: Duration,
    wrongs: &mut Wrongs,
) -> Policy {
    let mut good: Vec<PortSection> = Vec::new();
    for (index, section) in sections.into_iter().enumerate() {
        let section = match section.check(signers) {
            Ok(section) => section,
            Err(wrong) => {
                wrongs.add_below(&format!("port.{index}"), wrong);
                continue;
            }
        };
        let taken = |port| good.iter().any(|one| one.range.has(port));
        match section.range.ports().find(|port| taken(*port)) {
            Some(port) => wrongs.add(format!("port.{index}.port"), stands_twice(port)),
            None => good.push(section),
        }
    }
    // No two of these name a port.
    Policy::new(good, max_duration).unwrap_or_default()
}
