//! What is published in the tests.

use std::time::{SystemTime, UNIX_EPOCH};

use jit_controller::bus::{
    Letter,
    subject::{HostTag, To},
};
use jit_proto::{
    GrantId, WallTime,
    mailbox::{Piece, Revokes, item},
};

pub(crate) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    WallTime(i64::try_from(since.as_millis()).unwrap())
}

pub(crate) fn after(ms: i64) -> WallTime {
    WallTime(now().0 + ms)
}

pub(crate) fn host(name: &str) -> To {
    To::Host(HostTag::of(name))
}

pub(crate) fn id(number: u128) -> GrantId {
    GrantId(number.to_be_bytes())
}

/// A grant; its envelope names it.
pub(crate) fn grant(to: &To, number: u128, not_after: WallTime) -> Letter {
    let issued_at = WallTime(1);
    let piece = Piece::Grant { id: id(number), requester: "ana".into(), issued_at, not_after };
    letter(to, piece, format!("grant {number} for {to:?}"))
}

pub(crate) fn revocation(to: &To, numbers: &[u128], keep_until: WallTime) -> Letter {
    let of = Revokes::Ids(numbers.iter().copied().map(id).collect());
    letter(to, Piece::Revocation { of, keep_until }, format!("revocation of {numbers:?}"))
}

pub(crate) fn floor(requester: Option<&str>, at: i64, keep_until: WallTime) -> Letter {
    let of = match requester {
        None => Revokes::All(WallTime(at)),
        Some(name) => Revokes::Requester(name.to_owned(), WallTime(at)),
    };
    letter(&To::All, Piece::Revocation { of, keep_until }, format!("floor {requester:?} {at}"))
}

pub(crate) fn policy(to: &To, version: u64) -> Letter {
    letter(to, Piece::Policy { version }, format!("policy {version}"))
}

fn letter(to: &To, piece: Piece, envelope: String) -> Letter {
    let item = item("test", envelope.as_bytes());
    Letter { to: to.clone(), item, piece, envelope: envelope.into() }
}
