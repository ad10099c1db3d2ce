//! The mailboxes of all hosts, kept so that a change costs one way to the root of their tree. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jit_proto::{
    mailbox::{self, MAX_LISTED},
    merkle::Hash,
    payload_type::GRANT_TYPE,
    v1,
};

use super::tree::Tree;
use crate::store::Mail;

/// The mailboxes of hosts.
#[derive(Debug, Default)]
pub struct Mailboxes {
    /// Which leaf is whose.
    places: Arc<BTreeMap<String, usize>>,
    boxes: Vec<Post>,
    tree: Option<Tree>,
}

/// One host's mailbox.
#[derive(Clone, Debug)]
struct Post {
    host: Arc<str>,
    /// Each piece and its end, in ascending order.
    pieces: Vec<(Hash, i64)>,
    /// Those that count, in ascending order.
    items: Arc<[Hash]>,
    /// The first end among those that count.
    next_end: i64,
}

/// A signed checkpoint with all that hosts ask about it.
#[derive(Debug)]
pub struct Snapshot {
    /// As it was signed.
    pub envelope: v1::Envelope,
    /// Hosts hear of it within this time, not all at once.
    pub spread: Duration,
    tree: Tree,
    places: Arc<BTreeMap<String, usize>>,
    items: Vec<Arc<[Hash]>>,
}

/// What identifies a piece of mail.
pub fn item(mail: &Mail) -> Hash {
    match mail.ended {
        true => mailbox::ended(mail.grant_id),
        false => mailbox::item_of(GRANT_TYPE, &mail.digest),
    }
}

impl Mailboxes {
    /// Takes these as all hosts, in ascending order, and this as all mail, and goes to this moment. Mail of
    /// other hosts is left out.
    pub fn update(&mut self, hosts: Vec<String>, mail: &[Mail], at_ms: i64) {
        if !self.places.keys().eq(&hosts) {
            self.boxes = hosts.iter().map(|host| Post::of(host)).collect();
            self.places = Arc::new(hosts.into_iter().zip(0..).collect());
            self.tree = Tree::new(self.boxes.iter().map(Post::leaf).collect());
        }
        let mut pieces = vec![Vec::new(); self.boxes.len()];
        for one in mail {
            let place = self.places.get(&one.host).and_then(|place| pieces.get_mut(*place));
            if let Some(of_host) = place {
                of_host.push((item(one), one.not_after_ms));
            }
        }
        for (place, mut new) in pieces.into_iter().enumerate() {
            new.sort_unstable();
            let Some(of_host) = self.boxes.get_mut(place) else { continue };
            if of_host.pieces != new {
                of_host.pieces = new;
                self.count(place, at_ms);
            }
        }
        self.go_to(at_ms);
    }

    /// Lets time pass until this moment: what has ended counts no more.
    pub fn go_to(&mut self, at_ms: i64) {
        for place in 0..self.boxes.len() {
            if self.boxes.get(place).is_some_and(|of_host| of_host.next_end <= at_ms) {
                self.count(place, at_ms);
            }
        }
    }

    /// The root, and the number of hosts. `None`: there are none.
    pub fn root(&self) -> Option<(Hash, usize)> {
        self.tree.as_ref().map(|tree| (tree.root(), tree.size()))
    }

    /// What a checkpoint of this moment is about. `None`: there are no hosts.
    pub fn snapshot(&self, envelope: v1::Envelope, spread: Duration) -> Option<Snapshot> {
        Some(Snapshot {
            envelope,
            spread,
            tree: self.tree.clone()?,
            places: Arc::clone(&self.places),
            items: self.boxes.iter().map(|of_host| Arc::clone(&of_host.items)).collect(),
        })
    }

    /// Counts what is in a mailbox anew.
    fn count(&mut self, place: usize, at_ms: i64) {
        let Some(of_host) = self.boxes.get_mut(place) else { return };
        let live = || of_host.pieces.iter().filter(|(_, end)| *end > at_ms);
        let mut items: Vec<_> = live().map(|(item, _)| *item).collect();
        items.dedup();
        of_host.next_end = live().map(|(_, end)| *end).min().unwrap_or(i64::MAX);
        of_host.items = items.into();
        let leaf = of_host.leaf();
        if let Some(tree) = &mut self.tree {
            tree.set(place, leaf);
        }
    }
}

impl Post {
    fn of(host: &str) -> Self {
        Self { host: host.into(), pieces: Vec::new(), items: Arc::default(), next_end: i64::MAX }
    }

    fn leaf(&self) -> Hash {
        mailbox::leaf(&self.host, &mailbox::digest(self.items.iter()))
    }
}

