//! Certificates that are wanted are issued by the signer's process, which alone has the key: the
//! API's process writes down what it wants, and finds the answer in the store.

use serde_json::json;

use crate::{
    audit::{self, Code, Record},
    signer::{CertificateWish, Signer, SignerError},
    store::{CertificateWanted, HostCertificate, Store, StoreError, enrolments},
};

/// The most that are issued at a time.
const MOST: u32 = 64;

/// Why certificates stay wanted.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The signer.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Issues what is wanted, and returns the number of certificates. Call it again until it is 0.
///
/// # Errors
/// The signer or the database: the rest stays wanted.
pub async fn issue_wanted(
    store: &Store,
    signer: &Signer,
    now_ms: i64,
) -> Result<usize, CertifyError> {
    let mut issued = 0;
    for one in store.certificates_wanted(MOST).await? {
        // Another enrolment may have taken its place since.
        if store.enrolment_counts(&one.enrolment).await? {
            issued += usize::from(issue(store, signer, &one, now_ms).await?);
        } else {
            drop_wish(store, &one).await?;
        }
    }
    Ok(issued)
}

async fn issue(
    store: &Store,
    signer: &Signer,
    wanted: &CertificateWanted,
    now_ms: i64,
) -> Result<bool, CertifyError> {
    let known = store.host(&wanted.host).await?;
    let name = known.map(|known| known.host.server_name).filter(|name| !name.is_empty());
    let wish = CertificateWish {
        csr: wanted.csr.clone(),
        host: wanted.host.clone(),
        dns: name.into_iter().collect(),
    };
    let made = match signer.certify(wish).await {
        Ok(made) => made,
        Err(SignerError::Refused { word, detail }) if word == "malformed" => {
            tracing::warn!(host = wanted.host, "no certificate is issued: {detail}");
            drop_wish(store, wanted).await?;
            return Ok(false);
        }
        Err(other) => return Err(other.into()),
    };
    let new = HostCertificate {
        serial: made.serial,
        host: wanted.host.clone(),
        enrolment: wanted.enrolment.clone(),
        csr_hash: wanted.csr_hash.clone(),
        issued_ms: now_ms,
        not_after_ms: made.not_after_ms,
        pem: made.certificate,
    };
    let mut tx = store.begin().await?;
    // Of two processes that issue at once, the certificate of one is kept.
    if !enrolments::unwant(&mut tx, &wanted.csr_hash).await? {
        return Ok(false);
    }
    enrolments::add_certificate(&mut tx, &new).await?;
    let fields = json!({
        "host": new.host, "enrolment": new.enrolment, "serial": new.serial, "csr": new.csr_hash,
        "ends_ms": new.not_after_ms,
    });
    let by = crate::desk::CONTROLLER;
    audit::append(&mut tx, now_ms, &Record::new(Code::CertificateIssued, "", by, fields)).await?;
    tx.commit().await?;
    Ok(true)
}

async fn drop_wish(store: &Store, wanted: &CertificateWanted) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    enrolments::unwant(&mut tx, &wanted.csr_hash).await?;
    tx.commit().await
}
