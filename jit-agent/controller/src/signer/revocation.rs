//! Whether a revocation may be signed. It can only close, so nobody's agreement is counted here: it must be
//! one that hosts take, of this time, with an author and a reason. Pure.

use std::collections::BTreeSet;

use jit_proto::{
    GrantId,
    dsse::MAX_ENVELOPE_BYTES,
    exact,
    text::{self, MAX_NAME_BYTES, MAX_TEXT_BYTES},
    v1,
};

use super::{
    check::{MAX_AGE_MS, SKEW_MS},
    refused::Refused,
};

/// Room for signatures and what else stands in an envelope, bytes.
const AROUND: usize = 8 * 1024;
/// The most hosts and ids of one that names them: a host takes no more.
const MAX_HOSTS: usize = 16_384;
const MAX_IDS: usize = 4096;

/// What a revocation closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closes {
    /// All grants on every host.
    Everything,
    /// Less.
    Some,
}

/// Checks an encoded `jit.v1.Revocation` (docs/grants.md, section "Verification of a revocation").
pub(super) fn check(payload: &[u8], now_ms: i64) -> Result<Closes, Refused> {
    let malformed = |detail: String| Refused { word: "malformed", detail };
    if payload.len() > MAX_ENVELOPE_BYTES - AROUND {
        let most = MAX_ENVELOPE_BYTES - AROUND;
        return Err(malformed(format!("a revocation has at most {most} bytes")));
    }
    let message: v1::Revocation = exact::decode("jit.v1.Revocation", payload).map_err(malformed)?;
    text::check("author", &message.author, MAX_NAME_BYTES).map_err(malformed)?;
    text::check("reason", &message.reason, MAX_TEXT_BYTES).map_err(malformed)?;
    check_hosts(&message).map_err(malformed)?;
    check_grants(&message).map_err(malformed)?;
    let v1::Revocation { issued_before_ms, keep_until_ms, every_host, all, .. } = message;
    if issued_before_ms <= 0 {
        return Err(malformed("issued_before is missing".to_owned()));
    }
    // A floor of the future would refuse grants that nobody has signed yet.
    if issued_before_ms > now_ms.saturating_add(SKEW_MS) {
        let detail = "its issued_before is more than a minute ahead: check the clock".to_owned();
        return Err(Refused { word: "clock_off", detail });
    }
    let longest = issued_before_ms.saturating_add(MAX_AGE_MS);
    if keep_until_ms <= issued_before_ms || keep_until_ms > longest {
        let days = MAX_AGE_MS / (24 * 3_600_000);
        return Err(malformed(format!(
            "keep_until is later than issued_before, by at most {days} days"
        )));
    }
    Ok(if every_host && all { Closes::Everything } else { Closes::Some })
}

fn check_hosts(message: &v1::Revocation) -> Result<(), String> {
    let v1::Revocation { hosts, every_host, .. } = message;
    if hosts.is_empty() != *every_host {
        return Err("it is for some hosts, or for every host".into());
    }
    if hosts.len() > MAX_HOSTS {
        return Err(format!("{} hosts; at most {MAX_HOSTS}", hosts.len()));
    }
    let mut seen = BTreeSet::new();
    for host in hosts {
        text::check("hosts", host, MAX_NAME_BYTES)?;
        if !seen.insert(host) {
            return Err(format!("{host:?} is in it twice"));
        }
    }
    Ok(())
}

