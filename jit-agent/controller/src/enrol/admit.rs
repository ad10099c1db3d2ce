//! Who gets a certificate at once, and for whom a person must decide.
//!
//! Every process of a machine can fetch what its cloud signs, and a token can be copied. So a host
//! enrols once, whoever is first (trust on first use); whoever comes second, with the same name or
//! from the same machine, waits for a person, and that is an alarm. Later certificates come over
//! the connection that the host has with its last one ([`renews`]).

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    attest::azure,
    proof::{Method, Proof},
    request::Request,
    token::Taken,
};
use crate::{
    audit::{self, Code, Record},
    model::Host,
    store::{
        CertificateWanted, Enrolment, EnrolmentState, HostCertificate, StoreError, Tx,
        enrolments::{self, folded},
        hosts,
    },
};

/// How long the same request gets the same answer again, milliseconds: the first one may be lost.
pub const AGAIN_MS: i64 = 15 * 60_000;
/// The most requests of a host or a machine that wait.
const MOST_WAITING: usize = 4;

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It was let in before, just now: the certificate of that enrolment once more.
    Again(String),
    /// It is the first of its host and of its machine: a certificate.
    Issue,
    /// Never; in words.
    Refuse(String),
    /// A person decides; why, in words.
    Wait(String),
    /// The same one waits already: its id.
    Waiting(String),
}

/// What is known when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Known<'k> {
    /// Labels of the token that came with it; `None`: it came without.
    pub labels: Option<&'k BTreeMap<String, String>>,
    /// Clouds that are believed here.
    pub believed: &'k [Method],
    /// The host in the inventory, by its id in any case of letters.
    pub host: Option<&'k InInventory>,
    /// All enrolments of the host or of the machine.
    pub earlier: &'k [Enrolment],
    /// The one that counts for the host.
    pub current: Option<&'k Enrolment>,
}

/// A host in the inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InInventory {
    /// Its id, as it is written there.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When its agent last answered, milliseconds since the Unix epoch; 0: never.
    pub seen_ms: i64,
}

/// Decides.
pub fn decide(proof: &Proof, csr_hash: &str, known: &Known<'_>, now_ms: i64) -> Decision {
    let host = proof.host_id();
    if let Some(other) = known.host.filter(|one| one.id != host) {
        return Decision::Refuse(format!(
            "the host is called {} here: write it so in [host] id of its configuration",
            other.id
        ));
    }
    if let (Some(wanted), Some(own)) = (known.labels, known.host) {
        let lacks = |(key, value): &(&String, &String)| own.labels.get(*key) != Some(*value);
        if let Some((key, value)) = wanted.iter().find(lacks) {
            return Decision::Refuse(format!(
                "the token is for hosts with the label {key} = {value}, and {host} has another one"
            ));
        }
    }
    let same = |one: &&Enrolment| {
        one.csr_hash == csr_hash && one.host == host && one.machine == proof.machine()
    };
    if let Some(one) = known.earlier.iter().rfind(same) {
        let counts = known.current.is_some_and(|current| current.id == one.id);
        let since_ms = now_ms.saturating_sub(one.created_ms.max(one.decided_ms));
        match one.state {
            EnrolmentState::Refused => {
                return Decision::Refuse(
                    "a person has refused this request; make a new key to ask again".into(),
                );
            }
            EnrolmentState::Waiting => return Decision::Waiting(one.id.clone()),
            EnrolmentState::Issued if counts && since_ms < AGAIN_MS => {
                return Decision::Again(one.id.clone());
            }
            EnrolmentState::Issued => {}
        }
    }
    let waiting = known.earlier.iter().filter(|one| one.state == EnrolmentState::Waiting);
    if waiting.count() >= MOST_WAITING {
        return Decision::Refuse(format!(
            "{MOST_WAITING} requests for {host} wait for a person already; decide on them first"
        ));
    }
    if let Some(one) = known.earlier.last() {
        let why = match (folded(&one.host) == folded(host), one.machine == proof.machine()) {
            (true, true) => format!("{host} has asked before, from this machine"),
            (true, false) => {
                format!("{host} has asked before, from another machine ({})", one.machine)
            }
            (false, _) => format!("this machine has asked before, as the host {}", one.host),
        };
        return Decision::Wait(why);
    }
    // Who has a token only says that he is this host.
    if proof.method() == Method::Token {
        if known.host.is_some_and(|one| one.seen_ms > 0) {
            return Decision::Wait(format!(
                "{host} is a host that has answered before, and a token does not prove that it is this one"
            ));
        }
        if let Some(cloud) = known.believed.iter().find(|one| is_named(**one, host, known.host)) {
            return Decision::Wait(format!(
                "{host} is a machine that can prove it (--identity {}), and a token does not prove that it is \
                 this one",
                cloud.word()
            ));
        }
    }
    Decision::Issue
}

