//! Azure: the attested document of a virtual machine. It proves its id (`vmId`) and its
//! subscription, with a nonce of ours; its resource group and its name are not signed, so that an
//! administrator says which host has that id.
//!
//! What counts is the certificate that really signed, its name (`metadata.azure.com`), and a way
//! from it to a root of the configuration, at the time of now. Azure sends no certificates between
//! them, or not all: those that it does not send are in the configuration too. None is ever fetched
//! from an address that the document names.

use std::{collections::BTreeSet, time::Duration};

use jiff::{Timestamp, fmt::strtime};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage, ring};

use super::pkcs7::{self, Message, SignedError};
use crate::{
    enrol::proof::{Facts, Method, Proof},
    model::Host,
};

/// The label with which an administrator says which virtual machine a host is.
pub const LABEL: &str = "azure_vm_id";
/// How much Azure's clock may differ, milliseconds.
const LEEWAY_MS: i64 = 60_000;
/// The names of who signs; or one with a label before it: `eastus.metadata.azure.com`.
const NAMES: [&str; 2] = ["metadata.azure.com", "metadata.azure.us"];
/// With what authorities may sign.
const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 5] = [
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
];

/// Why a document proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AzureError {
    /// The signer's certificate comes from no root that counts.
    #[error("the certificate of its signer leads to no root of [enrolment.azure]: {0}")]
    Chain(String),
    /// What is signed is no such document.
    #[error("it is no attested document: {0}")]
    Document(String),
    /// It is too old, or of the future.
    #[error("it counts from {from} until {until}, and not now")]
    Ended {
        /// When it was made.
        from: String,
        /// When it ends.
        until: String,
    },
    /// The host is in another subscription.
    #[error("the machine is in the subscription {0}, and the host {1} is not")]
    Foreign(String, String),
    /// Two hosts have the label.
    #[error("the hosts {0} and {1} both have the label azure_vm_id = {2}; remove one of them")]
    Double(String, String, String),
    /// The signer has another name.
    #[error("the certificate of its signer is not of metadata.azure.com or metadata.azure.us")]
    Name,
    /// The nonce is not ours.
    #[error("its nonce is not the one that was given; fetch it again, with a new one")]
    Nonce,
    /// It is not signed as it should be.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// A subscription that is not in the configuration.
    #[error("the subscription {0} is not among [enrolment.azure] subscriptions")]
    Subscription(String),
    /// No host has the id of this machine.
    #[error("no host has the label azure_vm_id = {0}; add it to the host that it is")]
    Unknown(String),
}

/// Whose machines may enrol.
#[derive(Clone, Debug, Default)]
pub struct Azure {
    /// Roots, as certificates, DER.
    pub roots: Vec<CertificateDer<'static>>,
    /// Certificates between a signer's and a root, which need not come with a document.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// Subscriptions, in small letters.
    pub subscriptions: BTreeSet<String>,
}

/// A virtual machine that Azure has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    vm_id: String,
    subscription: String,
    facts: Facts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    nonce: String,
    subscription_id: String,
    time_stamp: Times,
    vm_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    created_on: String,
    expires_on: String,
}

impl Azure {
    /// The machine that a document names. `text`: its `signature`. `nonce`: the one that this host
    /// was given, which has not ended and was taken for the first time.
    ///
    /// # Errors
    /// All that are about the document.
    pub fn machine(&self, text: &str, nonce: &str, now_ms: i64) -> Result<Machine, AzureError> {
        let bytes = pkcs7::bytes(text)?;
        let message = Message::read(&bytes)?;
        let signed = message.signed(message.certificates().iter().copied())?;
        self.check_signer(signed.certificate, message.certificates(), now_ms)?;
        let read: Document = serde_json::from_slice(&signed.content)
            .map_err(|why| AzureError::Document(why.to_string()))?;
        if nonce.is_empty() || read.nonce != nonce {
            return Err(AzureError::Nonce);
        }
        let Times { created_on: from, expires_on: until } = read.time_stamp;
        if time(&from)? > now_ms.saturating_add(LEEWAY_MS)
            || time(&until)? <= now_ms.saturating_sub(LEEWAY_MS)
        {
            return Err(AzureError::Ended { from, until });
        }
        let vm_id = id("vmId", &read.vm_id)?;
        let subscription = id("subscriptionId", &read.subscription_id)?;
        if !self.subscriptions.contains(&subscription) {
            return Err(AzureError::Subscription(subscription));
        }
        let facts =
            [("subscription", subscription.clone()), ("vm_id", vm_id.clone()), ("until", until)];
        Ok(Machine { vm_id, subscription, facts: facts.into() })
    }

