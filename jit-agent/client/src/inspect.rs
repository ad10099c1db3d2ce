//! What is in an envelope: everything that a host checks and that can be seen without the host.

mod checkpoint;
mod revocation;

use std::fmt::Write as _;

use jit_proto::{
    GrantId, PortRange, SourcePrefix, WallTime,
    dsse::{MAX_ENVELOPE_BYTES, MAX_SIGNATURES, pre_authentication_encoding},
    exact,
    payload_type::{CHECKPOINT_TYPE, GRANT_TYPE, POLICY_TYPE, REVOCATION_TYPE},
    v1,
    words::counted,
};
use prost::Message as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    public_key::PublicKey,
    text::{duration, printable},
    trusted::Trusted,
};

/// The most that a host's clock may be after that of who made a payload, milliseconds.
const SKEW_MS: i64 = 60_000;

/// What is in an envelope.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// The envelope.
    pub envelope: v1::Envelope,
    /// The payload, if it is one that is known.
    pub content: Option<Content>,
    /// SHA-256 of the payload, as 64 hex digits: what an audit names.
    pub payload_sha256: String,
    /// What each signature is.
    pub signatures: Vec<SignatureState>,
    /// Why every host refuses it, in words; empty: nothing is known that speaks against it.
    pub malformed: Vec<String>,
    /// What speaks against it now: it has ended, or is of the future.
    pub untimely: Vec<String>,
}

/// A payload that is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A checkpoint.
    Checkpoint(v1::Checkpoint),
    /// A grant.
    Grant(v1::Grant),
    /// A policy.
    Policy(v1::Policy),
    /// A revocation.
    Revocation(v1::Revocation),
}

/// What a signature is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureState {
    /// None of the given keys made it.
    Bad,
    /// It is an approval by passkey that no given approver made, or not for this: why.
    BadApproval(String),
    /// It is good, by the given key with this name.
    Good(String),
    /// The key of this name has signed twice: it counts once.
    Repeated(String),
    /// No key was given that could have made it.
    Unchecked,
}

impl Inspection {
    /// Looks at an encoded envelope.
    ///
    /// # Errors
    /// It is no envelope.
    pub fn of(bytes: &[u8], keys: &[Trusted], now_ms: i64) -> Result<Self, String> {
        let envelope = v1::Envelope::decode(bytes)
            .map_err(|error| format!("it is no encoded jit.v1.Envelope: {error}"))?;
        let mut malformed = Vec::new();
        if bytes.len() > MAX_ENVELOPE_BYTES {
            malformed.push(format!("{} bytes; at most {MAX_ENVELOPE_BYTES}", bytes.len()));
        }
        if envelope.signatures.len() > MAX_SIGNATURES {
            let count = envelope.signatures.len();
            malformed.push(format!("{count} signatures; at most {MAX_SIGNATURES}"));
        }
        let content = content(&envelope).map_err(|why| malformed.push(why)).ok();
        let mut untimely = Vec::new();
        match &content {
            Some(Content::Checkpoint(one)) => {
                malformed.extend(checkpoint::wrong(one));
                if one.issued_at_ms > now_ms.saturating_add(SKEW_MS) {
                    untimely.push(format!("it is of the future, {}", time(one.issued_at_ms)));
                }
                let end = one.issued_at_ms.saturating_add(one.valid_for_ms.into());
                if end <= now_ms {
                    untimely.push(format!("it counts as fresh no longer since {}", time(end)));
                }
            }
            Some(Content::Grant(grant)) => {
                malformed.extend(wrong_grant(grant));
                if grant.not_after_ms <= now_ms {
                    untimely.push(format!("it ended at {}", time(grant.not_after_ms)));
                }
                if grant.issued_at_ms > now_ms.saturating_add(SKEW_MS) {
                    untimely.push(format!("it is of the future, {}", time(grant.issued_at_ms)));
                }
            }
            Some(Content::Policy(policy)) => {
                malformed.extend(wrong_policy(policy));
                if policy.not_after_ms != 0 && policy.not_after_ms <= now_ms {
                    untimely.push(format!("it ended at {}", time(policy.not_after_ms)));
                }
                if policy.issued_at_ms > now_ms.saturating_add(SKEW_MS) {
                    untimely.push(format!("it is of the future, {}", time(policy.issued_at_ms)));
                }
            }
            Some(Content::Revocation(one)) => {
                malformed.extend(revocation::wrong(one));
                let ahead = one.issued_before_ms > now_ms.saturating_add(SKEW_MS);
                if ahead && one.grant_ids.is_empty() {
                    untimely.push(format!("it is of the future, {}", time(one.issued_before_ms)));
                }
            }
            None => {}
        }
        Ok(Self {
            payload_sha256: hex::encode(Sha256::digest(&envelope.payload)),
            signatures: states(&envelope, keys),
            envelope,
            content,
            malformed,
            untimely,
        })
    }

