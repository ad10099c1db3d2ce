//! TLS 1.3 with client certificates (rustls), and the names in a controller's certificate.

use std::{path::Path, sync::Arc, time::Duration};

use jit_client::pem::{self, Holds};
use jit_proto::{
    WallTime,
    permission::{Permission, Permissions},
};
use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    config::{Config, Control, Controller},
    control::{
        certificate::Facts,
        judge,
        link::{Listed, Setup},
    },
    system::{
        image::Files,
        sys::{FileError, Readers},
    },
};

/// HTTP/2 (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";

/// Certificates and key of the listening port.
#[derive(Clone, Debug)]
pub struct Material {
    /// Judges the controllers' certificates.
    pub authorities: Authorities,
    /// End of the agent's own certificate.
    pub not_after: WallTime,
    /// The agent's certificate, and those that lead to an authority.
    chain: Vec<CertificateDer<'static>>,
    /// The authorities that vouch for controllers.
    roots: Vec<CertificateDer<'static>>,
    /// For the front, which makes the handshakes.
    key: Arc<Zeroizing<PrivateKeyDer<'static>>>,
}

/// What the front makes handshakes by.
pub(crate) struct Handshaking {
    /// With every client let in that the authorities vouch for.
    pub(crate) config: ServerConfig,
    /// Judges the controllers' certificates.
    pub(crate) authorities: Authorities,
}

/// Decides which certificates are accepted.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    /// Judges the certificates of handshakes.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let Self(verifier) = self;
        Arc::clone(verifier)
    }

    /// Why a certificate is not accepted at this moment; `None`: it is. The certificates that lead
    /// to an authority follow it.
    pub fn objection(&self, chain: &[CertificateDer<'_>], now: WallTime) -> Option<String> {
        let Some((certificate, intermediates)) = chain.split_first() else {
            return Some("there is none".into());
        };
        let now = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(now);
        let Self(verifier) = self;
        verifier
            .verify_client_cert(certificate, intermediates, now)
            .err()
            .map(|error| error.to_string())
    }
}

/// Why certificates or keys are refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("[control] {key}: {error}")]
    File {
        /// Configuration key.
        key: &'static str,
        /// Why.
        error: FileError,
    },
    /// The certificate does not count at this moment.
    #[error("[control] certificate: {0}; renew it")]
    NotNow(String),
    /// A file without its certificate or key.
    #[error("[control] {key} {path}: {cause}")]
    Content {
        /// Configuration key.
        key: &'static str,
        /// Its file.
        path: String,
        /// Why.
        cause: String,
    },
}

impl Material {
    /// Reads the files that a configuration names. `None`: the agent does not listen.
    pub fn of(config: &Config) -> Result<Option<Self>, TlsError> {
        config.control.as_ref().map(Self::read).transpose()
    }

    /// Reads the files that a `[control]` names.
    pub fn read(control: &Control) -> Result<Self, TlsError> {
        Self::examine(control, &Files::Host).map_err(|errors| {
            let mut errors = errors.into_iter();
            let none = || content("certificate", &control.certificate, "it cannot be used");
            errors.next().unwrap_or_else(none)
        })
    }

