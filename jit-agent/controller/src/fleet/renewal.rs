//! Has a host's certificate renewed in the last third of its time, over the connection that the
//! host has made with it: the host makes a key and a request, the signer's process issues, and the
//! host takes what it finds good. Only certificates that were issued here (`enrol`) are renewed.
//! When it is time for hosts at hubs of the bus, `far::renewals` knows.

use std::{sync::Arc, time::Duration};

use jit_client::{
    CallError,
    pem::{Holds, certificates},
};
use jit_proto::{pem, printable::clean, v1::RequestCertificateResponse};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Shared,
    backoff::{Backoff, random},
    connection::{Connection, Shown},
    link::Link,
    outbox::Outbox,
    reach::Caller,
};
use crate::{
    clock::now_ms,
    enrol::{
        renew,
        request::{Request, is_proven},
    },
    store::{HostCertificate, StoreError},
};

/// From this part of a certificate's time on, in percent, it is renewed, by chance up to so much
/// later: hosts that have enrolled together do not come together.
pub(super) const FROM: u8 = 60;
const SPREAD: f64 = 1.0 / 15.0;
/// The longest wait for the signer's process, and how often it is looked for what it has issued.
const ISSUED: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(250);
/// Longest word and sentence of a host that are kept, characters.
const WORD: usize = 64;
const SENTENCE: usize = 1000;
/// Between two attempts.
pub(super) const AGAIN: Backoff =
    Backoff { first: Duration::from_secs(4), most: Duration::from_secs(15 * 60) };

/// Renews a certificate until it is dropped.
pub(super) struct Renewal(AbortHandle);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a certificate was not renewed.
pub(super) enum Trouble {
    /// On this connection it never will be.
    Never(String),
    /// Not now.
    Later(String),
    /// The store says that it is not to be.
    Over(String),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        match error {
            // It would say so again. An older agent, which does not know the call, may be updated.
            CallError::Refused { .. } => Self::Never(error.to_string()),
            CallError::Files(_) | CallError::Unavailable(_) => Self::Later(error.to_string()),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

/// Has the certificate of this connection renewed when it is time, if it has one that may be.
pub(super) fn start(
    shared: &Arc<Shared>,
    host: &str,
    link: &Arc<Link>,
    connection: &Connection,
) -> Option<Renewal> {
    let shown = connection.shown.clone().filter(|shown| shown.may_end_soon(now_ms()))?;
    let renewing = Renewing {
        shared: Arc::clone(shared),
        host: host.to_owned(),
        link: Arc::clone(link),
        caller: Caller::Own(Box::new(connection.agent.clone())),
    };
    // While its handle is kept, a task that has ended keeps its place: that is to be small.
    Some(Renewal(tokio::spawn(Box::pin(renewing.run(shown))).abort_handle()))
}

struct Renewing {
    shared: Arc<Shared>,
    host: String,
    link: Arc<Link>,
    caller: Caller,
}

impl Renewing {
    async fn run(mut self, shown: Shown) {
        let turn = self.shared.reads.acquire().await;
        let found = self.shared.outbox.store().certificate(&shown.serial).await;
        drop(turn);
        let shown = match found {
            Ok(found) => found.filter(|one| one.host == self.host),
            Err(error) => {
                tracing::warn!(%error, host = self.host, "its certificate cannot be looked up");
                None
            }
        };
        // Somebody else has issued it, and renews it.
        let Some(shown) = shown else { return };
        let wait_ms = due_ms(&shown, random()).saturating_sub(now_ms());
        sleep(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0))).await;
        let mut failed = 0_u32;
        loop {
            match Box::pin(self.renew(&shown)).await {
                Ok(_) => return,
                Err(Trouble::Never(why) | Trouble::Over(why)) => {
                    tracing::warn!(host = self.host, "its certificate is not renewed: {why}");
                    return;
                }
                Err(Trouble::Later(why)) => {
                    if failed == 0 {
                        let text = "its certificate is not renewed yet";
                        tracing::warn!(host = self.host, "{text}: {why}");
                    }
                }
            }
            failed = failed.saturating_add(1);
            sleep(AGAIN.pause(failed, random())).await;
        }
    }

    async fn renew(&mut self, shown: &HostCertificate) -> Result<Renewed, Trouble> {
        if self.link.may_be_disputed() {
            return Err(Trouble::Later("two machines are connected as this host".into()));
        }
        renew(&self.shared.outbox, &self.host, &mut self.caller, Some(shown)).await
    }
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// It was brought, and who brought it says that the host has taken it.
    Brought,
    /// The host has proven that it has a later one.
    Proven,
}

