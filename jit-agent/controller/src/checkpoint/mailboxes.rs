//! The mailboxes of all hosts, kept so that a change costs one way to the root of their tree. Pure.

use std::{cmp::Ordering, collections::BTreeMap, iter, sync::Arc, time::Duration};

use jit_proto::{
    mailbox::{self, MAX_LISTED},
    merkle::Hash,
    payload_type::{GRANT_TYPE, REVOCATION_TYPE},
    v1,
};

use super::tree::Tree;
use crate::store::{Closing, Mail};

/// The mailboxes of hosts.
#[derive(Debug, Default)]
pub struct Mailboxes {
    /// Which leaf is whose.
    places: Arc<BTreeMap<String, usize>>,
    boxes: Vec<Post>,
    /// What is in each of them.
    common: Pieces,
    tree: Option<Tree>,
}

/// One host's mailbox.
#[derive(Clone, Debug)]
struct Post {
    host: Arc<str>,
    /// What is not in every one.
    own: Pieces,
}

/// Pieces of mail.
#[derive(Clone, Debug)]
struct Pieces {
    /// Each and its end, in ascending order.
    all: Vec<(Hash, i64)>,
    /// Those that count, in ascending order.
    items: Arc<[Hash]>,
    /// The first end among those that count.
    next_end: i64,
}

/// A signed revocation: a piece of the mailbox of each of its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What identifies it.
    pub item: Hash,
    /// Until then it counts, milliseconds since the Unix epoch.
    pub keep_until_ms: i64,
    /// The ids of its hosts; `None`: every host.
    pub hosts: Option<Vec<String>>,
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
    common: Arc<[Hash]>,
    items: Vec<Arc<[Hash]>>,
}

/// What identifies a piece of mail.
pub fn item(mail: &Mail) -> Hash {
    match mail.ended {
        true => mailbox::ended(mail.grant_id),
        false => mailbox::item_of(GRANT_TYPE, &mail.digest),
    }
}

impl From<Closing> for Revocation {
    fn from(closing: Closing) -> Self {
        let Closing { payload, message, .. } = closing;
        Self {
            item: mailbox::item(REVOCATION_TYPE, &payload),
            keep_until_ms: message.keep_until_ms,
            hosts: (!message.every_host).then_some(message.hosts),
        }
    }
}

impl Mailboxes {
    /// Takes these as all hosts, in ascending order, and this as all mail, and goes to this moment. Mail of
    /// other hosts is left out.
    pub fn update<'a>(
        &mut self,
        hosts: Vec<String>,
        mail: &[Mail],
        revocations: impl IntoIterator<Item = &'a Revocation>,
        at_ms: i64,
    ) {
        let mut anew = false;
        if !self.places.keys().eq(&hosts) {
            self.boxes = hosts.iter().map(|host| Post::of(host)).collect();
            self.places = Arc::new(hosts.into_iter().zip(0..).collect());
            anew = true;
        }
        let mut pieces = vec![Vec::new(); self.boxes.len()];
        let mut common = Vec::new();
        let mut add = |host: &str, piece| {
            let place = self.places.get(host).and_then(|place| pieces.get_mut(*place));
            if let Some(of_host) = place {
                of_host.push(piece);
            }
        };
        for one in mail {
            add(&one.host, (item(one), one.not_after_ms));
        }
        for Revocation { item, keep_until_ms, hosts } in revocations {
            match hosts {
                Some(hosts) => hosts.iter().for_each(|host| add(host, (*item, *keep_until_ms))),
                None => common.push((*item, *keep_until_ms)),
            }
        }
        anew |= self.common.set(common, at_ms);
        let changed =
            self.boxes.iter_mut().zip(pieces).map(|(of_host, new)| of_host.own.set(new, at_ms));
        let changed = changed.collect();
        self.grow(anew, changed);
        self.go_to(at_ms);
    }

    /// Lets time pass until this moment: what has ended counts no more.
    pub fn go_to(&mut self, at_ms: i64) {
        let anew = self.common.go_to(at_ms);
        let changed = self.boxes.iter_mut().map(|of_host| of_host.own.go_to(at_ms)).collect();
        self.grow(anew, changed);
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
            common: Arc::clone(&self.common.items),
            items: self.boxes.iter().map(|of_host| Arc::clone(&of_host.own.items)).collect(),
        })
    }

    /// Makes the tree anew, or puts the leaves in their places that have changed.
    fn grow(&mut self, anew: bool, changed: Vec<bool>) {
        let Self { boxes, common, tree, .. } = self;
        let leaf = |of_host: &Post| of_host.leaf(&common.items);
        match tree {
            Some(tree) if !anew => {
                let places = boxes.iter().enumerate().zip(changed);
                for ((place, of_host), _) in places.filter(|(_, changed)| *changed) {
                    tree.set(place, leaf(of_host));
                }
            }
            _ => *tree = Tree::new(boxes.iter().map(leaf).collect()),
        }
    }
}

