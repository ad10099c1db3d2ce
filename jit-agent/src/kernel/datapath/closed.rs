//! Closes entries of the pinned grant tables while no agent does. To remove an entry is always safe,
//! also beside an agent that hangs: nobody gets in who did not before.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jit_common::{PortKey, PortRule, Protocol};
use jit_proto::{PortRange, SourcePrefix};

use crate::{
    kernel::datapath::{
        cut::{Covers, Cut, CutScope},
        destroy,
        error::DatapathError,
        maps::Maps,
        pins::Pins,
    },
    rules::{
        claims::EXEMPT_SLOT,
        clock::BootNanos,
        reconcile::{Access, Entry, EntryKey, Write},
    },
};

/// Longest time for very many sessions to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Places of the tables that are to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `None`: every source.
    pub sources: Option<Vec<SourcePrefix>>,
    /// `None`: every port.
    pub ports: Option<Vec<PortRange>>,
}

impl Places {
    fn meets(&self, key: &EntryKey) -> bool {
        let sources = self.sources.as_ref();
        let ports = self.ports.as_ref();
        sources.is_none_or(|all| all.iter().any(|source| source.overlaps(&key.source)))
            && ports.is_none_or(|all| all.iter().any(|range| range.has(key.port)))
    }
}

/// What was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Number of entries that let somebody in until now.
    pub live: usize,
    /// Number of exemptions that were met; they stay.
    pub exempt: usize,
    /// Number of sessions that were ended.
    pub sessions_ended: u32,
    /// Number of sessions that no grant covers any more, and that go on.
    pub sessions_open: u32,
    /// What is not certain about sessions.
    pub warning: Option<String>,
}

/// Closes the entries at these places; `None`: nothing is pinned. Then ends the sessions that no entry
/// covers any more, where their port or `cut` has them end.
pub fn close(
    pins: &Path,
    places: &[Places],
    cut: bool,
    now: BootNanos,
) -> Result<Option<Closed>, DatapathError> {
    let pins = Pins::new(pins);
    if !pins.exist() {
        return Ok(None);
    }
    let mut maps = Maps::from_pins(&pins)?;
    let (mut closed, mut keys) = (Closed::default(), Vec::new());
    let wanted = |key: &EntryKey| places.iter().any(|one| one.meets(key));
    for (key, entry) in maps.entries()?.into_iter().filter(|(key, _)| wanted(key)) {
        let (write, exempt) = without_grants(key, entry);
        closed.exempt += usize::from(exempt);
        let Some(write) = write else { continue };
        maps.write(&write)?;
        keys.push(key);
        let grants = entry.accesses().into_iter().filter(|access| !is_exempt(access));
        closed.live += usize::from(grants.into_iter().any(|access| access.deadline > now));
    }
    // The entries are gone: what is not known about sessions is no reason to fail.
    match (maps.protected(), maps.settings()) {
        (Ok(mut rules), Ok(settings)) if !settings.observes(None, || now.0) => {
            rules.retain(|_, rule| !settings.observes(Some(rule), || now.0));
            let scope = scope(&rules, places, &keys, cut);
            end_sessions(&maps, &scope, now, &mut closed);
        }
        (Ok(_), Ok(_)) => {}
        (Err(error), _) | (_, Err(error)) => closed.warning = Some(error.to_string()),
    }
    Ok(Some(closed))
}

/// The sessions that these places are about.
fn scope(
    rules: &BTreeMap<PortKey, PortRule>,
    places: &[Places],
    closed: &[EntryKey],
    cut: bool,
) -> CutScope {
    let of_tcp = rules.iter().filter(|(port, _)| port.protocol == Protocol::Tcp);
    let rule = |rule: &PortRule| if cut { PortRule { drain: 0, ..*rule } } else { *rule };
    let ports: BTreeMap<_, _> = of_tcp.map(|(port, own)| (port.port, rule(own))).collect();
    let mut covers = Covers::default();
    closed.iter().for_each(|key| covers.insert(*key));
    for Places { sources, ports: of } in places {
        let Some(sources) = sources else { return CutScope { ports, half_open: false, of: None } };
        for port in rules.keys() {
            if of.as_ref().is_none_or(|all| all.iter().any(|range| range.has(*port))) {
                sources.iter().for_each(|source| {
                    covers.insert(EntryKey { port: *port, source: *source });
                });
            }
        }
    }
    CutScope { ports, half_open: false, of: Some(covers) }
}

fn end_sessions(maps: &Maps, scope: &CutScope, now: BootNanos, closed: &mut Closed) {
    let mut spent = Duration::ZERO;
    loop {
        let Cut { ended, open, more, took, problem } = destroy::cut(maps, scope, now);
        closed.sessions_ended = closed.sessions_ended.saturating_add(ended.values().sum());
        closed.sessions_open = open.values().sum();
        spent += took;
        if more && problem.is_none() && spent < PATIENCE {
            continue;
        }
        closed.warning = match problem {
            Some(why) => Some(format!("sessions may go on: {why}")),
            None if more => Some("more sessions are there: close again".into()),
            None => None,
        };
        return;
    }
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
    use super::*;

    #[test]
    fn a_source_meets_what_covers_it_and_what_lies_inside_it() {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let key = |source: &str| EntryKey { port, source: source.parse().unwrap() };
        let ports = Some(vec!["22/tcp".parse().unwrap()]);
        let places = Places { sources: Some(vec!["192.0.2.0/28".parse().unwrap()]), ports };
        for (source, meets) in
            [("192.0.2.7", true), ("192.0.2.0/24", true), ("192.0.2.16", false), ("::/0", false)]
        {
            assert_eq!(places.meets(&key(source)), meets, "{source}");
        }
        let all = Places { sources: None, ports: None };
        assert!(all.meets(&key("::/0")));
        let other = Places { ports: Some(vec!["23/tcp".parse().unwrap()]), ..all };
        assert!(!other.meets(&key("192.0.2.7")));
    }

    #[test]
    fn the_sessions_are_those_of_the_places_and_of_what_was_closed() {
        let port = |port| PortKey { protocol: Protocol::Tcp, port };
        let drain = PortRule { drain: 1, ..PortRule::default() };
        let rules = [(port(22), drain), (port(23), drain)].into();
        let source: SourcePrefix = "192.0.2.7".parse().unwrap();
        let wide = EntryKey { port: port(22), source: "198.51.100.0/24".parse().unwrap() };
        let of = |sources: Option<Vec<_>>, cut| {
            let places = [Places { sources, ports: Some(vec!["22/tcp".parse().unwrap()]) }];
            scope(&rules, &places, &[wide], cut)
        };
        let some = of(Some(vec![source]), true);
        let peer = |text: &str| text.parse::<SourcePrefix>().unwrap().address();
        assert_eq!(some.rule(peer("192.0.2.7"), 22, false).map(|rule| rule.drain), Some(0));
        assert!(some.rule(peer("198.51.100.9"), 22, false).is_some());
        assert_eq!(some.rule(peer("192.0.2.8"), 22, false), None);
        assert_eq!(some.rule(peer("192.0.2.7"), 23, false), None);
        let all = of(None, false);
        assert_eq!(all.rule(peer("203.0.113.9"), 23, false).map(|rule| rule.drain), Some(1));
    }

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