/// One attempt. `shown`: the certificate that the host has shown here; `None`: a hub passes on what
/// the host says, and the host proves which it has. It may have a later one already.
pub(super) async fn renew(
    outbox: &Outbox,
    host: &str,
    caller: &mut Caller,
    shown: Option<&HostCertificate>,
) -> Result<Renewed, Trouble> {
    let asked = caller.request_certificate().await?;
    if asked.standing != "ready" {
        let (word, detail) = (clean(&asked.standing, WORD), clean(&asked.detail, SENTENCE));
        return Err(Trouble::Never(format!("{word}: {detail}")));
    }
    let proven;
    let shown = match shown {
        Some(shown) => shown,
        None => {
            proven = proven_by(outbox, host, &asked).await?;
            if !is_due(&proven, now_ms()) {
                return Ok(Renewed::Proven);
            }
            &proven
        }
    };
    let request = Request::read(&pem::encode("CERTIFICATE REQUEST", &asked.csr));
    let request = request.map_err(|why| Trouble::Never(format!("its request: {why}")))?;
    let issued = issued(outbox, shown, &request).await?;
    let chain = certificates(&issued.pem, Holds::One);
    let chain = chain.map_err(|why| Trouble::Never(why.to_string()))?;
    let leaf = chain.first().ok_or_else(|| Trouble::Never("it has no certificate".into()))?;
    let answer = caller.install_certificate(leaf.to_vec()).await?;
    match answer.standing.as_str() {
        "installed" => {
            let end_ms = issued.not_after_ms;
            tracing::info!(host, end_ms, "its certificate was renewed");
            Ok(Renewed::Brought)
        }
        standing => {
            let (word, detail) = (clean(standing, WORD), clean(&answer.detail, SENTENCE));
            Err(Trouble::Later(format!("{word}: {detail}")))
        }
    }
}

/// The certificate of which the host has proven that it has the key. A hub that was broken into
/// could ask in a host's name.
async fn proven_by(
    outbox: &Outbox,
    host: &str,
    asked: &RequestCertificateResponse,
) -> Result<HostCertificate, Trouble> {
    if asked.proof.is_empty() {
        return Err(Trouble::Never(
            "its agent does not prove that it asks: an older one cannot. Update it, or let the host \
             enrol again before its certificate ends"
                .into(),
        ));
    }
    let serial = Shown::of(&asked.certificate).map(|shown| shown.serial).unwrap_or_default();
    let known = outbox.store().certificate(&serial).await?.filter(|one| one.host == host);
    let known = known.ok_or_else(|| {
        Trouble::Never("the certificate that it has was not issued here for this host".into())
    })?;
    let chain = certificates(&known.pem, Holds::One).unwrap_or_default();
    if chain.first().is_some_and(|leaf| is_proven(leaf, &asked.csr, &asked.proof)) {
        Ok(known)
    } else {
        Err(Trouble::Later("the request is not from who has the host's key".into()))
    }
}

/// The certificate for a request, which the signer's process issues.
async fn issued(
    outbox: &Outbox,
    shown: &HostCertificate,
    request: &Request,
) -> Result<HostCertificate, Trouble> {
    let mut changes = outbox.changes();
    // One may be there from an attempt before.
    if let Some(found) = found(outbox, shown, request).await? {
        return Ok(found);
    }
    let mut turn = outbox.begin().await?;
    let wanted = renew::want(&mut turn.tx, shown, request, now_ms()).await?;
    turn.commit().await?;
    wanted.map_err(|why| Trouble::Over(why.to_string()))?;
    let until = Instant::now() + ISSUED;
    while Instant::now() < until {
        changes.borrow_and_update();
        if let Some(found) = found(outbox, shown, request).await? {
            return Ok(found);
        }
        let _by_the_clock = timeout_at(Instant::now() + LOOK, changes.changed()).await;
    }
    Err(Trouble::Later("the signer's process has issued none yet".into()))
}

async fn found(
    outbox: &Outbox,
    shown: &HostCertificate,
    request: &Request,
) -> Result<Option<HostCertificate>, Trouble> {
    let found = outbox.store().certificate_of_request(request.sha256()).await?;
    let later = |one: &HostCertificate| {
        one.not_after_ms > shown.not_after_ms && one.not_after_ms > now_ms()
    };
    Ok(found.filter(later))
}

/// When a certificate is renewed, milliseconds since the Unix epoch. `random`: any number.
fn due_ms(of: &HostCertificate, random: u32) -> i64 {
    let lifetime_ms = u64::try_from(of.not_after_ms.saturating_sub(of.issued_ms)).unwrap_or(0);
    let share = f64::from(FROM) / 100.0 + SPREAD * f64::from(random) / f64::from(u32::MAX);
    let after = Duration::from_millis(lifetime_ms).mul_f64(share).as_millis();
    of.issued_ms.saturating_add(i64::try_from(after).unwrap_or(i64::MAX))
}

fn is_due(of: &HostCertificate, now_ms: i64) -> bool {
    due_ms(of, 0) <= now_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn it_is_renewed_before_a_third_of_its_time_is_left_and_not_for_all_at_once() {
        let of = HostCertificate {
            serial: "40".into(),
            host: "web-1".into(),
            enrolment: "e".into(),
            csr_hash: String::new(),
            issued_ms: 100 * DAY,
            not_after_ms: 107 * DAY,
            pem: String::new(),
        };
        let (first, last) = (due_ms(&of, 0), due_ms(&of, u32::MAX));
        assert!((104 * DAY..105 * DAY).contains(&first), "{first}");
        assert!(last > first + DAY / 3 && 3 * (of.not_after_ms - last) >= 7 * DAY - 3, "{last}");
    }
}