    /// The same, from these places.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn examine(control: &Control, files: &Files) -> Result<Self, Vec<TlsError>> {
        let Control { certificate, key, client_ca, listen: _ } = control;
        let read = (
            own_chain(certificate, key, files),
            private_key(certificate, key, files),
            authorities(client_ca, files),
        );
        match read {
            (Ok(own), Ok(private), Ok(roots)) => {
                Self::of_files(control, own, private, roots).map_err(|error| vec![error])
            }
            (own, private, roots) => {
                let private = private.map(|mut private| private.zeroize());
                Err([own.err(), private.err(), roots.err()].into_iter().flatten().collect())
            }
        }
    }

    fn of_files(
        control: &Control,
        (chain, leaf): (Vec<CertificateDer<'static>>, Facts),
        private: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        let Control { key, client_ca, .. } = control;
        let made = handshaking(chain.clone(), private.clone_key(), &roots);
        let Handshaking { config: _, authorities } = made.map_err(|unfit| match unfit {
            Unfit::Authorities(cause) => content("client_ca", client_ca, &cause),
            Unfit::Key(cause) => content("key", key, &cause),
        })?;
        let not_after = leaf.not_after;
        Ok(Self { authorities, not_after, chain, roots, key: Arc::new(Zeroizing::new(private)) })
    }

    /// The same for the front, with these controllers.
    pub(crate) fn setup(&self, controllers: &[Controller]) -> Setup {
        let all = |certificates: &[CertificateDer<'_>]| {
            certificates.iter().map(|one| one.to_vec().into()).collect()
        };
        let words = |may: Permissions| {
            let held = Permission::ALL.into_iter().filter(move |one| may.contains(*one));
            held.map(|one| one.word().to_owned()).collect()
        };
        let listed = |Controller { identity, may }: &Controller| Listed {
            identity: identity.clone(),
            may: words(*may),
        };
        Setup {
            chain: all(&self.chain),
            key: self.key.secret_der().to_vec().into(),
            roots: all(&self.roots),
            controllers: controllers.iter().map(listed).collect(),
        }
    }

    /// Why no controller accepts the agent's certificate at this moment, whatever else is right;
    /// `None`: its time is right.
    pub fn not_now(&self, now: WallTime) -> Option<String> {
        let leaf = self.chain.first().and_then(Facts::of)?;
        let why = leaf.not_now(now)?;
        Some(format!("the agent's certificate ({}) does not count now: {why}", leaf.subject))
    }

    /// Takes the place of the material in use. A certificate that does not count now never takes the
    /// place of one that does.
    pub fn in_place_of(self, used: Option<&Self>, now: WallTime) -> Result<Self, TlsError> {
        match self.not_now(now) {
            Some(why) if used.is_some_and(|used| used.not_now(now).is_none()) => {
                Err(TlsError::NotNow(why))
            }
            _ => Ok(self),
        }
    }

    /// What a controller may object to, one sentence each.
    pub fn doubts(&self, now: WallTime) -> Vec<String> {
        let doubt = judge::doubt(&self.chain, &self.roots, now);
        let doubts = doubt.into_iter().chain(judge::oddities(&self.chain));
        let doubts = doubts.map(|doubt| format!("[control] certificate: {doubt}"));
        let ended = self.roots.iter().filter_map(Facts::of).filter_map(|facts| {
            let why = facts.not_now(now)?;
            Some(format!("[control] client_ca: {} does not count now: {why}", facts.subject))
        });
        doubts.chain(ended).collect()
    }

    /// The names and addresses in the agent's certificate.
    pub fn hosts(&self) -> Vec<String> {
        self.chain.first().and_then(Facts::of).map(|facts| facts.hosts).unwrap_or_default()
    }

    /// What each certificate says: the key of the configuration, the facts.
    pub fn facts(&self) -> Vec<(&'static str, Facts)> {
        let of = |key: &'static str, one: &CertificateDer<'_>| Some((key, Facts::of(one)?));
        let own = self.chain.iter().filter_map(|one| of("certificate", one));
        own.chain(self.roots.iter().filter_map(|one| of("client_ca", one))).collect()
    }

    /// When each certificate ends: the key of the configuration, the subject, the end.
    pub fn ends(&self) -> Vec<(&'static str, String, WallTime)> {
        let all = self.facts().into_iter();
        all.map(|(key, facts)| (key, facts.subject, facts.not_after)).collect()
    }

    /// What was taken from the files: one line a certificate, with the key of the configuration.
    pub fn certificates(&self) -> Vec<String> {
        let line = |(key, facts): (&str, Facts)| {
            let Facts { subject, not_after, fingerprint, .. } = facts;
            format!("{key:<12} {subject}, until {not_after}, SHA-256 {fingerprint}")
        };
        self.facts().into_iter().map(line).collect()
    }
}

/// What a setup says: how handshakes are made, and who the controllers are.
pub(crate) fn of_setup(setup: &Setup) -> Result<(Handshaking, Vec<Controller>), String> {
    let Setup { chain, key, roots, controllers } = setup;
    let all = |certificates: &[prost::bytes::Bytes]| {
        certificates.iter().map(|one| CertificateDer::from(one.to_vec())).collect::<Vec<_>>()
    };
    let key = PrivateKeyDer::try_from(key.to_vec()).map_err(str::to_owned)?;
    let handshaking = handshaking(all(chain), key, &all(roots)).map_err(|unfit| match unfit {
        Unfit::Authorities(cause) | Unfit::Key(cause) => cause,
    })?;
    let permission = |word: &String| Permission::ALL.into_iter().find(|one| one.word() == word);
    let controller = |Listed { identity, may }: &Listed| Controller {
        identity: identity.clone(),
        may: may.iter().filter_map(permission).collect(),
    };
    Ok((handshaking, controllers.iter().map(controller).collect()))
}