impl Snapshot {
    /// What to ask a host. `listed`: with the list of what is in its mailbox, if that is short enough.
    /// `None`: the host was not there when the checkpoint was made.
    pub fn request(&self, host: &str, listed: bool) -> Option<v1::CompareMailboxRequest> {
        let place = *self.places.get(host)?;
        let items = self.items.get(place).filter(|items| listed && items.len() <= MAX_LISTED);
        Some(v1::CompareMailboxRequest {
            checkpoint: Some(self.envelope.clone()),
            index: u64::try_from(place).unwrap_or(u64::MAX),
            path: self.tree.path(place).concat().into(),
            listed: items.is_some(),
            items: items.map(|items| items.concat()).unwrap_or_default().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use jit_proto::{GrantId, WallTime, mailbox::Mailbox, merkle};
    use proptest::prelude::*;

    use super::*;

    fn mail(host: u8, grant: u8, ended: bool, not_after_ms: i64) -> Mail {
        Mail {
            host: format!("web-{host}"),
            grant_id: GrantId([grant; 16]),
            digest: [grant; 32],
            not_after_ms,
            ended,
        }
    }

    fn hosts(count: u8) -> Vec<String> {
        (0..count).map(|host| format!("web-{host}")).collect()
    }

    fn made_anew(count: u8, mail: &[Mail], at_ms: i64) -> Option<(Hash, usize)> {
        let mut anew = Mailboxes::default();
        anew.update(hosts(count), mail, at_ms);
        anew.root()
    }

    /// The digest by which a host compares itself: what it was brought, and what was ended there.
    fn of_host(host: u8, mail: &[Mail], at_ms: i64) -> Hash {
        let mut arrived = Mailbox::default();
        let own = || mail.iter().filter(|one| one.host == format!("web-{host}"));
        for one in own() {
            let item = mailbox::item_of(GRANT_TYPE, &one.digest);
            arrived.add_grant(item, one.grant_id, WallTime(one.not_after_ms));
        }
        let is_ended = |id| own().any(|one| one.grant_id == id && one.ended);
        mailbox::digest(arrived.items(WallTime(at_ms), is_ended).iter())
    }

    fn leads(snapshot: &Snapshot, host: u8, mailbox: &Hash, root: (Hash, usize)) -> bool {
        let name = format!("web-{host}");
        let asked = snapshot.request(&name, true).unwrap();
        let path: Vec<Hash> = asked.path.as_chunks().0.to_vec();
        let leaf = mailbox::leaf(&name, mailbox);
        let items: Vec<Hash> = asked.items.as_chunks().0.to_vec();
        assert_eq!(mailbox::digest(items.iter()), *mailbox, "the list is that of the digest");
        merkle::root(&leaf, asked.index, root.1 as u64, &path) == Some(root.0)
    }

    proptest! {
        #[test]
        fn after_any_history_every_host_that_has_all_of_it_leads_to_the_root(
            count in 1_u8..9,
            steps in prop::collection::vec((0_u8..9, 0_u8..12, any::<bool>(), 1_i64..60), 0..60),
        ) {
            let mut boxes = Mailboxes::default();
            let mut all: BTreeMap<(u8, u8), Mail> = BTreeMap::new();
            for (at_ms, (host, grant, end, lasts)) in (0..).zip(steps) {
                // A grant has one end on all of its hosts; an end is for ever.
                let fixed = i64::from(grant) * 5 + lasts % 3;
                let not_after = all
                    .values()
                    .find(|one| one.grant_id == GrantId([grant; 16]))
                    .map_or(fixed, |one| one.not_after_ms);
                let one = all.entry((host, grant)).or_insert(mail(host, grant, false, not_after));
                one.ended |= end;
                let live: Vec<_> =
                    all.values().filter(|one| one.not_after_ms > at_ms).cloned().collect();
                if lasts % 2 == 0 {
                    boxes.update(hosts(count), &live, at_ms);
                    prop_assert_eq!(boxes.root(), made_anew(count, &live, at_ms));
                    let root = boxes.root().unwrap();
                    let snapshot =
                        boxes.snapshot(v1::Envelope::default(), Duration::ZERO).unwrap();
                    for host in 0..count {
                        let own = of_host(host, &live, at_ms);
                        prop_assert!(leads(&snapshot, host, &own, root));
                    }
                }
            }
        }
    }

    #[test]
    fn time_alone_takes_out_what_has_ended() {
        let all = [mail(0, 1, false, 10), mail(0, 2, true, 20), mail(1, 1, false, 10)];
        let mut boxes = Mailboxes::default();
        boxes.update(hosts(3), &all, 5);
        boxes.go_to(9);
        assert_eq!(boxes.root(), made_anew(3, &all, 5));
        boxes.go_to(10);
        assert_eq!(boxes.root(), made_anew(3, &all[1..2], 10));
        boxes.go_to(20);
        assert_eq!(boxes.root(), made_anew(3, &[], 20));
    }

    #[test]
    fn hosts_come_and_go_and_without_any_there_is_no_tree() {
        let all = [mail(0, 1, false, 10), mail(4, 2, false, 10)];
        let mut boxes = Mailboxes::default();
        boxes.update(Vec::new(), &all, 0);
        assert!(boxes.root().is_none());
        for count in [2, 5, 1, 5] {
            boxes.update(hosts(count), &all, 0);
            assert_eq!(boxes.root(), made_anew(count, &all, 0), "{count}");
        }
        let snapshot = boxes.snapshot(v1::Envelope::default(), Duration::ZERO).unwrap();
        assert!(snapshot.request("web-7", false).is_none());
        let unlisted = snapshot.request("web-4", false).unwrap();
        assert!(!unlisted.listed && unlisted.items.is_empty());
        assert_eq!((unlisted.index, unlisted.path.len() % 32), (4, 0));
    }

    #[test]
    fn a_mailbox_with_too_many_pieces_has_no_list() {
        let many = u32::try_from(MAX_LISTED).unwrap() + 1;
        let piece = |number: u32| Mail {
            digest: merkle::leaf(&number.to_be_bytes()),
            grant_id: GrantId([number.to_be_bytes(); 4].concat().try_into().unwrap()),
            ..mail(0, 0, false, 10)
        };
        let mut boxes = Mailboxes::default();
        for (number, listed) in [(many - 1, true), (many, false)] {
            let all: Vec<_> = (0..number).map(piece).collect();
            boxes.update(hosts(1), &all, 0);
            let snapshot = boxes.snapshot(v1::Envelope::default(), Duration::ZERO).unwrap();
            assert_eq!(snapshot.request("web-0", true).unwrap().listed, listed);
        }
    }
}
