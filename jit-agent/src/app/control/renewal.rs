//! The certificate of `[uplink]` is renewed by a hub: the key is made here, and the certificate is
//! in use when the disk has both. The dialler then makes a connection with it before the one in use
//! ends.

use std::path::Path;

use jit_proto::v1;
use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use tokio::task::spawn_blocking;

use super::Keeper;
use crate::{
    control::{
        server::Renewing,
        tls::{NotRenewed, request},
    },
    disk::{
        audit::{EventCode, Record},
        renewed,
    },
    system::sys,
};

/// Why a certificate is not taken: the word, and what it means.
type Refused = (&'static str, String);

impl Keeper {
    /// Answers a hub.
    pub(super) async fn renew(&mut self, asked: Renewing, state: &Path) {
        // Whoever asked may be gone.
        match asked {
            Renewing::Request(reply) => {
                let _gone = reply.send(match self.request() {
                    Ok(ready) => ready,
                    Err((word, detail)) => v1::RequestCertificateResponse {
                        standing: word.into(),
                        detail,
                        ..v1::RequestCertificateResponse::default()
                    },
                });
            }
            Renewing::Install { certificate, by, reply } => {
                let installed = self.install(&certificate, &by, state).await;
                if let Err((word, detail)) = &installed {
                    self.record_refusal(word, detail, &by).await;
                }
                let _gone = reply.send(match installed {
                    Ok(not_after_ms) => v1::InstallCertificateResponse {
                        standing: "installed".into(),
                        not_after_ms,
                        ..v1::InstallCertificateResponse::default()
                    },
                    Err((word, detail)) => v1::InstallCertificateResponse {
                        standing: word.into(),
                        detail,
                        ..v1::InstallCertificateResponse::default()
                    },
                });
            }
        }
    }

    /// The request for the next certificate.
    fn request(&mut self) -> Result<v1::RequestCertificateResponse, Refused> {
        let used = self.hub_material.as_ref().ok_or_else(no_uplink)?;
        used.may_be_renewed().map_err(refused)?;
        let failed = |error: rcgen::Error| ("storage", format!("no key can be made: {error}"));
        let pair = match self.next_key.take() {
            Some(pair) => pair,
            None => KeyPair::generate().map_err(failed)?,
        };
        let csr = request(self.next_key.insert(pair)).map_err(failed)?;
        let (certificate, proof) = used.proves(&csr);
        Ok(v1::RequestCertificateResponse {
            standing: "ready".into(),
            csr: csr.into(),
            certificate: certificate.into(),
            proof: proof.into(),
            ..v1::RequestCertificateResponse::default()
        })
    }

    /// Takes a certificate; returns its end.
    async fn install(
        &mut self,
        certificate: &[u8],
        by: &str,
        state: &Path,
    ) -> Result<i64, Refused> {
        let used = self.hub_material.as_ref().ok_or_else(no_uplink)?;
        let pair = self.next_key.as_ref().ok_or_else(|| {
            ("no_request", "no key waits for a certificate: ask for a request first".to_owned())
        })?;
        let key = PrivateKeyDer::try_from(pair.serialize_der());
        let key = key.map_err(|why| (NotRenewed::AnotherKey.word(), why.to_owned()))?;
        let new = used.renewed(certificate, key, sys::now().wall).map_err(refused)?;
        let (text, state) = (new.to_pem(), state.to_owned());
        let written = spawn_blocking(move || renewed::write(&state, &text)).await;
        let written = written.map_err(|error| error.to_string());
        let written = written.and_then(|done| done.map_err(|error| error.to_string()));
        written.map_err(|why| ("storage", why))?;
        let end = new.end.at;
        let record = Record::new(EventCode::CertificateRenewed)
            .by(by)
            .with("not_after", end.to_string())
            .with("fingerprint", new.fingerprint());
        (self.next_key, self.not_renewed, self.hub_material) = (None, None, Some(new));
        tracing::info!(%end, "the certificate of [uplink] was renewed");
        self.set_certificate_ends().await;
        let _gone = self.gate.record(record).await;
        Ok(end.0)
    }

    /// Records why a certificate was refused, if that is news.
    async fn record_refusal(&mut self, word: &'static str, detail: &str, by: &str) {
        if self.not_renewed.replace(word) == Some(word) {
            return;
        }
        tracing::warn!("a certificate from a hub was refused: {detail}");
        let record = Record::new(EventCode::CertificateRefused).by(by).reason(word).detail(detail);
        let _gone = self.gate.record(record).await;
    }
}

fn refused(why: NotRenewed) -> Refused {
    (why.word(), why.text().to_owned())
}

fn no_uplink() -> Refused {
    ("no_uplink", "no certificate of [uplink] is in use".to_owned())
}