impl Default for Pieces {
    fn default() -> Self {
        Self { all: Vec::new(), items: Arc::default(), next_end: i64::MAX }
    }
}

impl Pieces {
    /// Takes these. Returns whether they are others.
    fn set(&mut self, mut all: Vec<(Hash, i64)>, at_ms: i64) -> bool {
        all.sort_unstable();
        let others = self.all != all;
        if others {
            self.all = all;
            self.count(at_ms);
        }
        others
    }

    /// Returns whether one has ended.
    fn go_to(&mut self, at_ms: i64) -> bool {
        let ended = self.next_end <= at_ms;
        if ended {
            self.count(at_ms);
        }
        ended
    }

    fn count(&mut self, at_ms: i64) {
        let live = || self.all.iter().filter(|(_, end)| *end > at_ms);
        let mut items: Vec<_> = live().map(|(item, _)| *item).collect();
        items.dedup();
        self.next_end = live().map(|(_, end)| *end).min().unwrap_or(i64::MAX);
        self.items = items.into();
    }
}

impl Post {
    fn of(host: &str) -> Self {
        Self { host: host.into(), own: Pieces::default() }
    }

    fn leaf(&self, common: &[Hash]) -> Hash {
        mailbox::leaf(&self.host, &mailbox::digest(merged(&self.own.items, common)))
    }
}

/// The items of both, in ascending order, each once.
fn merged<'a>(own: &'a [Hash], common: &'a [Hash]) -> impl Iterator<Item = &'a Hash> {
    let (mut own, mut common) = (own.iter().peekable(), common.iter().peekable());
    iter::from_fn(move || {
        let order = match (own.peek(), common.peek()) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => own.next(),
            Ordering::Greater => common.next(),
            Ordering::Equal => {
                common.next();
                own.next()
            }
        }
    })
}

impl Snapshot {
    /// The hosts that it is about.
    #[cfg(feature = "nats")]
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// What to ask a host. `listed`: with the list of what is in its mailbox, if that is short enough.
    /// `None`: the host was not there when the checkpoint was made.
    pub fn request(&self, host: &str, listed: bool) -> Option<v1::CompareMailboxRequest> {
        let place = *self.places.get(host)?;
        let is_short = |own: &&Arc<[Hash]>| own.len() + self.common.len() <= MAX_LISTED;
        let own = self.items.get(place).filter(|_| listed).filter(is_short);
        Some(v1::CompareMailboxRequest {
            checkpoint: Some(self.envelope.clone()),
            index: u64::try_from(place).unwrap_or(u64::MAX),
            path: self.tree.path(place).concat().into(),
            listed: own.is_some(),
            items: own.map(|own| self.list(own)).unwrap_or_default().into(),
        })
    }