/// Which file is to blame, and why.
enum Unfit {
    Authorities(String),
    Key(String),
}

fn handshaking(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: &[CertificateDer<'static>],
) -> Result<Handshaking, Unfit> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| Unfit::Authorities(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .map_err(|error| Unfit::Authorities(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Unfit::Key(error.to_string()))?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            certified(chain, key)
                .map_err(|error| Unfit::Key(format!("does not fit the certificate: {error}")))?,
        )));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Handshaking { config, authorities: Authorities(verifier) })
}

/// The subject alternative names of a certificate that can stand for a controller: URIs and DNS
/// names (RFC 5280 section 4.2.1.6).
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// The agent's chain, and the facts of its first certificate.
fn own_chain(
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
    match judge::never_serves(&leaf) {
        Some(why) => Err(fail(&why)),
        None => Ok((chain, leaf)),
    }
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
    let text = files
        .read_secret(path, Readers::Group)
        .map_err(|error| TlsError::File { key: "key", error })?;
    pem::private_key(&text, holds(certificate, path))
        .map_err(|error| content("key", path, &error.to_string()))
}

/// The chain with its key. The key's bytes are overwritten: from here on only `ring` has them.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    mut key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let read = rustls::crypto::ring::sign::any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(chain, read?);
    match certified.keys_match() {
        // As rustls itself does: it does not know every kind of key.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) => Err(error),
    }
}

fn authorities(path: &Path, files: &Files) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |cause: String| content("client_ca", path, &cause);
    let text = read("client_ca", path, files)?;
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
    files.read(path).map_err(|error| TlsError::File { key, error })
}