    /// Number of distinct given keys with a good signature.
    pub fn good(&self) -> usize {
        let is_good = |state: &&SignatureState| matches!(state, SignatureState::Good(_));
        self.signatures.iter().filter(is_good).count()
    }

    /// For people, safe for a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _infallible = writeln!(out, "{name:<11}{value}");
        };
        let payload = &self.envelope.payload;
        line("type", printable(&self.envelope.payload_type));
        line(
            "size",
            format!(
                "{} bytes; payload {}, SHA-256 {}",
                self.envelope.encoded_len(),
                payload.len(),
                self.payload_sha256
            ),
        );
        for (name, value) in self.fields() {
            line(name, value);
        }
        for (signature, state) in self.envelope.signatures.iter().zip(&self.signatures) {
            let named = match signature.key_id.as_str() {
                "" => "without a key_id".to_owned(),
                id => printable(id),
            };
            let is_approval = signature.assertion.is_some();
            let state = match state {
                SignatureState::Bad => "BAD: by none of the given keys".to_owned(),
                SignatureState::BadApproval(why) => {
                    format!("BAD: an approval by passkey: {}", printable(why))
                }
                SignatureState::Good(name) if is_approval => {
                    format!("good, by a passkey of {}", printable(name))
                }
                SignatureState::Good(name) => format!("good, by {}", printable(name)),
                SignatureState::Repeated(name) => {
                    format!("by {} again: it counts once", printable(name))
                }
                SignatureState::Unchecked if is_approval => {
                    "not checked: an approval by passkey, and no approver was given".to_owned()
                }
                SignatureState::Unchecked => "not checked: no public key was given".to_owned(),
            };
            line("signature", format!("{named}: {state}"));
        }
        if self.envelope.signatures.is_empty() {
            line("signature", "none".to_owned());
        }
        for why in self.malformed.iter().chain(&self.untimely) {
            line("PROBLEM", printable(why));
        }
        out
    }

    /// For programs (docs/json.md).
    pub fn json(&self) -> Value {
        let signatures = self.envelope.signatures.iter().zip(&self.signatures);
        let signatures = signatures.map(|(signature, state)| {
            let (word, by, why) = match state {
                SignatureState::Bad => ("bad", None, None),
                SignatureState::BadApproval(why) => ("bad", None, Some(why)),
                SignatureState::Good(name) => ("good", Some(name), None),
                SignatureState::Repeated(name) => ("repeated", Some(name), None),
                SignatureState::Unchecked => ("unchecked", None, None),
            };
            let by_passkey = signature.assertion.is_some();
            json!({
                "key_id": signature.key_id,
                "state": word,
                "by": by,
                "passkey": by_passkey,
                "why": why,
            })
        });
        let fields = self.fields().into_iter().map(|(name, value)| (name.to_owned(), value.into()));
        json!({
            "type": self.envelope.payload_type,
            "bytes": self.envelope.encoded_len(),
            "payload_bytes": self.envelope.payload.len(),
            "payload_sha256": self.payload_sha256,
            "payload": Value::Object(fields.collect()),
            "signatures": signatures.collect::<Vec<_>>(),
            "malformed": self.malformed,
            "untimely": self.untimely,
        })
    }

    /// The decoded payload, name and value, safe for a terminal.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        match &self.content {
            Some(Content::Checkpoint(one)) => checkpoint::fields(one),
            Some(Content::Grant(grant)) => grant_fields(grant),
            Some(Content::Policy(policy)) => policy_fields(policy),
            Some(Content::Revocation(one)) => revocation::fields(one),
            None => Vec::new(),
        }
    }
}

/// Decodes the payload, as a host does: wholly, or not at all.
fn content(envelope: &v1::Envelope) -> Result<Content, String> {
    let v1::Envelope { payload_type, payload, .. } = envelope;
    match payload_type.as_str() {
        CHECKPOINT_TYPE => exact::decode("jit.v1.Checkpoint", payload).map(Content::Checkpoint),
        GRANT_TYPE => exact::decode("jit.v1.Grant", payload).map(Content::Grant),
        POLICY_TYPE => exact::decode("jit.v1.Policy", payload).map(Content::Policy),
        REVOCATION_TYPE => exact::decode("jit.v1.Revocation", payload).map(Content::Revocation),
        _ => Err("its payload type is not that of grants, policies, revocations or checkpoints"
            .to_owned()),
    }
}