    /// The certificate has the name of Azure's metadata service, and a way to a root.
    fn check_signer(&self, signer: &[u8], bag: &[&[u8]], now_ms: i64) -> Result<(), AzureError> {
        let failed = |why: webpki::Error| AzureError::Chain(format!("{why:?}"));
        let signer = CertificateDer::from(signer);
        let signer = EndEntityCert::try_from(&signer).map_err(failed)?;
        let anchors: Vec<TrustAnchor<'_>> = self
            .roots
            .iter()
            .map(webpki::anchor_from_trusted_cert)
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let sent = bag.iter().map(|der| CertificateDer::from(*der));
        let between: Vec<_> = sent.chain(self.intermediates.iter().cloned()).collect();
        let now = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(now);
        let usage = KeyUsage::server_auth();
        let path = signer.verify_for_usage(&ALGORITHMS, &anchors, &between, now, usage, None, None);
        path.map_err(failed)?;
        // The names of those between change when Microsoft moves to another authority.
        let is_azures = |name: &str| {
            let name = name.to_ascii_lowercase();
            let below = |of: &str| name.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
            NAMES.iter().any(|of| name == *of || below(of))
        };
        if signer.valid_dns_names().any(is_azures) { Ok(()) } else { Err(AzureError::Name) }
    }
}

impl Machine {
    /// Its id, in small letters.
    pub fn vm_id(&self) -> &str {
        &self.vm_id
    }

    /// That it is the host with its id as a label.
    ///
    /// # Errors
    /// No host has it, or two, or one of another subscription.
    pub fn prove<'h>(self, hosts: impl IntoIterator<Item = &'h Host>) -> Result<Proof, AzureError> {
        let has = |host: &&Host| {
            host.labels.get(LABEL).is_some_and(|label| label.eq_ignore_ascii_case(&self.vm_id))
        };
        let mut own = hosts.into_iter().filter(has);
        let Some(host) = own.next() else { return Err(AzureError::Unknown(self.vm_id)) };
        if let Some(other) = own.next() {
            return Err(AzureError::Double(host.id.clone(), other.id.clone(), self.vm_id));
        }
        // The id of a host is often that of its resource.
        let folded = host.id.to_ascii_lowercase();
        if let Some(resource) = folded.strip_prefix("/subscriptions/")
            && resource.split('/').next() != Some(&self.subscription)
        {
            return Err(AzureError::Foreign(self.subscription, host.id.clone()));
        }
        let machine = format!("azure:{}", self.vm_id);
        Ok(Proof::new(host.id.clone(), Method::Azure, machine, self.facts))
    }
}

/// `09/25/26 08:42:17 -0000`, as milliseconds since the Unix epoch.
fn time(text: &str) -> Result<i64, AzureError> {
    let read = strtime::parse("%m/%d/%y %H:%M:%S %z", text).and_then(|parts| parts.to_timestamp());
    read.map(Timestamp::as_millisecond)
        .map_err(|why| AzureError::Document(format!("timeStamp {text:?}: {why}")))
}

/// An id of 32 hex digits in five groups, in small letters.
fn id(field: &str, text: &str) -> Result<String, AzureError> {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    let is_hex = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    match groups == [8, 4, 4, 4, 12] && is_hex {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(AzureError::Document(format!("{field} is no id"))),
    }
}

#[cfg(test)]
mod tests;
