//! The subjects of the bus (pure). One message stands at most under each.
//!
//! | subject | what is there |
//! |---|---|
//! | `jit.v1.g.<h>.<id>` | a grant, or the revocation that has taken its place |
//! | `jit.v1.g.<h>.p` | the policy with the highest version |
//! | `jit.v1.g.<h>.f.<i>` | a revocation; `<h>` is `all` if it is for every host |
//! | `jit.v1.up.<h>.<kind>` | what a hub reports of a host |
//! | `jit.v1.h.<h>` | what hubs say to all with the store; kept nowhere |
//! | `jit.v1.w.<h>` | a question who has a host; kept nowhere |
//! | `jit.v1.k.<h>` | a checkpoint, and how a host finds itself in it; kept nowhere |
//! | `jit.v1.c.<h>` | a call to a host, through its hub; kept nowhere |
//! | `jit.v1.a.<h>` | the answer to one; kept nowhere |
//!
//! `<h>` is the beginning of the SHA-256 of the host's id, `<i>` that of the item's hash, 20 hex
//! digits each; `<id>` is a grant's ULID.
//!
//! Revocations have a subject each, by their hash. One `f` for all would lose some: a floor of
//! everybody must not cover that of one requester, and also the older of two counts in the host's
//! mailbox until its time has ended ([`jit_proto::mailbox`]).

use std::fmt;

use jit_proto::{
    GrantId,
    mailbox::{Piece, Revokes},
    merkle::Hash,
};
use sha2::{Digest as _, Sha256};

/// Before the subjects of mailboxes.
pub const MAILBOXES: &str = "jit.v1.g.";
/// Before the subjects of reports.
pub const REPORTS: &str = "jit.v1.up.";
/// Before the subjects of what hubs say to all with the store.
pub const SIGNS: &str = "jit.v1.h.";
/// Before the subjects of questions who has a host.
pub const QUESTIONS: &str = "jit.v1.w.";
/// Before the subjects of checkpoints for a host.
pub const COMPARISONS: &str = "jit.v1.k.";
/// Before the subjects of calls to a host.
pub const CALLS: &str = "jit.v1.c.";
/// Before the subjects of answers to calls.
pub const ANSWERS: &str = "jit.v1.a.";
/// The place of a host's name that means every host.
const ALL: &str = "all";
/// Hex digits of a hash in a subject.
const DIGITS: usize = 20;

/// A host in a subject: the beginning of the SHA-256 of its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostTag(String);

impl HostTag {
    /// That of a host.
    pub fn of(host: &str) -> Self {
        Self(beginning(&Sha256::digest(host.as_bytes()).into()))
    }
}

impl fmt::Display for HostTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose mailbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum To {
    /// Every host's.
    All,
    /// That of one host.
    Host(HostTag),
}

/// Where in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The grant with this id, or its revocation.
    Grant(GrantId),
    /// The policy.
    Policy,
    /// A revocation, by the beginning of its hash.
    Revocation(String),
}

/// A place in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The mailbox.
    pub to: To,
    /// Where in it.
    pub slot: Slot,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MAILBOXES)?;
        match &self.to {
            To::All => f.write_str(ALL)?,
            To::Host(tag) => write!(f, "{tag}")?,
        }
        match &self.slot {
            Slot::Grant(id) => write!(f, ".{id}"),
            Slot::Policy => f.write_str(".p"),
            Slot::Revocation(item) => write!(f, ".f.{item}"),
        }
    }
}

impl Place {
    /// What a subject says. `None`: it is no place in a mailbox.
    pub fn of(subject: &str) -> Option<Self> {
        let (host, slot) = subject.strip_prefix(MAILBOXES)?.split_once('.')?;
        let to = if host == ALL { To::All } else { To::Host(HostTag(tag(host)?)) };
        let slot = match slot.strip_prefix("f.") {
            Some(item) => Slot::Revocation(tag(item)?),
            None if slot == "p" => Slot::Policy,
            None => Slot::Grant(slot.parse().ok()?),
        };
        Some(Self { to, slot })
    }

    /// Where a piece has to stand. A revocation of grants takes their places, so that a late copy
    /// of the grant finds it taken, and has one of its own, which no other revocation of them
    /// covers; that one is first.
    pub fn all_of(to: &To, item: &Hash, piece: &Piece) -> Vec<Self> {
        let place = |slot| Self { to: to.clone(), slot };
        let grant = |id: &GrantId| place(Slot::Grant(*id));
        match piece {
            Piece::Grant { id, .. } => vec![grant(id)],
            Piece::Policy { .. } => vec![place(Slot::Policy)],
            Piece::Revocation { of, .. } => {
                let own = place(Slot::Revocation(beginning(item)));
                let ids: &[GrantId] = match of {
                    Revokes::Ids(ids) if *to != To::All => ids,
                    Revokes::Ids(_) | Revokes::All(_) | Revokes::Requester(..) => &[],
                };
                std::iter::once(own).chain(ids.iter().map(grant)).collect()
            }
        }
    }
}