fn content(key: &'static str, path: &Path, cause: &str) -> TlsError {
    TlsError::Content { key, path: path.display().to_string(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::system::sys;

    fn authority(name: &str) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (certificate, Issuer::new(params, key))
    }

    fn trusting(root: &CertificateDer<'static>) -> Authorities {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Authorities(verifier.build().unwrap())
    }

    #[test]
    fn a_controller_is_known_by_uris_and_dns_names_alone() {
        let named = |alternative: Vec<rcgen::SanType>| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, "spiffe://example.org/cn");
            params.subject_alt_names = alternative;
            let key = KeyPair::generate().unwrap();
            names(params.self_signed(&key).unwrap().der())
        };
        let ia5 = |text: &str| text.try_into().unwrap();
        let all = named(vec![
            rcgen::SanType::Rfc822Name(ia5("ana@example.org")),
            rcgen::SanType::URI(ia5("spiffe://example.org/controller")),
            rcgen::SanType::IpAddress([192, 0, 2, 7].into()),
            rcgen::SanType::DnsName(ia5("controller.example.org")),
        ]);
        assert_eq!(all, ["spiffe://example.org/controller", "controller.example.org"]);
        assert!(named(Vec::new()).is_empty(), "the subject's name is nobody's");
        assert!(names(&CertificateDer::from(&b"no certificate"[..])).is_empty());
    }

    /// The files of an agent, written anew by each case.
    struct Files {
        directory: tempfile::TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Files {
        /// Good files: an authority, and a certificate for web-1 from it.
        fn good() -> Self {
            let (ca, issuer) = authority("ours");
            let files = Self { directory: tempfile::tempdir().unwrap(), issuer };
            files.write("ca.pem", &pem_of(&ca));
            files.issue(2100);
            files
        }

        /// A certificate that counts until this year, and its key.
        fn issue(&self, until: i32) {
            let key = KeyPair::generate().unwrap();
            let mut leaf = CertificateParams::new(vec!["web-1".into()]).unwrap();
            leaf.not_after = rcgen::date_time_ymd(until, 1, 1);
            self.write("agent.pem", &leaf.signed_by(&key, &self.issuer).unwrap().pem());
            self.write("agent.key", &key.serialize_pem());
        }

        fn write(&self, name: &str, text: &str) {
            use std::os::unix::fs::PermissionsExt as _;
            let path = self.directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let secret = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(path, secret).unwrap();
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.directory.path().join(name)).unwrap()
        }

        fn read(&self, certificate: &str, key: &str) -> Result<Material, String> {
            let path = |name: &str| self.directory.path().join(name);
            let control = Control {
                listen: "127.0.0.1:1".parse().unwrap(),
                certificate: path(certificate),
                key: path(key),
                client_ca: path("ca.pem"),
            };
            Material::read(&control).map_err(|error| error.to_string())
        }
    }

    fn pem_of(certificate: &CertificateDer<'_>) -> String {
        use p256::pkcs8::der::pem::{LineEnding, encode_string};
        encode_string("CERTIFICATE", LineEnding::LF, certificate).unwrap()
    }

    #[test]
    fn good_files_are_taken_whole_and_shown() {
        let files = Files::good();
        let now = sys::now().wall;
        let material = files.read("agent.pem", "agent.key").unwrap();
        assert_eq!((material.not_now(now), material.doubts(now)), (None, Vec::new()));
        let shown = material.certificates();
        assert!(shown[0].starts_with("certificate  CN=") && shown[0].contains("SHA-256 "));
        assert!(shown[1].starts_with("client_ca    CN=ours"), "{shown:?}");
        // One file for both, and a byte-order mark, lose nothing.
        let both = format!("\u{feff}{}{}", files.text("agent.pem"), files.text("agent.key"));
        files.write("both.pem", &both);
        assert!(files.read("both.pem", "both.pem").is_ok());
        assert!(material.not_now(material.not_after).unwrap().contains("it ended at"));
    }

    #[test]
    fn a_certificate_that_has_ended_takes_the_place_of_none_that_counts() {
        let files = Files::good();
        let now = sys::now().wall;
        let read = || files.read("agent.pem", "agent.key").unwrap();
        let used = read();
        files.issue(2020);
        assert!(read().in_place_of(None, now).is_ok(), "there is none before");
        let error = read().in_place_of(Some(&used), now).unwrap_err().to_string();
        assert!(error.contains("does not count now: it ended at 2020-01-01"), "{error}");
        assert!(used.in_place_of(Some(&read()), now).is_ok());
    }

    #[test]
    fn what_looks_like_pem_is_used_or_refused_with_its_file_and_line() {
        let other = pem_of(&authority("other").0);
        for (name, change, expected) in [
            (
                "ca.pem",
                &(|own: &str| format!("{}{other}", own.trim_end())) as &dyn Fn(&str) -> String,
                "is not one whole boundary",
            ),
            (
                "ca.pem",
                &|own| format!("{own}{}", other.replace("CERT", "TRUSTED CERT")),
                "TRUSTED CERTIFICATE",
            ),
            ("ca.pem", &|_| "no certificate".into(), "no PEM"),
            ("agent.key", &|own| format!("{own}{own}"), "a second PRIVATE KEY"),
            (
                "agent.key",
                &|_| KeyPair::generate().unwrap().serialize_pem(),
                "does not fit the certificate",
            ),
            ("agent.pem", &|own| own.replacen("MII", "MIA", 1), "does not parse"),
            (
                "ca.pem",
                &|_| {
                    let leaf = CertificateParams::new(vec!["c".into()]).unwrap();
                    leaf.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
                },
                "is no authority's certificate",
            ),
        ] {
            let files = Files::good();
            files.write(name, &change(&files.text(name)));
            let error = files.read("agent.pem", "agent.key").unwrap_err();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_private_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let files = Files::good();
        let key = files.directory.path().join("agent.key");
        for (mode, good) in [(0o640, true), (0o644, false)] {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = files.read("agent.pem", "agent.key");
            assert_eq!(read.is_ok(), good, "{mode:o}");
            if let Err(error) = read {
                assert!(error.contains("`chmod o= ") && error.contains("[control] key"), "{error}");
            }
        }
    }

    #[test]
    fn a_certificate_counts_until_its_end_and_under_its_authority_alone() {
        let (ours, issuer) = authority("ours");
        let (theirs, _) = authority("theirs");
        let mut params = CertificateParams::new(vec!["controller.example.org".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 2, 1);
        let key = KeyPair::generate().unwrap();
        let chain = [params.signed_by(&key, &issuer).unwrap().der().clone()];
        let at = |day: &str| WallTime(day.parse::<jiff::Timestamp>().unwrap().as_millisecond());
        let (before, inside, after) =
            (at("2025-12-31T00:00:00Z"), at("2026-01-15T00:00:00Z"), at("2026-02-01T00:00:01Z"));
        let authorities = trusting(&ours);
        assert_eq!(authorities.objection(&chain, inside), None);
        assert!(authorities.objection(&chain, before).is_some());
        assert!(authorities.objection(&chain, after).is_some());
        assert!(authorities.objection(&[], inside).is_some());
        assert!(trusting(&theirs).objection(&chain, inside).is_some());
    }
}
