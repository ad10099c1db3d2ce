//! The hosts that are followed, their connections, and which id the agent at each address has named.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::link::Link;
use crate::model::Host;

/// The hosts that are followed.
#[derive(Default)]
pub(super) struct Roster {
    entries: Mutex<Entries>,
    /// Ids by the names that certificates may bear, in small letters.
    by_name: Mutex<Index>,
    read: AtomicBool,
}

/// Ids of hosts by a name.
type Index = BTreeMap<String, BTreeSet<String>>;

#[derive(Default)]
struct Entries {
    by_id: BTreeMap<String, Entry>,
    /// Hosts by the id that their agent named last.
    by_named: Index,
}

struct Entry {
    host: Arc<Host>,
    link: Arc<Link>,
    /// The id that its agent named last, and when that agent was started.
    named: Option<(String, i64)>,
}

/// Another agent with the same id.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Clone {
    /// The host of the inventory that has this id.
    pub(super) host: String,
    /// Where both answer: that host's own address, and the other one.
    pub(super) addresses: [String; 2],
    /// The host of the inventory with the other address.
    pub(super) other: String,
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hosts of the store are in it: one that is not has been removed.
    pub(super) fn has_been_read(&self) {
        self.read.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, host: Arc<Host>) -> Arc<Link> {
        let link = Arc::new(Link::default());
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names_of(&host) {
            enter(&mut by_name, &name, &host.id);
        }
        drop(by_name);
        let entry = Entry { host: Arc::clone(&host), link: Arc::clone(&link), named: None };
        let mut entries = self.lock();
        entries.name(&host.id, None);
        entries.by_id.insert(host.id.clone(), entry);
        link
    }

    pub(super) fn remove(&self, id: &str) {
        let mut entries = self.lock();
        entries.name(id, None);
        let Some(entry) = entries.by_id.remove(id) else { return };
        drop(entries);
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names_of(&entry.host) {
            leave(&mut by_name, &name, id);
        }
    }

    /// Ids of the hosts that have this DNS name as their id or server name.
    pub(super) fn named(&self, name: &str) -> BTreeSet<String> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.get(&name.to_ascii_lowercase()).cloned().unwrap_or_default()
    }

    /// The host with this id, and its connection.
    pub(super) fn find(&self, id: &str) -> Option<(Arc<Host>, Arc<Link>)> {
        let entries = self.lock();
        entries.by_id.get(id).map(|entry| (Arc::clone(&entry.host), Arc::clone(&entry.link)))
    }

    /// Ids of all hosts.
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().by_id.keys().cloned().collect()
    }

    /// The agent of this host named an id. Returns other agents that name the same one: two machines.
    ///
    /// One agent that answers at two addresses was started once: that is a mistake in the inventory, and
    /// no clone.
    pub(super) fn names(&self, host: &str, id: &str, started_ms: i64) -> Vec<Clone> {
        let mut entries = self.lock();
        entries.name(host, Some((id, started_ms)));
        let Some(right) = entries.by_id.get(id).filter(|entry| names(entry, id)) else {
            return Vec::new();
        };
        let mut clones = Vec::new();
        // All others when the right one answers; otherwise only this one.
        let others = entries.by_named.get(id).into_iter().flatten();
        let others = others.filter(|other| *other != id && (host == id || *other == host));
        for other in others.filter_map(|other| entries.by_id.get(other)) {
            if other.named != right.named {
                clones.push(Clone {
                    host: id.to_owned(),
                    addresses: [right.host.address.clone(), other.host.address.clone()],
                    other: other.host.id.clone(),
                });
            }
        }
        clones
    }

    /// The agent of this host does not answer any more.
    pub(super) fn silent(&self, host: &str) {
        self.lock().name(host, None);
    }
}

impl Entries {
    /// The agent of this host names this id from now on; `None`: it says nothing.
    fn name(&mut self, host: &str, named: Option<(&str, i64)>) {
        let Some(entry) = self.by_id.get_mut(host) else { return };
        if let Some((before, _)) = &entry.named {
            leave(&mut self.by_named, before, host);
        }
        entry.named = named.map(|(id, started_ms)| (id.to_owned(), started_ms));
        if let Some((id, _)) = named {
            enter(&mut self.by_named, id, host);
        }
    }
}

fn enter(index: &mut Index, name: &str, id: &str) {
    index.entry(name.to_owned()).or_default().insert(id.to_owned());
}

fn leave(index: &mut Index, name: &str, id: &str) {
    if let Some(ids) = index.get_mut(name) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(name);
        }
    }
}

/// The names by which its certificate may name it, in small letters.
fn names_of(host: &Host) -> impl Iterator<Item = String> {
    let names = [host.id.as_str(), host.server_name.as_str()].into_iter();
    names.filter(|name| !name.is_empty()).map(str::to_ascii_lowercase)
}

fn names(entry: &Entry, id: &str) -> bool {
    entry.named.as_ref().is_some_and(|(named, _)| named == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(hosts: &[(&str, &str)]) -> Roster {
        let roster = Roster::default();
        for (id, address) in hosts {
            let (id, address) = ((*id).to_owned(), (*address).to_owned());
            roster.add(Arc::new(Host { id, address, ..Host::default() }));
        }
        roster
    }

    #[test]
    fn two_agents_with_one_id_are_clones_whichever_answers_first() {
        for right_first in [true, false] {
            let roster = roster(&[("web-1", "192.0.2.1:1"), ("web-2", "192.0.2.2:1")]);
            let right = || roster.names("web-1", "web-1", 1000);
            let wrong = || roster.names("web-2", "web-1", 2000);
            let found = if right_first {
                assert_eq!(right(), []);
                wrong()
            } else {
                assert_eq!(wrong(), []);
                right()
            };
            let [clone] = &found[..] else { panic!("{found:?}") };
            assert_eq!((clone.host.as_str(), clone.other.as_str()), ("web-1", "web-2"));
            assert_eq!(clone.addresses, ["192.0.2.1:1", "192.0.2.2:1"]);
        }
    }

    #[test]
    fn one_agent_at_two_addresses_is_no_clone_nor_is_one_that_is_gone() {
        let roster = roster(&[("web-1", "192.0.2.1:1"), ("web-2", "192.0.2.2:1")]);
        assert_eq!(roster.names("web-1", "web-1", 1000), []);
        assert_eq!(roster.names("web-2", "web-1", 1000), []);
        roster.silent("web-1");
        assert_eq!(roster.names("web-2", "web-1", 3000), []);
        assert_eq!(roster.names("web-1", "db-7", 1000), []);
    }
}
