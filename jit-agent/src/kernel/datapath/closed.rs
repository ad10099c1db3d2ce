//! Closes entries of the pinned grant tables while no agent does. To remove an entry is always safe,
//! also beside an agent that hangs: nobody gets in who did not before.

use std::path::Path;

use crate::{
    kernel::datapath::{error::DatapathError, maps::Maps, pins::Pins},
    rules::{
        claims::EXEMPT_SLOT,
        clock::BootNanos,
        reconcile::{Access, Entry, EntryKey, Write},
    },
};

/// What was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Number of entries that let somebody in until now.
    pub live: usize,
    /// Number of exemptions that were met; they stay.
    pub exempt: usize,
}

/// Closes the entries that `wants` names; `None`: nothing is pinned.
pub fn close(
    pins: &Path,
    wants: &dyn Fn(&EntryKey) -> bool,
    now: BootNanos,
) -> Result<Option<Closed>, DatapathError> {
    let pins = Pins::new(pins);
    if !pins.exist() {
        return Ok(None);
    }
    let mut maps = Maps::from_pins(&pins)?;
    let mut closed = Closed::default();
    for (key, entry) in maps.entries()?.into_iter().filter(|(key, _)| wants(key)) {
        let (write, exempt) = without_grants(key, entry);
        closed.exempt += usize::from(exempt);
        let Some(write) = write else { continue };
        maps.write(&write)?;
        let grants = entry.accesses().into_iter().filter(|access| !is_exempt(access));
        closed.live += usize::from(grants.into_iter().any(|access| access.deadline > now));
    }
    Ok(Some(closed))
}

fn is_exempt(access: &Access) -> bool {
    access.is_some() && access.slot == EXEMPT_SLOT
}

/// The write that leaves no grant at this place, if one is needed; and whether an exemption stays.
fn without_grants(key: EntryKey, entry: Entry) -> (Option<Write>, bool) {
    if !is_exempt(&entry.unlimited) {
        return (Some(Write::Remove(key)), false);
    }
    let left = Entry { limited: Access::NONE, ..entry };
    ((left != entry).then_some(Write::Set(key, left)), true)
}

#[cfg(test)]
mod tests {
    use jit_common::{PortKey, Protocol};

    use super::*;

    #[test]
    fn grants_go_and_exemptions_stay() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let key = EntryKey { port, source: "192.0.2.7".parse().unwrap() };
        let access = |slot| Access { deadline: BootNanos(9), cut: false, slot };
        let entry = |unlimited, limited| Entry { unlimited, limited };
        let grant = entry(access(3), Access::NONE);
        assert_eq!(without_grants(key, grant), (Some(Write::Remove(key)), false));
        let exempt = entry(access(EXEMPT_SLOT), Access::NONE);
        assert_eq!(without_grants(key, exempt), (None, true));
        let both = entry(access(EXEMPT_SLOT), access(3));
        assert_eq!(without_grants(key, both), (Some(Write::Set(key, exempt)), true));
    }
}