fn check_grants(message: &v1::Revocation) -> Result<(), String> {
    let v1::Revocation { grant_ids, requester, all, .. } = message;
    let kinds = [!grant_ids.is_empty(), !requester.is_empty(), *all];
    if kinds.into_iter().filter(|kind| *kind).count() != 1 {
        return Err("it is about ids, a requester, or all, and one of these only".into());
    }
    if requester.len() > MAX_NAME_BYTES {
        return Err(format!("requester has more than {MAX_NAME_BYTES} bytes"));
    }
    if grant_ids.len() > MAX_IDS {
        return Err(format!("{} ids; at most {MAX_IDS}", grant_ids.len()));
    }
    let mut seen = BTreeSet::new();
    for bytes in grant_ids {
        let id = GrantId::from_bytes(bytes).filter(|id| id.0 != [0; 16]);
        if !id.is_some_and(|id| seen.insert(id)) {
            return Err("one of its ids has not 16 bytes, is zero, or is in it twice".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    const NOW: i64 = 1_803_888_060_000;

    fn all() -> v1::Revocation {
        v1::Revocation {
            every_host: true,
            all: true,
            issued_before_ms: NOW,
            author: "li@example.org".into(),
            reason: "stolen key".into(),
            keep_until_ms: NOW + MAX_AGE_MS,
            ..v1::Revocation::default()
        }
    }

    fn word(change: impl FnOnce(&mut v1::Revocation)) -> Result<Closes, &'static str> {
        let mut message = all();
        change(&mut message);
        check(&message.encode_to_vec(), NOW).map_err(|refused| refused.word)
    }

    #[test]
    fn what_hosts_take_is_signed_whoever_it_is_about() {
        assert_eq!(word(|_| ()), Ok(Closes::Everything));
        let id = |last: u8| vec![last; 16].into();
        assert_eq!(word(|m| (m.all, m.grant_ids) = (false, vec![id(1), id(2)])), Ok(Closes::Some));
        assert_eq!(word(|m| (m.all, m.requester) = (false, "ana".into())), Ok(Closes::Some));
        let hosts = vec!["web-1".to_owned(), "web-2".to_owned()];
        assert_eq!(word(|m| (m.every_host, m.hosts) = (false, hosts)), Ok(Closes::Some));
        assert_eq!(word(|m| m.issued_before_ms = NOW + SKEW_MS), Ok(Closes::Everything));
        // One that closes less than another one is signed, too.
        let old = |m: &mut v1::Revocation| {
            (m.issued_before_ms, m.keep_until_ms) = (NOW - MAX_AGE_MS, NOW);
        };
        assert_eq!(word(old), Ok(Closes::Everything));
    }

    #[test]
    fn what_hosts_would_refuse_is_not_signed() {
        type Change = fn(&mut v1::Revocation);
        let changes: [Change; 17] = [
            |m| m.author.clear(),
            |m| m.reason.clear(),
            |m| m.reason = "x".repeat(MAX_TEXT_BYTES + 1),
            |m| m.every_host = false,
            |m| m.hosts.push("web-1".into()),
            |m| (m.every_host, m.hosts) = (false, vec![String::new()]),
            |m| (m.every_host, m.hosts) = (false, vec!["a".into(), "a".into()]),
            |m| (m.every_host, m.hosts) = (false, (0..16_385).map(|n| n.to_string()).collect()),
            |m| m.all = false,
            |m| m.requester = "ana".into(),
            |m| (m.all, m.requester) = (false, "x".repeat(MAX_NAME_BYTES + 1)),
            |m| (m.all, m.grant_ids) = (false, vec![vec![1; 15].into()]),
            |m| (m.all, m.grant_ids) = (false, vec![vec![0; 16].into()]),
            |m| (m.all, m.grant_ids) = (false, vec![vec![1; 16].into(), vec![1; 16].into()]),
            |m| m.issued_before_ms = 0,
            |m| m.keep_until_ms = NOW,
            |m| m.keep_until_ms = NOW + MAX_AGE_MS + 1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_eq!(word(change), Err("malformed"), "{number}");
        }
        let ids = (0..4097_u128).map(|n| (n + 1).to_be_bytes().to_vec().into()).collect();
        assert_eq!(word(|m| (m.all, m.grant_ids) = (false, ids)), Err("malformed"));
        assert_eq!(word(|m| m.issued_before_ms = NOW + SKEW_MS + 1), Err("clock_off"));
        let many = (0..10_000).map(|n| format!("{n:040}")).collect();
        assert_eq!(word(|m| (m.every_host, m.hosts) = (false, many)), Err("malformed"));
    }

    #[test]
    fn other_bytes_are_no_revocation() {
        let mut trailing = all().encode_to_vec();
        trailing.extend([0x60, 1]);
        for bytes in [&b""[..], b"x", &trailing] {
            assert_eq!(check(bytes, NOW).unwrap_err().word, "malformed");
        }
    }
}
