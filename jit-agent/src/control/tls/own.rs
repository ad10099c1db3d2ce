//! What `[control]` and `[uplink]` both have: the agent's certificate, its key, and the authorities that
//! vouch for the other side. Errors are of the section that names the file.

use std::{path::Path, sync::Arc};

use jit_client::pem::{self, Holds};
use jit_proto::WallTime;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use super::TlsError;
use crate::{
    control::{certificate::Facts, judge, link::Proofs},
    gate::about::CertificateEnd,
    system::{image::Files, sys::Readers},
};

/// The section of errors, before it is known better.
const SECTION: &str = "control";

/// Which section it is, and what its certificate must be good for.
#[derive(Debug)]
pub(super) struct Kind {
    /// Section of the configuration.
    pub(super) section: &'static str,
    /// Its key that names the authorities.
    pub(super) authorities: &'static str,
    /// Why nobody takes this certificate, whatever else is right; `None`: somebody does.
    pub(super) unfit: fn(&Facts) -> Option<String>,
}

/// The certificate, the key and the authorities.
#[derive(Clone, Debug)]
pub(super) struct Own {
    kind: &'static Kind,
    /// End of the certificate.
    pub(super) end: CertificateEnd,
    /// The certificate, and those that lead to an authority.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The authorities that vouch for the other side.
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// For the front, which makes the handshakes.
    key: Arc<Zeroizing<PrivateKeyDer<'static>>>,
}

impl Own {
    /// Reads the files of certificate, key and authorities.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn read(
        kind: &'static Kind,
        (certificate, key, ca): (&Path, &Path, &Path),
        files: &Files,
    ) -> Result<Self, Vec<TlsError>> {
        let read = (
            own_chain(kind, certificate, key, files),
            private_key(certificate, key, files),
            authorities(kind.authorities, ca, files),
        );
        match read {
            (Ok((chain, leaf)), Ok(private), Ok(roots)) => {
                let key = Arc::new(Zeroizing::new(private));
                Ok(Self { kind, end: leaf.end(), chain, roots, key })
            }
            (chain, private, roots) => {
                let private = private.map(|mut private| private.zeroize());
                let errors = [chain.err(), private.err(), roots.err()].into_iter().flatten();
                Err(errors.map(|error| error.of(kind.section)).collect())
            }
        }
    }

    /// The same authorities for another certificate and its key.
    pub(super) fn with(
        &self,
        (chain, leaf): (Vec<CertificateDer<'static>>, &Facts),
        key: PrivateKeyDer<'static>,
    ) -> Self {
        let key = Arc::new(Zeroizing::new(key));
        Self { kind: self.kind, end: leaf.end(), chain, roots: self.roots.clone(), key }
    }

    /// The private key, once more.
    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// The same for the front.
    pub(super) fn proofs(&self) -> Proofs {
        let all = |certificates: &[CertificateDer<'_>]| {
            certificates.iter().map(|one| one.to_vec().into()).collect()
        };
        Proofs {
            chain: all(&self.chain),
            key: self.key.secret_der().to_vec().into(),
            roots: all(&self.roots),
        }
    }

    /// Why the other side does not accept the certificate at this moment, whatever else is right; `None`:
    /// its time is right.
    pub(super) fn not_now(&self, now: WallTime) -> Option<String> {
        let leaf = self.chain.first().and_then(Facts::of)?;
        let why = leaf.not_now(now)?;
        Some(format!("the agent's certificate ({}) does not count now: {why}", leaf.subject))
    }

    /// Whether it may take the place of the one in use. A certificate that does not count now never takes
    /// the place of one that does.
    pub(super) fn replaces(&self, used: Option<&Self>, now: WallTime) -> Result<(), TlsError> {
        match self.not_now(now) {
            Some(why) if used.is_some_and(|used| used.not_now(now).is_none()) => {
                Err(TlsError::NotNow { section: self.kind.section, why })
            }
            _ => Ok(()),
        }
    }

    /// What each certificate says: the key of the configuration, the facts.
    pub(super) fn facts(&self) -> Vec<(&'static str, Facts)> {
        let of = |key: &'static str, one: &CertificateDer<'_>| Some((key, Facts::of(one)?));
        let own = self.chain.iter().filter_map(|one| of("certificate", one));
        own.chain(self.roots.iter().filter_map(|one| of(self.kind.authorities, one))).collect()
    }
}

/// The agent's chain, and the facts of its first certificate.
fn own_chain(
    kind: &Kind,
    path: &Path,
    key: &Path,
    files: &Files,
) -> Result<(Vec<CertificateDer<'static>>, Facts), TlsError> {
    let (chain, leaf) = chain_of(path, key, files)?;
    match (kind.unfit)(&leaf) {
        Some(why) => Err(content("certificate", path, &why)),
        None => Ok((chain, leaf)),
    }
}

/// The certificates of a file, and the facts of the first.
fn chain_of(
    path: &Path,
    key: &Path,
    files: &Files,
) -> Result<(Vec<CertificateDer<'static>>, Facts), TlsError> {
    let fail = |cause: &str| content("certificate", path, cause);
    let text = read("certificate", path, files)?;
    let chain =
        pem::certificates(&text, holds(path, key)).map_err(|error| fail(&error.to_string()))?;
    let facts = chain.iter().zip(1..).map(|(certificate, number)| {
        Facts::of(certificate).ok_or_else(|| fail(&format!("certificate {number} does not parse")))
    });
    let facts = facts.collect::<Result<Vec<_>, _>>()?;
    let leaf = facts.into_iter().next().ok_or_else(|| fail("it has no certificate"))?;
    Ok((chain, leaf))
}

/// One file may hold the certificate and its key.
fn holds(certificate: &Path, key: &Path) -> Holds {
    if certificate == key { Holds::Both } else { Holds::One }
}

fn private_key(
    certificate: &Path,
    path: &Path,
    files: &Files,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = files.read_secret(path, Readers::Group).map_err(|error| TlsError::File {
        section: SECTION,
        key: "key",
        error,
    })?;
    pem::private_key(&text, holds(certificate, path))
        .map_err(|error| content("key", path, &error.to_string()))
}

fn authorities(
    key: &'static str,
    path: &Path,
    files: &Files,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |cause: String| content(key, path, &cause);
    let text = read(key, path, files)?;
    let roots = pem::certificates(&text, Holds::One).map_err(|error| fail(error.to_string()))?;
    for (root, number) in roots.iter().zip(1..) {
        let facts =
            Facts::of(root).ok_or_else(|| fail(format!("certificate {number} does not parse")))?;
        if let Some(why) = judge::no_authority(&facts) {
            return Err(fail(why));
        }
    }
    Ok(roots)
}

fn read(key: &'static str, path: &Path, files: &Files) -> Result<String, TlsError> {
    files.read(path).map_err(|error| TlsError::File { section: SECTION, key, error })
}

/// An error of the section `control`; [`TlsError::of`] makes it one of another.
pub(super) fn content(key: &'static str, path: &Path, cause: &str) -> TlsError {
    TlsError::Content {
        section: SECTION,
        key,
        path: path.display().to_string(),
        cause: cause.to_owned(),
    }
}
