//! An opening by root on the host: a grant that nobody signed (docs/grants.md, "Break glass").
//!
//! No push makes one: an envelope of its type is refused like any unknown type. The gate makes it
//! for root, and reads it back from its own database.

use std::{sync::Arc, time::Duration};

use jit_proto::{
    GrantId, PortRange, Refusal, SourcePrefix, WallTime, payload_type::BREAK_GLASS_TYPE,
    text::MAX_TEXT_BYTES, v1,
};
use prost::Message as _;

use super::{Signed, VerifiedGrant, read};
use crate::rules::refusal::Refused;

/// The requester of every such grant.
pub const REQUESTER: &str = "root (break-glass)";

/// What root opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlass {
    /// Who gets in.
    pub source: SourcePrefix,
    /// To where.
    pub ports: PortRange,
    /// For how long.
    pub lasts: Duration,
    /// Why.
    pub reason: String,
}

impl BreakGlass {
    /// The grant, which begins at this time, and the envelope to store. `longest`: the most that
    /// the host's configuration allows; `None`: nothing.
    ///
    /// # Errors
    /// The configuration does not allow it, or there is no reason.
    pub fn grant(
        &self,
        id: GrantId,
        host: &str,
        longest: Option<Duration>,
        at: WallTime,
    ) -> Result<(VerifiedGrant, v1::Envelope), Refused> {
        self.check(longest)?;
        let message = v1::Grant {
            id: id.0.to_vec().into(),
            hosts: vec![host.into()],
            sources: vec![v1::Source::from(&self.source)],
            ports: vec![self.ports.into()],
            issued_at_ms: at.0,
            not_before_ms: at.0,
            not_after_ms: (at + self.lasts).0,
            requester: REQUESTER.into(),
            justification: self.reason.clone(),
            ..v1::Grant::default()
        };
        let envelope = v1::Envelope {
            payload_type: BREAK_GLASS_TYPE.into(),
            payload: message.encode_to_vec().into(),
            signatures: Vec::new(),
        };
        Ok((reread(&envelope, host)?, envelope))
    }

    fn check(&self, longest: Option<Duration>) -> Result<(), Refused> {
        let refused = |refusal, detail: String| Err(Refused::new(refusal, detail));
        if self.reason.trim().is_empty() {
            return refused(Refusal::Malformed, "the reason is empty".into());
        }
        if self.reason.len() > MAX_TEXT_BYTES {
            let detail =
                format!("the reason has {} bytes; at most {MAX_TEXT_BYTES}", self.reason.len());
            return refused(Refusal::Malformed, detail);
        }
        if self.lasts.is_zero() {
            return refused(Refusal::Lifetime, "it lasts no time".into());
        }
        let Some(longest) = longest else {
            let detail = "[break_glass] max_duration is \"off\" in this host's configuration";
            return refused(Refusal::NotPermitted, detail.into());
        };
        if self.lasts > longest {
            let detail = format!(
                "it lasts {:.0?}; [break_glass] max_duration allows at most {longest:.0?}",
                self.lasts
            );
            return refused(Refusal::Lifetime, detail);
        }
        Ok(())
    }
}

/// Whether this is the envelope of such a grant.
pub fn is_of(envelope: &v1::Envelope) -> bool {
    envelope.payload_type == BREAK_GLASS_TYPE
}

/// Whether a person would take this requester for root.
pub fn is_reserved(requester: &str) -> bool {
    let letters = |name: &str| -> String {
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    letters(requester) == letters(REQUESTER)
}

/// Reads a stored one back.
///
/// # Errors
/// It is none of this host.
pub fn reread(envelope: &v1::Envelope, host: &str) -> Result<VerifiedGrant, Refused> {
    let nobody = Signed { signers: Vec::new(), keys: Vec::new(), objection: None };
    read(envelope, Arc::new(nobody), host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{grant::verify, keyring::Keyring};

    const HOUR: Duration = Duration::from_secs(3600);

    fn asked(lasts: Duration, reason: &str) -> BreakGlass {
        BreakGlass {
            source: "192.0.2.7".parse().unwrap(),
            ports: "22/tcp".parse().unwrap(),
            lasts,
            reason: reason.into(),
        }
    }

    fn grant(asked: &BreakGlass, longest: Option<Duration>) -> Result<v1::Envelope, Refusal> {
        let made = asked.grant(GrantId([1; 16]), "web-1", longest, WallTime(1_780_272_000_000));
        made.map(|(_, envelope)| envelope).map_err(|refused| refused.refusal)
    }

    #[test]
    fn it_is_no_longer_than_allowed_and_has_a_reason() {
        assert!(grant(&asked(HOUR, "disk full"), Some(HOUR)).is_ok());
        let longer = HOUR + Duration::from_millis(1);
        assert_eq!(grant(&asked(longer, "x"), Some(HOUR)), Err(Refusal::Lifetime));
        assert_eq!(grant(&asked(Duration::ZERO, "x"), Some(HOUR)), Err(Refusal::Lifetime));
        assert_eq!(grant(&asked(HOUR, " \n"), Some(HOUR)), Err(Refusal::Malformed));
        assert_eq!(grant(&asked(HOUR, "x"), None), Err(Refusal::NotPermitted));
    }

    #[test]
    fn its_requester_is_nobody_elses() {
        for reserved in
            [REQUESTER, "Root (Break-Glass)", " root  (break glass)\n", "root/breakglass"]
        {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for free in ["root", "ana@example.org", "root (break-glass) team", ""] {
            assert!(!is_reserved(free), "{free}");
        }
    }

    #[test]
    fn it_cannot_be_pushed() {
        let envelope = grant(&asked(HOUR, "disk full"), Some(HOUR)).unwrap();
        let pushed = verify(&envelope, &Keyring::default(), "web-1").unwrap_err();
        assert_eq!(pushed.refusal, Refusal::BadType);
        let back = reread(&envelope, "web-1").unwrap();
        assert!(back.is_break_glass() && back.requester() == REQUESTER);
        assert_eq!(reread(&envelope, "db-1").unwrap_err().refusal, Refusal::WrongHost);
    }
}
