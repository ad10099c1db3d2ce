//! The next certificate of a host that has one: wanted in the name of the enrolment from which the
//! last one comes, for as long as that enrolment counts.

use serde_json::json;

use super::{
    admit::{NotRenewed, renews},
    request::Request,
};
use crate::{
    audit::{self, Code, Record},
    store::{CertificateWanted, HostCertificate, StoreError, Tx, enrolments},
};

/// Has the signer's process issue the next certificate of a host that has shown this one. Why it
/// does not, is in the audit.
///
/// # Errors
/// Those of the database.
pub async fn want(
    tx: &mut Tx,
    shown: &HostCertificate,
    request: &Request,
    now_ms: i64,
) -> Result<Result<(), NotRenewed>, StoreError> {
    let host = &shown.host;
    let current = enrolments::of_host(tx, host).await?;
    if let Err(why) = renews(host, Some(shown), current.as_ref(), now_ms) {
        let fields = json!({
            "host": host, "enrolment": shown.enrolment, "serial": shown.serial,
            "text": why.to_string(),
        });
        let by = crate::desk::CONTROLLER;
        audit::append(tx, now_ms, &Record::new(Code::NotRenewed, "", by, fields)).await?;
        return Ok(Err(why));
    }
    let wanted = CertificateWanted {
        csr_hash: request.sha256().to_owned(),
        host: host.clone(),
        enrolment: shown.enrolment.clone(),
        csr: request.pem().to_owned(),
        since_ms: now_ms,
    };
    enrolments::want(tx, &wanted).await?;
    Ok(Ok(()))
}