/// What each signature is. A signature is good for one key, and a key for one signature.
fn states(envelope: &v1::Envelope, keys: &[Trusted]) -> Vec<SignatureState> {
    let message = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
    let mut used: Vec<&PublicKey> = Vec::new();
    let mut state = |signature: &v1::Signature| {
        let is_approval = signature.assertion.is_some();
        let mut could: Vec<_> =
            keys.iter().filter(|one| one.approver.is_some() == is_approval).collect();
        // The key that it names is the one whose objection says most.
        could.sort_by_key(|one| !one.is_named(&signature.key_id));
        let mut first = None;
        for one in &could {
            match one.verifies(&message, signature) {
                Ok(()) if used.contains(&&one.key) => {
                    return SignatureState::Repeated(one.name.clone());
                }
                Ok(()) => {
                    used.push(&one.key);
                    return SignatureState::Good(one.name.clone());
                }
                Err(why) => first = first.or(why),
            }
        }
        match first {
            _ if could.is_empty() => SignatureState::Unchecked,
            None => SignatureState::Bad,
            Some(why) => SignatureState::BadApproval(why),
        }
    };
    envelope.signatures.iter().map(&mut state).collect()
}

fn wrong_grant(grant: &v1::Grant) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |is_wrong: bool, why: &str| {
        if is_wrong {
            wrong.push(why.to_owned());
        }
    };
    check(GrantId::from_bytes(&grant.id).is_none(), "its id has not 16 bytes");
    check(grant.hosts.is_empty(), "it names no host");
    check(grant.sources.is_empty(), "it names no source");
    check(grant.ports.is_empty(), "it names no port");
    check(grant.requester.trim().is_empty(), "it names no requester");
    check(grant.justification.trim().is_empty(), "it gives no justification");
    check(grant.not_after_ms <= grant.not_before_ms, "it ends before it begins");
    check(
        grant.sources.iter().any(|source| SourcePrefix::try_from(source).is_err()),
        "a source is no address or prefix",
    );
    check(grant.ports.iter().any(|range| PortRange::try_from(range).is_err()), "a port is none");
    wrong
}

fn wrong_policy(policy: &v1::Policy) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |is_wrong: bool, why: &str| {
        if is_wrong {
            wrong.push(why.to_owned());
        }
    };
    check(policy.hosts.is_empty(), "it names no host");
    check(policy.version == 0, "its version is 0");
    check(policy.author.trim().is_empty(), "it names no author");
    check(policy.justification.trim().is_empty(), "it gives no justification");
    wrong
}

fn grant_fields(grant: &v1::Grant) -> Vec<(&'static str, String)> {
    let lasts = grant.not_after_ms.saturating_sub(grant.not_before_ms);
    let lasts = std::time::Duration::from_millis(u64::try_from(lasts).unwrap_or(0));
    let mut fields = vec![
        ("grant", id(&grant.id)),
        ("hosts", texts(&grant.hosts)),
        ("sources", joined(grant.sources.iter().map(source))),
        ("ports", joined(grant.ports.iter().map(port))),
        (
            "window",
            format!(
                "{} to {} ({})",
                time(grant.not_before_ms),
                time(grant.not_after_ms),
                duration(lasts)
            ),
        ),
        ("issued", time(grant.issued_at_ms)),
        ("requester", printable(&grant.requester)),
        ("approvers", texts(&grant.approvers)),
        ("reason", printable(&grant.justification)),
    ];
    if !grant.ticket.is_empty() {
        fields.push(("ticket", printable(&grant.ticket)));
    }
    match grant.sessions() {
        v1::Sessions::Unspecified => {}
        v1::Sessions::Cut => fields.push(("sessions", "cut at the end".to_owned())),
        v1::Sessions::Drain => fields.push(("sessions", "go on after the end".to_owned())),
    }
    if grant.max_connections > 0 {
        fields.push(("lets in", counted(grant.max_connections, "connection")));
    }
    if !grant.replaces.is_empty() {
        fields.push(("replaces", id(&grant.replaces)));
    }
    fields
}

