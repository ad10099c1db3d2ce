//! Certificates of hosts: short ones, with the host's name as a URI, for both ends of TLS. The key
//! of the authority is in the signer's process alone: a hub or the API that is broken into cannot
//! make a host.
//!
//! The name is `spiffe://TRUST-DOMAIN/host/ID`, the id percent-encoded (RFC 3986 section 2.1):
//! whatever is in it, it is one segment, and has one spelling.

use std::{
    fmt::Write as _,
    time::{Duration, UNIX_EPOCH},
};

use jit_client::ca::{Authority, CaError, Leaf, Names};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{proof::check_id, request::Request};

/// How long a certificate counts where nothing else is said.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest lifetime.
pub const LONGEST: Duration = Duration::from_secs(90 * 24 * 3600);
/// Shortest lifetime: a host renews it in the last third of it.
pub const SHORTEST: Duration = Duration::from_secs(60);
/// Bytes of a serial number (RFC 5280 section 4.1.2.2: 20 at most, positive).
const SERIAL_BYTES: usize = 16;

/// The domain in whose name hosts have certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Checks one: small letters, digits, `.`, `-`, `_` (SPIFFE ID, section 2.1).
    ///
    /// # Errors
    /// Why, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if (1..=255).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is no trust domain such as example.org"))
        }
    }

    /// The name of a host's certificate.
    pub fn uri(&self, host_id: &str) -> String {
        let mut uri = format!("spiffe://{}/host/", self.0);
        for byte in host_id.bytes() {
            // RFC 3986 section 2.3.
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(byte.into());
            } else {
                write!(uri, "%{byte:02X}").expect("a text takes everything");
            }
        }
        uri
    }

    /// The host of such a name, which is only its one spelling.
    pub fn host_of(&self, uri: &str) -> Option<String> {
        let coded = uri.strip_prefix("spiffe://")?.strip_prefix(&self.0)?.strip_prefix("/host/")?;
        let mut bytes = Vec::with_capacity(coded.len());
        let mut letters = coded.bytes();
        while let Some(letter) = letters.next() {
            bytes.push(match letter {
                b'%' => {
                    let digits = [letters.next()?, letters.next()?];
                    u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
                }
                letter => letter,
            });
        }
        let host = String::from_utf8(bytes).ok()?;
        (check_id(&host).is_ok() && self.uri(&host) == uri).then_some(host)
    }
}

/// Why no certificate was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// No host has such an id.
    #[error("{0}")]
    Host(String),
}

/// Issues certificates of hosts.
pub struct Issuer {
    authority: Authority,
    /// The authority's certificate, PEM.
    certificate: String,
    domain: TrustDomain,
    lifetime: Duration,
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// The certificate, and then that of the authority, PEM: by that one a host knows its next one.
    pub certificate: String,
    /// Its serial number, hex.
    pub serial: String,
    /// Its last moment, milliseconds since the Unix epoch.
    pub not_after_ms: i64,
}

impl Issuer {
    /// With this authority and its certificate (PEM); the lifetime is kept between [`SHORTEST`] and
    /// [`LONGEST`].
    pub fn new(
        authority: Authority,
        certificate: &str,
        domain: TrustDomain,
        lifetime: Duration,
    ) -> Self {
        let certificate = format!("{}\n", certificate.trim());
        Self { authority, certificate, domain, lifetime: lifetime.clamp(SHORTEST, LONGEST) }
    }

