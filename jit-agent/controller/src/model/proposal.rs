//! What somebody asks for. It never changes: what is approved is what is signed.

use std::{collections::BTreeSet, time::Duration};

use jit_proto::{
    PortRange, SourcePrefix,
    text::{MAX_NAME_BYTES, MAX_TEXT_BYTES, check},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::as_text;

/// The most hosts of one request.
pub const MAX_HOSTS: usize = 10_000;
/// The most ports or sources of one request: what a host's agent accepts comfortably in one grant.
pub const MAX_ITEMS: usize = 64;
/// The most connections that a grant can be limited to (`grant.proto`).
pub const MAX_CONNECTIONS: u32 = 1024;
/// The longest time of a request.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// How far ahead a request may begin.
pub const MAX_AHEAD: Duration = Duration::from_secs(30 * 24 * 3600);

/// A request for access, as it was submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Id of the request: a ULID. Grants have ids that follow from it ([`super::grant`]).
    pub id: String,
    /// Who asks: a subject, not an account.
    pub requester: String,
    /// Exact ids of hosts, in order, each once.
    pub hosts: Vec<String>,
    /// Addresses and prefixes that are let in, in order, each once.
    #[serde(with = "as_text::list")]
    pub sources: Vec<SourcePrefix>,
    /// Ports, in order, each once.
    #[serde(with = "as_text::list")]
    pub ports: Vec<PortRange>,
    /// How long it lasts, milliseconds.
    pub duration_ms: i64,
    /// When it begins, milliseconds since the Unix epoch; `None`: when it is approved.
    pub start_ms: Option<i64>,
    /// Why, in words.
    pub reason: String,
    /// Number of the ticket; empty: none.
    pub ticket: String,
    /// What happens to sessions at the end; `None`: the port's own rule decides.
    pub sessions: Option<SessionsWord>,
    /// The most connections; 0: any number.
    pub max_connections: u32,
    /// The request that ends when this one begins.
    pub replaces: Option<String>,
    /// When it was submitted, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Until when people can agree.
    pub approve_until_ms: i64,
}

/// What happens to sessions when a grant ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionsWord {
    /// They end.
    Cut,
    /// They go on.
    Drain,
}

/// What is wrong with a proposal: the field, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct ProposalError {
    /// The field as the API names it.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl Proposal {
    /// Puts lists in order, and checks what does not depend on rules, hosts or time.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn checked(mut self) -> Result<Self, ProposalError> {
        let wrong = |field, why: String| Err(ProposalError { field, why });
        self.hosts = self.hosts.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        in_order(&mut self.sources);
        in_order(&mut self.ports);
        if self.id.parse::<jit_proto::GrantId>().is_err() {
            return wrong("id", format!("{:?} is not a ULID", self.id));
        }
        for (field, text, most) in [
            ("requester", &self.requester, MAX_NAME_BYTES),
            ("ticket", &self.ticket, MAX_NAME_BYTES),
            ("reason", &self.reason, MAX_TEXT_BYTES),
        ] {
            let is_left_out = field == "ticket" && text.is_empty();
            if let (false, Err(why)) = (is_left_out, check(field, text, most)) {
                return wrong(field, why);
            }
        }
        if self.reason.trim().is_empty() {
            return wrong("reason", "say why the ports must open".into());
        }
        if self.requester.trim().is_empty() {
            return wrong("requester", "it is empty".into());
        }
        for (field, count, most) in [
            ("hosts", self.hosts.len(), MAX_HOSTS),
            ("sources", self.sources.len(), MAX_ITEMS),
            ("ports", self.ports.len(), MAX_ITEMS),
        ] {
            if count == 0 || count > most {
                return wrong(field, format!("{count} of them; 1 to {most} are possible"));
            }
        }
        if let Some(host) =
            self.hosts.iter().find(|host| check("host", host, MAX_NAME_BYTES).is_err())
        {
            return wrong("hosts", format!("{host:?} is no host's id"));
        }
        let longest = i64::try_from(MAX_DURATION.as_millis()).unwrap_or(i64::MAX);
        if !(1000..=longest).contains(&self.duration_ms) {
            return wrong("duration", "a request lasts from 1 second to 24 hours".into());
        }
        if self.max_connections > MAX_CONNECTIONS {
            let why = format!("at most {MAX_CONNECTIONS} can be counted; 0 is any number");
            return wrong("max_connections", why);
        }
        let is_udp = |range: &PortRange| range.to_string().ends_with("/udp");
        if self.max_connections > 0 && self.ports.iter().any(is_udp) {
            return wrong("max_connections", "connections are counted at TCP ports only".into());
        }
        Ok(self)
    }

    /// What people agree to: SHA-256 of its JSON, as 64 hex digits. The fields and their order are
    /// fixed, so that equal proposals have equal hashes.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.json()))
    }

    /// The JSON that is hashed and stored.
    ///
    /// # Panics
    /// Never: the fields are texts and numbers.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }

    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.duration_ms).unwrap_or(0))
    }
}