/// Whether this cloud proves that a machine is this host: by the form of its id, or the label in the
/// inventory.
fn is_named(cloud: Method, host: &str, known: Option<&InInventory>) -> bool {
    let host = host.to_ascii_lowercase();
    match cloud {
        Method::Arc => {
            host.starts_with("/subscriptions/") && host.contains("/microsoft.hybridcompute/")
        }
        Method::Azure => known.is_some_and(|one| one.labels.contains_key(azure::LABEL)),
        Method::Ec2 => host.starts_with("arn:aws") && host.contains(":ec2:"),
        Method::Gcp => host.starts_with("//compute.googleapis.com/"),
        Method::Token => false,
    }
}

/// Decides, and writes down what follows, with its record in the audit. `None` for a decision by
/// which nothing new is kept.
///
/// # Errors
/// Those of the database.
pub async fn admit(
    tx: &mut Tx,
    proof: &Proof,
    request: &Request,
    token: Option<&Taken>,
    believed: &[Method],
    now_ms: i64,
) -> Result<(Decision, Option<Enrolment>), StoreError> {
    let host = proof.host_id();
    let earlier = enrolments::earlier(tx, host, proof.machine()).await?;
    let current = enrolments::of_host(tx, host).await?;
    let inventory = inventory(tx, host).await?;
    let known = Known {
        labels: token.map(Taken::labels),
        believed,
        host: inventory.as_ref(),
        earlier: &earlier,
        current: current.as_ref(),
    };
    let mut decision = decide(proof, request.sha256(), &known, now_ms);
    if !matches!(decision, Decision::Issue | Decision::Wait(_)) {
        return Ok((decision, None));
    }
    let facts = proof.facts().iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let mut new = Enrolment {
        id: ulid::Ulid::generate().to_string(),
        host: host.to_owned(),
        method: proof.method().word().to_owned(),
        machine: proof.machine().to_owned(),
        facts: facts.collect(),
        token: token.map(|token| token.id().to_owned()).unwrap_or_default(),
        csr: request.pem().to_owned(),
        csr_hash: request.sha256().to_owned(),
        state: EnrolmentState::Issued,
        why: String::new(),
        created_ms: now_ms,
        decided_by: String::new(),
        decided_ms: 0,
    };
    // Of two at the same moment one is first, whatever both have seen before.
    if decision == Decision::Issue && !enrolments::be_first(tx, &new).await? {
        decision = Decision::Wait(format!("another request for {host} came at the same moment"));
    }
    if let Decision::Wait(why) = &decision {
        new.state = EnrolmentState::Waiting;
        new.why.clone_from(why);
    }
    enrolments::add(tx, &new).await?;
    let code = match new.state {
        EnrolmentState::Issued => Code::Enrolled,
        EnrolmentState::Refused | EnrolmentState::Waiting => Code::EnrolmentWaits,
    };
    let mut fields = json!({
        "host": new.host, "enrolment": new.id, "method": new.method, "machine": new.machine,
        "token": new.token, "csr": new.csr_hash,
    });
    if let Some(fields) = fields.as_object_mut().filter(|_| !new.why.is_empty()) {
        fields.insert("text".into(), new.why.as_str().into());
    }
    audit::append(tx, now_ms, &Record::new(code, "", host, fields)).await?;
    if new.state == EnrolmentState::Issued {
        let_in(tx, &new, inventory.is_some(), now_ms).await?;
    }
    Ok((decision, Some(new)))
}