fn policy_fields(policy: &v1::Policy) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("policy", format!("version {}", policy.version)),
        ("hosts", texts(&policy.hosts)),
        ("issued", time(policy.issued_at_ms)),
        ("author", printable(&policy.author)),
        ("reason", printable(&policy.justification)),
    ];
    for section in &policy.ports {
        let range = section.range.as_ref().map_or_else(|| "no port".to_owned(), port);
        let mode = match section.mode() {
            v1::Mode::Unspecified => "no mode",
            v1::Mode::Enforce => "enforce",
            v1::Mode::Observe => "observe",
        };
        let sources = joined(section.sources.iter().map(source));
        let exemptions = match section.exemptions.len() {
            0 => String::new(),
            count => {
                format!("; {}", counted(u32::try_from(count).unwrap_or(u32::MAX), "exemption"))
            }
        };
        let longest =
            std::time::Duration::from_millis(u64::try_from(section.max_duration_ms).unwrap_or(0));
        fields.push((
            "port",
            format!(
                "{range} {mode}; grants up to {}, {}, for sources in {sources}{exemptions}",
                duration(longest),
                counted(section.approvals, "signature"),
            ),
        ));
    }
    fields
}

fn id(bytes: &[u8]) -> String {
    GrantId::from_bytes(bytes).map_or_else(|| hex::encode(bytes), |id| id.to_string())
}

fn source(source: &v1::Source) -> String {
    SourcePrefix::try_from(source)
        .map_or_else(|error| printable(&error.to_string()), |source| source.to_string())
}

fn port(range: &v1::PortRange) -> String {
    PortRange::try_from(range).map_or_else(|error| error, |range| range.to_string())
}

fn texts(texts: &[String]) -> String {
    match texts {
        [] => "nobody".to_owned(),
        texts => joined(texts.iter().map(|text| printable(text))),
    }
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}