    fn list(&self, own: &[Hash]) -> Vec<u8> {
        merged(own, &self.common).flatten().copied().collect()
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

    /// One for this host, or for every one.
    fn revocation(number: u8, host: Option<u8>, keep_until_ms: i64) -> Revocation {
        let item = mailbox::item(REVOCATION_TYPE, &[number]);
        Revocation { item, keep_until_ms, hosts: host.map(|host| vec![format!("web-{host}")]) }
    }

    fn made_anew(
        count: u8,
        mail: &[Mail],
        revocations: &[Revocation],
        at_ms: i64,
    ) -> Option<(Hash, usize)> {
        let mut anew = Mailboxes::default();
        anew.update(hosts(count), mail, revocations, at_ms);
        anew.root()
    }

    /// The digest by which a host compares itself: what it was brought, and what was ended there.
    fn of_host(host: u8, mail: &[Mail], revocations: &[Revocation], at_ms: i64) -> Hash {
        let mut arrived = Mailbox::default();
        let name = format!("web-{host}");
        let own = || mail.iter().filter(|one| one.host == name);
        for one in own() {
            let item = mailbox::item_of(GRANT_TYPE, &one.digest);
            arrived.add_grant(item, one.grant_id, WallTime(one.not_after_ms));
        }
        for Revocation { item, keep_until_ms, hosts } in revocations {
            if hosts.as_ref().is_none_or(|hosts| hosts.contains(&name)) {
                arrived.add(*item, WallTime(*keep_until_ms));
            }
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
            signed in prop::collection::vec((0_i64..60, 0_u8..12, 1_i64..90), 0..8),
        ) {
            // Some for every host, some for one that is not there.
            let of = |(number, (from, host, until)): (u8, (i64, u8, i64))| {
                (from, revocation(number, (host < 9).then_some(host), until))
            };
            let signed: Vec<_> = (0..).zip(signed).map(of).collect();
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
                let made = signed.iter().filter(|(from, _)| *from <= at_ms);
                let revocations: Vec<_> = made.map(|(_, one)| one.clone()).collect();
                if lasts % 2 == 0 {
                    boxes.update(hosts(count), &live, &revocations, at_ms);
                    prop_assert_eq!(boxes.root(), made_anew(count, &live, &revocations, at_ms));
                    let root = boxes.root().unwrap();
                    let snapshot =
                        boxes.snapshot(v1::Envelope::default(), Duration::ZERO).unwrap();
                    for host in 0..count {
                        let own = of_host(host, &live, &revocations, at_ms);
                        prop_assert!(leads(&snapshot, host, &own, root));
                    }
                }
            }
        }
    }

    #[test]
    fn time_alone_takes_out_what_has_ended() {
        let all = [mail(0, 1, false, 10), mail(0, 2, true, 20), mail(1, 1, false, 10)];
        let signed = [revocation(1, Some(2), 15), revocation(2, None, 25)];
        let mut boxes = Mailboxes::default();
        boxes.update(hosts(3), &all, &signed, 5);
        boxes.go_to(9);
        assert_eq!(boxes.root(), made_anew(3, &all, &signed, 5));
        boxes.go_to(10);
        assert_eq!(boxes.root(), made_anew(3, &all[1..2], &signed, 10));
        boxes.go_to(15);
        assert_eq!(boxes.root(), made_anew(3, &all[1..2], &signed[1..], 15));
        boxes.go_to(20);
        assert_eq!(boxes.root(), made_anew(3, &[], &signed[1..], 20));
        boxes.go_to(25);
        assert_eq!(boxes.root(), made_anew(3, &[], &[], 25));
    }

    #[test]
    fn each_revocation_shows_in_the_mailboxes_of_its_hosts_alone() {
        let all = [mail(0, 1, false, 100)];
        let (one, every) = (revocation(1, Some(1), 50), revocation(2, None, 50));
        let mut boxes = Mailboxes::default();
        boxes.update(hosts(3), &all, [&one, &every], 0);
        let snapshot = boxes.snapshot(v1::Envelope::default(), Duration::ZERO).unwrap();
        let lists = ["web-0", "web-1", "web-2"]
            .map(|host| snapshot.request(host, true).unwrap().items.as_chunks().0.to_vec());
        let sorted = |mut items: Vec<Hash>| {
            items.sort_unstable();
            items
        };
        let expected =
            [vec![item(&all[0]), every.item], vec![one.item, every.item], vec![every.item]];
        assert_eq!(lists, expected.map(sorted));
    }

    #[test]
    fn hosts_come_and_go_and_without_any_there_is_no_tree() {
        let all = [mail(0, 1, false, 10), mail(4, 2, false, 10)];
        let mut boxes = Mailboxes::default();
        boxes.update(Vec::new(), &all, &[], 0);
        assert!(boxes.root().is_none());
        for count in [2, 5, 1, 5] {
            boxes.update(hosts(count), &all, &[], 0);
            assert_eq!(boxes.root(), made_anew(count, &all, &[], 0), "{count}");
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
            boxes.update(hosts(1), &all, &[], 0);
            let snapshot = boxes.snapshot(v1::Envelope::default(), Duration::ZERO).unwrap();
            assert_eq!(snapshot.request("web-0", true).unwrap().listed, listed);
        }
    }
}
