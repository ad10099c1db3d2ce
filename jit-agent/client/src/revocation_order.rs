//! A revocation to sign: what it says, as the message that hosts verify.

use std::time::Duration;

use jit_proto::{GrantId, v1};

/// How long a revocation is worth delivering, if nobody says otherwise: as long as a grant may last,
/// and the clocks may differ.
pub const KEEP: Duration = Duration::from_secs(24 * 3600 + 60);

/// The grants that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's.
    All,
    /// Those with these ids, whenever they were issued.
    Ids(Vec<GrantId>),
    /// A requester's.
    Requester(String),
}

/// A revocation to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationOrder {
    /// The exact ids of the hosts; `None`: every host that trusts the key.
    pub hosts: Option<Vec<String>>,
    /// The grants.
    pub whose: Whose,
    /// Those that were issued until then, milliseconds since the Unix epoch.
    pub issued_before_ms: i64,
    /// End sessions, too.
    pub cut: bool,
    /// Who revokes.
    pub author: String,
    /// Why.
    pub reason: String,
    /// How long it is worth delivering, from `issued_before_ms` on.
    pub keep: Duration,
}

impl RevocationOrder {
    /// The message. Its encoding is the payload, of the type
    /// [`REVOCATION_TYPE`](jit_proto::payload_type::REVOCATION_TYPE).
    pub fn message(&self) -> v1::Revocation {
        let Self { hosts, whose, issued_before_ms, cut, author, reason, keep } = self;
        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        let message = v1::Revocation {
            hosts: hosts.clone().unwrap_or_default(),
            every_host: hosts.is_none(),
            issued_before_ms: *issued_before_ms,
            cut: *cut,
            author: author.clone(),
            reason: reason.clone(),
            keep_until_ms: issued_before_ms.saturating_add(keep),
            ..v1::Revocation::default()
        };
        match whose {
            Whose::All => v1::Revocation { all: true, ..message },
            Whose::Ids(ids) => {
                let grant_ids = ids.iter().map(|id| id.0.to_vec().into()).collect();
                v1::Revocation { grant_ids, ..message }
            }
            Whose::Requester(requester) => {
                v1::Revocation { requester: requester.clone(), ..message }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_one_kind_of_grants_and_of_hosts() {
        let order = RevocationOrder {
            hosts: Some(vec!["web-1".into()]),
            whose: Whose::All,
            issued_before_ms: 1_000,
            cut: true,
            author: "bo@example.org".into(),
            reason: "stolen key".into(),
            keep: KEEP,
        };
        let all = order.message();
        assert!(all.all && all.cut && !all.every_host);
        assert_eq!((all.hosts, all.keep_until_ms), (vec!["web-1".to_owned()], 86_461_000));
        let ids = Whose::Ids(vec![GrantId([1; 16])]);
        let ids = RevocationOrder { hosts: None, whose: ids, ..order.clone() }.message();
        assert!(ids.every_host && !ids.all && ids.hosts.is_empty() && ids.requester.is_empty());
        assert_eq!(ids.grant_ids, [vec![1; 16]]);
        let whose = Whose::Requester("ana@example.org".into());
        let ana = RevocationOrder { whose, ..order }.message();
        assert!(!ana.all && ana.grant_ids.is_empty() && ana.requester == "ana@example.org");
    }
}