fn time(milliseconds: i64) -> String {
    WallTime(milliseconds).exact()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keys::{Key, add_signature, seal},
        signing::{Algorithm, SigningKey},
        trusted::passkey,
    };

    const NOW: i64 = 1_803_888_060_000;

    fn key(algorithm: Algorithm) -> Key {
        let provider = rustls::crypto::ring::default_provider();
        Key::Pem(SigningKey::generate(algorithm, provider.secure_random).unwrap())
    }

    fn grant() -> v1::Grant {
        v1::Grant {
            id: vec![1; 16].into(),
            hosts: vec!["web-1".into()],
            sources: vec![v1::Source::from(&"203.0.113.7".parse().unwrap())],
            ports: vec!["22".parse::<PortRange>().unwrap().into()],
            issued_at_ms: NOW,
            not_before_ms: NOW,
            not_after_ms: NOW + 3_600_000,
            requester: "ana\u{1b}[2J".into(),
            justification: "disk full".into(),
            ..v1::Grant::default()
        }
    }

    fn inspect(envelope: &v1::Envelope, keys: &[Trusted], now_ms: i64) -> Inspection {
        Inspection::of(&envelope.encode_to_vec(), keys, now_ms).unwrap()
    }

    #[test]
    fn each_signature_is_good_bad_repeated_or_unchecked() {
        let (one, other, stranger) =
            (key(Algorithm::Ed25519), key(Algorithm::P256), key(Algorithm::P256));
        let mut envelope = seal(GRANT_TYPE, grant().encode_to_vec(), &[one, stranger]).unwrap();
        add_signature(&mut envelope, &other).unwrap();
        envelope.signatures.push(envelope.signatures[2].clone());
        let keys = [Trusted { name: "li".into(), key: other.public(), approver: None }];
        let found = inspect(&envelope, &keys, NOW);
        let (bad, good) = (SignatureState::Bad, SignatureState::Good("li".into()));
        let again = SignatureState::Repeated("li".into());
        assert_eq!(found.signatures, [bad.clone(), bad, good, again]);
        assert_eq!(found.good(), 1);
        assert!(found.malformed.is_empty() && found.untimely.is_empty());
        let approver = Trusted { approver: Some(passkey::party()), ..keys[0].clone() };
        for none in [&[][..], &[approver]] {
            let unchecked = inspect(&envelope, none, NOW);
            assert_eq!(unchecked.signatures, vec![SignatureState::Unchecked; 4]);
        }
        let unchecked = inspect(&envelope, &[], NOW);
        assert_eq!(unchecked.good(), 0);
    }

    #[test]
    fn an_approval_by_passkey_is_checked_as_hosts_do_and_says_what_is_wrong() {
        let key = SigningKey::generate(
            Algorithm::P256,
            rustls::crypto::ring::default_provider().secure_random,
        )
        .unwrap();
        let ana =
            Trusted { name: "ana".into(), key: key.public(), approver: Some(passkey::party()) };
        let mut envelope = seal(GRANT_TYPE, grant().encode_to_vec(), &[]).unwrap();
        let message = pre_authentication_encoding(GRANT_TYPE, &envelope.payload);
        let good = passkey::assertion(&key, &message, passkey::ORIGIN);
        let elsewhere = passkey::assertion(&key, &message, "https://evil.example");
        let of_another = passkey::assertion(&key, b"another payload", passkey::ORIGIN);
        envelope.signatures = vec![elsewhere, of_another, good.clone(), good];
        let found = inspect(&envelope, std::slice::from_ref(&ana), NOW);
        let [elsewhere, of_another, good, again] = &found.signatures[..] else { panic!() };
        let why = |state: &SignatureState| match state {
            SignatureState::BadApproval(why) => why.clone(),
            other => panic!("{other:?}"),
        };
        assert!(why(elsewhere).contains("ana: the origin \"https://evil.example\""));
        assert!(why(of_another).contains("challenge"));
        assert_eq!(good, &SignatureState::Good("ana".into()));
        assert_eq!(again, &SignatureState::Repeated("ana".into()));
        assert!(found.text().contains("good, by a passkey of ana"), "{}", found.text());
        assert_eq!(found.json()["signatures"][2]["passkey"], true);
        let signer = Trusted { approver: None, ..ana };
        assert_eq!(inspect(&envelope, &[signer], NOW).signatures[2], SignatureState::Unchecked);
    }

    #[test]
    fn what_a_person_sees_is_the_payload_and_no_control_character() {
        let envelope = seal(GRANT_TYPE, grant().encode_to_vec(), &[]).unwrap();
        let found = inspect(&envelope, &[], NOW);
        let text = found.text();
        for part in [
            "sources    203.0.113.7\n",
            "ports      22/tcp\n",
            "window     2027-03-01T08:01:00Z to 2027-03-01T09:01:00Z (1h)\n",
            "requester  ana\\u{1b}[2J\n",
            "signature  none\n",
            &found.payload_sha256,
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert_eq!(found.json()["payload"]["hosts"], "web-1");
    }

    #[test]
    fn what_a_host_refuses_is_a_problem() {
        let inspected = |change: fn(&mut v1::Grant), now_ms| {
            let mut grant = grant();
            change(&mut grant);
            inspect(&seal(GRANT_TYPE, grant.encode_to_vec(), &[]).unwrap(), &[], now_ms)
        };
        assert_eq!(inspected(|g| g.hosts.clear(), NOW).malformed, ["it names no host"]);
        assert_eq!(
            inspected(|g| g.id = vec![1].into(), NOW).malformed,
            ["its id has not 16 bytes"]
        );
        assert_eq!(inspected(|g| g.not_after_ms = g.not_before_ms, NOW).malformed.len(), 1);
        assert!(inspected(|_| {}, NOW + 3_600_000).untimely[0].contains("ended"));
        assert!(inspected(|_| {}, NOW - 120_000).untimely[0].contains("future"));
        let mut unknown = grant().encode_to_vec();
        unknown.extend([0xf8, 0x07, 0x01]);
        let unknown = inspect(&seal(GRANT_TYPE, unknown, &[]).unwrap(), &[], NOW);
        assert!(unknown.content.is_none() && unknown.malformed[0].contains("does not know"));
        let other = inspect(&seal("text/plain", b"x".to_vec(), &[]).unwrap(), &[], NOW);
        assert!(other.malformed[0].contains("payload type"));
        assert!(Inspection::of(b"\xff", &[], NOW).is_err());
    }

    #[test]
    fn a_policy_is_shown_with_its_ports() {
        let policy = v1::Policy {
            hosts: vec!["web-1".into()],
            version: 7,
            issued_at_ms: NOW,
            author: "ana".into(),
            justification: "new".into(),
            ports: vec![v1::PolicyPort {
                range: Some("22".parse::<PortRange>().unwrap().into()),
                mode: v1::Mode::Enforce.into(),
                approvals: 2,
                max_duration_ms: 3_600_000,
                ..v1::PolicyPort::default()
            }],
            ..v1::Policy::default()
        };
        let found = inspect(&seal(POLICY_TYPE, policy.encode_to_vec(), &[]).unwrap(), &[], NOW);
        assert!(found.malformed.is_empty(), "{:?}", found.malformed);
        assert!(found.text().contains("22/tcp enforce; grants up to 1h, 2 signatures"));
    }
}