/// The subjects that a host's mailbox has: its own, and those of every host.
pub fn mailbox(host: &HostTag) -> [String; 2] {
    [format!("{MAILBOXES}{host}.>"), format!("{MAILBOXES}{ALL}.>")]
}

/// The subject of a report about a host.
pub fn report(host: &HostTag, kind: &str) -> String {
    format!("{REPORTS}{host}.{kind}")
}

/// The subject of a question who has a host.
pub fn question(host: &HostTag) -> String {
    format!("{QUESTIONS}{host}")
}

/// The subject of a checkpoint for a host.
pub fn comparison(host: &HostTag) -> String {
    format!("{COMPARISONS}{host}")
}

/// The subject of a call to a host.
pub fn call(host: &HostTag) -> String {
    format!("{CALLS}{host}")
}

/// The subject of an answer of a host.
pub fn answer(host: &HostTag) -> String {
    format!("{ANSWERS}{host}")
}

/// The host that the subject of a question, a checkpoint or a call names.
pub fn asked(subject: &str) -> Option<HostTag> {
    let mut kinds = [QUESTIONS, COMPARISONS, CALLS].into_iter();
    let host = kinds.find_map(|kind| subject.strip_prefix(kind))?;
    tag(host).map(HostTag)
}

/// The host that a report's subject names.
pub fn reported(subject: &str) -> Option<HostTag> {
    let (host, _) = subject.strip_prefix(REPORTS)?.split_once('.')?;
    tag(host).map(HostTag)
}

fn beginning(hash: &Hash) -> String {
    let mut digits = hex::encode(hash);
    digits.truncate(DIGITS);
    digits
}

fn tag(text: &str) -> Option<String> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == DIGITS && text.bytes().all(digit)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use jit_proto::WallTime;

    use super::*;

    fn host() -> To {
        To::Host(HostTag::of("web-1"))
    }

    #[test]
    fn a_place_is_read_back_from_its_subject() {
        for to in [To::All, host()] {
            for slot in
                [Slot::Grant(GrantId([7; 16])), Slot::Policy, Slot::Revocation(beginning(&[9; 32]))]
            {
                let place = Place { to: to.clone(), slot };
                assert_eq!(Place::of(&place.to_string()), Some(place));
            }
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let tag = HostTag::of("web-1");
        for bad in [
            String::new(),
            "jit.v1.g".into(),
            "jit.v1.g.all".into(),
            format!("jit.v1.g.{tag}.q"),
            format!("jit.v1.g.{tag}.p.p"),
            format!("jit.v1.g.{tag}.f"),
            format!("jit.v1.g.{tag}.f.all"),
            format!("jit.v1.g.{}.p", tag.to_string().to_uppercase()),
            format!("jit.v1.g.{tag}0.p"),
            format!("jit.v1.up.{tag}.p"),
        ] {
            assert_eq!(Place::of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn no_revocation_covers_another_one() {
        let floor = |name: &str, at| Piece::Revocation {
            of: match name {
                "" => Revokes::All(WallTime(at)),
                name => Revokes::Requester(name.into(), WallTime(at)),
            },
            keep_until: WallTime(100),
        };
        let mut places = std::collections::BTreeSet::new();
        for (number, piece) in
            [floor("", 1), floor("", 2), floor("ana", 1), floor("bo", 1)].iter().enumerate()
        {
            let item = [u8::try_from(number).unwrap(); 32];
            places.extend(Place::all_of(&To::All, &item, piece));
        }
        assert_eq!(places.len(), 4);
    }

    #[test]
    fn a_revocation_takes_the_places_of_its_grants() {
        let ids = vec![GrantId([1; 16]), GrantId([2; 16])];
        let of = Revokes::Ids(ids.clone());
        let piece = Piece::Revocation { of, keep_until: WallTime(100) };
        let slots: Vec<_> =
            Place::all_of(&host(), &[3; 32], &piece).into_iter().map(|place| place.slot).collect();
        let own = Slot::Revocation(beginning(&[3; 32]));
        assert_eq!(slots, [own, Slot::Grant(ids[0]), Slot::Grant(ids[1])]);
    }
}