/// By their texts, each once.
fn in_order<T: ToString + PartialEq>(values: &mut Vec<T>) {
    values.sort_by_key(ToString::to_string);
    values.dedup();
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Ana asks for SSH on web-1 for an hour.
    pub(crate) fn ssh() -> Proposal {
        Proposal {
            id: "01KPEXAMP1E000000000000001".into(),
            requester: "ana@example.org".into(),
            hosts: vec!["web-1".into()],
            sources: vec!["203.0.113.7".parse().unwrap()],
            ports: vec!["22".parse().unwrap()],
            duration_ms: 3_600_000,
            start_ms: None,
            reason: "disk full".into(),
            ticket: "INC-4211".into(),
            sessions: None,
            max_connections: 0,
            replaces: None,
            created_ms: 1_803_888_000_000,
            approve_until_ms: 1_803_888_000_000 + 3_600_000,
        }
    }

    #[test]
    fn lists_are_put_in_order_and_survive_json() {
        let mut asked = ssh();
        asked.hosts = vec!["web-2".into(), "web-1".into(), "web-2".into()];
        asked.ports = vec!["8000-8010".parse().unwrap(), "22".parse().unwrap()];
        let asked = asked.checked().unwrap();
        assert_eq!(asked.hosts, ["web-1", "web-2"]);
        let read: Proposal = serde_json::from_str(&asked.json()).unwrap();
        assert_eq!((read.hash(), &read), (asked.hash(), &asked));
    }

    #[test]
    fn a_request_needs_no_ticket() {
        assert!(Proposal { ticket: String::new(), ..ssh() }.checked().is_ok());
    }

    #[test]
    fn every_field_is_in_the_hash() {
        let hash = ssh().hash();
        let changes: [fn(&mut Proposal); 14] = [
            |p| p.id.replace_range(25..26, "2"),
            |p| p.requester.push('x'),
            |p| p.hosts.push("web-2".into()),
            |p| p.sources.push("203.0.113.8".parse().unwrap()),
            |p| p.ports.push("23".parse().unwrap()),
            |p| p.duration_ms += 1,
            |p| p.start_ms = Some(1),
            |p| p.reason.push('x'),
            |p| p.ticket.push('x'),
            |p| p.sessions = Some(SessionsWord::Cut),
            |p| p.max_connections = 1,
            |p| p.replaces = Some("x".into()),
            |p| p.created_ms += 1,
            |p| p.approve_until_ms += 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = ssh();
            change(&mut other);
            assert_ne!(other.hash(), hash, "{number}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Change = fn(&mut Proposal);
        let changes: [(&str, Change); 10] = [
            ("id", |p| p.id = "x".into()),
            ("hosts", |p| p.hosts.clear()),
            ("hosts", |p| p.hosts = vec![String::new()]),
            ("sources", |p| p.sources.clear()),
            ("ports", |p| p.ports.clear()),
            ("duration", |p| p.duration_ms = 25 * 3_600_000),
            ("duration", |p| p.duration_ms = 0),
            ("reason", |p| p.reason = " ".into()),
            ("max_connections", |p| p.max_connections = 1025),
            ("requester", |p| p.requester = String::new()),
        ];
        for (field, change) in changes {
            let mut asked = ssh();
            change(&mut asked);
            assert_eq!(asked.checked().unwrap_err().field, field);
        }
    }
}