/// What follows when a machine is a host: it is in the inventory, and its certificate is wanted.
async fn let_in(
    tx: &mut Tx,
    new: &Enrolment,
    is_known: bool,
    now_ms: i64,
) -> Result<(), StoreError> {
    if !is_known {
        let labels = match new.token.is_empty() {
            // What the cloud has signed of it, under names that say where it comes from.
            true => {
                let name = |fact: &String| format!("{}_{fact}", new.method);
                new.facts.iter().map(|(fact, value)| (name(fact), value.clone())).collect()
            }
            false => enrolments::token_labels(tx, &new.token).await?,
        };
        let host = Host { id: new.host.clone(), labels, ..Host::default() };
        hosts::put(tx, &host).await?;
        let fields = json!({
            "account": "", "host": host.id, "address": "", "server_name": "",
            "labels": host.labels, "groups": host.groups, "is_new": true,
        });
        audit::append(tx, now_ms, &Record::new(Code::HostChanged, "", &new.host, fields)).await?;
    }
    let wanted = CertificateWanted {
        csr_hash: new.csr_hash.clone(),
        host: new.host.clone(),
        enrolment: new.id.clone(),
        csr: new.csr.clone(),
        since_ms: now_ms,
    };
    enrolments::want(tx, &wanted).await
}

async fn inventory(tx: &mut Tx, host: &str) -> Result<Option<InInventory>, StoreError> {
    let Some((id, labels)) = hosts::in_any_case(tx, host).await? else { return Ok(None) };
    let observed = hosts::lock_observed(tx, &id).await?.unwrap_or_default();
    Ok(Some(InInventory { id, labels, seen_ms: observed.seen_ms }))
}

/// A person lets an enrolment in that waits. It takes the place of the one before it, whose
/// certificates do not count any more. `None`: it does not wait.
///
/// # Errors
/// Those of the database.
pub async fn approve(
    tx: &mut Tx,
    id: &str,
    by: &str,
    now_ms: i64,
) -> Result<Option<Enrolment>, StoreError> {
    if !enrolments::decided(tx, id, EnrolmentState::Issued, by, now_ms).await? {
        return Ok(None);
    }
    let Some(one) = enrolments::one(tx, id).await? else { return Ok(None) };
    enrolments::replace(tx, &one, now_ms).await?;
    let fields = json!({
        "enrolment": id, "verdict": one.state.word(), "host": one.host, "machine": one.machine,
    });
    audit::append(tx, now_ms, &Record::new(Code::EnrolmentDecided, "", by, fields)).await?;
    let is_known = hosts::in_any_case(tx, &one.host).await?.is_some();
    let_in(tx, &one, is_known, now_ms).await?;
    Ok(Some(one))
}

/// A person refuses one. `false`: it does not wait.
///
/// # Errors
/// Those of the database.
pub async fn refuse(tx: &mut Tx, id: &str, by: &str, now_ms: i64) -> Result<bool, StoreError> {
    let refused = enrolments::decided(tx, id, EnrolmentState::Refused, by, now_ms).await?;
    if refused {
        let verdict = EnrolmentState::Refused.word();
        let fields = json!({ "enrolment": id, "verdict": verdict });
        audit::append(tx, now_ms, &Record::new(Code::EnrolmentDecided, "", by, fields)).await?;
    }
    Ok(refused)
}

/// Why a host gets no new certificate over a connection that it has with an old one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// The certificate was issued here for nobody, or for another host.
    #[error("its certificate is none that was issued here for this host")]
    Unknown,
    /// It has ended: TLS lets none through, and nor does this.
    #[error("its certificate has ended; enrol it again")]
    Ended,
    /// Another enrolment has taken the place of its own.
    #[error("another machine has enrolled as this host since, and a person has let it")]
    Replaced,
}

/// Whether a host gets a new certificate over the connection that it has with this one. `host`: the
/// one that the certificate names. `current`: the enrolment that counts for it.
///
/// # Errors
/// [`NotRenewed`]
pub fn renews(
    host: &str,
    presented: Option<&HostCertificate>,
    current: Option<&Enrolment>,
    now_ms: i64,
) -> Result<(), NotRenewed> {
    let presented = presented.filter(|one| one.host == host).ok_or(NotRenewed::Unknown)?;
    if presented.not_after_ms <= now_ms {
        return Err(NotRenewed::Ended);
    }
    match current {
        Some(current) if current.id == presented.enrolment => Ok(()),
        _ => Err(NotRenewed::Replaced),
    }
}

#[cfg(test)]
mod tests;