    /// A certificate for a host with the key of a request, of which nothing else counts. `dns`:
    /// names that an administrator has given the host, by which it is dialled. `random`: fresh
    /// random bytes.
    ///
    /// # Errors
    /// [`IssueError`]
    pub fn issue(
        &self,
        request: &Request,
        host_id: &str,
        dns: &[String],
        random: [u8; SERIAL_BYTES],
        now_ms: i64,
    ) -> Result<Issued, IssueError> {
        check_id(host_id).map_err(IssueError::Host)?;
        let now = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let names =
            Names { dns: dns.to_vec(), uri: vec![self.domain.uri(host_id)], ip: Vec::new() };
        // Positive, and without a zero in front, so that it is the same wherever it is read.
        let [first, rest @ ..] = random;
        let mut serial = vec![first & 0x7f | 0x40];
        serial.extend_from_slice(&rest);
        // A common name has 64 letters at most (RFC 5280, ub-common-name).
        let digest = hex::encode(Sha256::digest(host_id));
        let name = format!("jit-agent {}", digest.get(..20).unwrap_or_default());
        let leaf = Leaf {
            name: &name,
            names: &names,
            now: UNIX_EPOCH + now,
            lifetime: self.lifetime,
            serial: &serial,
        };
        let certificate = self.authority.certify(request.key(), &leaf)? + &self.certificate;
        let end = Duration::from_secs(now.as_secs()).saturating_add(self.lifetime);
        Ok(Issued {
            certificate,
            serial: hex::encode(serial),
            not_after_ms: i64::try_from(end.as_millis()).unwrap_or(i64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use jit_client::pem::{Holds, certificates};
    use jit_proto::pem;
    use proptest::prelude::*;
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

    use super::*;
    use crate::enrol::request::tests::asking;

    const NOW_MS: i64 = 1_790_325_737_123;
    const HOST: &str = "/subscriptions/8d10da13/resourceGroups/Prod/providers/x/machines/db 1";

    fn domain() -> TrustDomain {
        TrustDomain::new("example.org").unwrap()
    }

    fn issuer() -> (Issuer, Vec<u8>) {
        let pair = Authority::create("hosts", LONGEST).unwrap();
        let authority = Authority::from_pem(&pair.certificate, &pair.key).unwrap();
        let der = pem::one(&pair.certificate, &["CERTIFICATE"]).unwrap().der.to_vec();
        (Issuer::new(authority, &pair.certificate, domain(), LIFETIME), der)
    }

    #[test]
    fn a_certificate_has_the_hosts_name_and_nothing_that_was_asked_for() {
        let (issuer, ca_der) = issuer();
        let ca = X509Certificate::from_der(&ca_der).unwrap().1;
        for (number, algorithm) in (0..).zip([&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519]) {
            let request = Request::read(&asking(algorithm)).unwrap();
            let host = "arn:aws:ec2:eu-west-1:123456789012:instance/i-1";
            let dns = ["web-1.example.org".to_owned()];
            let issued = issuer.issue(&request, host, &dns, [number; 16], NOW_MS).unwrap();
            let chain = certificates(&issued.certificate, Holds::One).unwrap();
            assert_eq!((chain.len(), &*chain[1]), (2, ca_der.as_slice()));
            let der = &chain[0];
            let (_, made) = X509Certificate::from_der(der).unwrap();
            assert_eq!(made.issuer(), ca.subject());
            assert_eq!(made.public_key().raw, request.key());
            assert_eq!(made.raw_serial_as_string().replace(':', ""), issued.serial);
            assert!(!made.is_ca());
            let names = &made.subject_alternative_name().unwrap().unwrap().value.general_names;
            let uri = "spiffe://example.org/host/\
                       arn%3Aaws%3Aec2%3Aeu-west-1%3A123456789012%3Ainstance%2Fi-1";
            let expected = [GeneralName::DNSName("web-1.example.org"), GeneralName::URI(uri)];
            assert_eq!(names.as_slice(), expected);
            let usage = made.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && usage.server_auth && !usage.any);
            let valid = made.validity();
            assert_eq!(valid.not_after.timestamp() * 1000, issued.not_after_ms);
            assert_eq!(valid.not_after.timestamp(), NOW_MS / 1000 + 7 * 86_400);
            assert!(valid.not_before.timestamp() < NOW_MS / 1000);
            let kinds = made.extensions().iter().map(|one| one.parsed_extension());
            let unknown = |one: &&ParsedExtension<'_>| one.unsupported();
            assert_eq!(kinds.filter(unknown).count(), 0);
        }
    }

    #[test]
    fn two_certificates_of_one_key_have_two_numbers() {
        let (issuer, _) = issuer();
        let request = Request::read(&asking(&PKCS_ED25519)).unwrap();
        let with = |random| issuer.issue(&request, "web-1", &[], random, NOW_MS).unwrap().serial;
        assert_ne!(with([1; 16]), with([2; 16]));
        assert_eq!(with([0xff; 16]).len(), 32);
        assert_eq!(with([0; 16]).len(), 32);
        for bad in ["", "a b", "a\n"] {
            let refused = issuer.issue(&request, bad, &[], [1; 16], NOW_MS);
            assert!(matches!(refused, Err(IssueError::Host(_))), "{bad:?}");
        }
        let refused = issuer.issue(&request, "web-1", &["ünal".to_owned()], [1; 16], NOW_MS);
        assert!(matches!(refused, Err(IssueError::Ca(_))));
    }

    #[test]
    fn a_name_is_of_one_host_in_one_spelling() {
        let domain = domain();
        let name = domain.uri("web-1");
        assert_eq!(name, "spiffe://example.org/host/web-1");
        assert_eq!(domain.host_of(&name).as_deref(), Some("web-1"));
        for bad in [
            "spiffe://example.org/host/",
            "spiffe://example.org/host/web%2D1",
            "spiffe://example.org/host/web%2f1",
            "spiffe://example.org/host/a/b",
            "spiffe://example.org/host/a%",
            "spiffe://example.org/host/a%2",
            "spiffe://example.org/host/a%+1",
            "spiffe://example.org/host/%FF",
            "spiffe://example.org/host/a%20b",
            "spiffe://example.org.evil/host/web-1",
            "spiffe://evil/host/web-1",
            "spiffe://example.org/jit-controller",
            "SPIFFE://example.org/host/web-1",
        ] {
            assert_eq!(domain.host_of(bad), None, "{bad}");
        }
        assert_eq!(domain.host_of(&domain.uri(HOST)), None, "no host has a blank");
        for bad in ["", "Example.org", "a/b", "a b", &"x".repeat(256)] {
            assert!(TrustDomain::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_host_is_found_by_its_name(id in "[!-~äß€]{1,60}") {
            let domain = domain();
            let uri = domain.uri(&id);
            prop_assert_eq!(domain.host_of(&uri), Some(id));
            prop_assert_eq!(uri.matches('/').count(), 4);
        }
    }
}
