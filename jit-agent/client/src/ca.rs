//! A small certificate authority for TLS between agents and controllers. It has no register of
//! serial numbers, no revocation and no renewal: `jitctl pki` and `jit-controller init` make one,
//! for those who have no authority of their own. The controller's enrolment has a register around
//! it.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jit_proto::pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};

/// How long before now certificates become valid, for hosts with a slow clock.
pub const BACKDATE: Duration = Duration::from_secs(300);
/// Last second that an X.509 date has room for (RFC 5280 section 4.1.2.5): 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// The authority's certificate cannot be used.
    #[error("{0}")]
    Certificate(String),
    /// A DNS name is none.
    #[error("{0:?} is no DNS name in ASCII")]
    Dns(String),
    /// The authority's private key cannot be used.
    #[error("{0}")]
    Key(String),
    /// The certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Made(String),
    /// No key can be made.
    #[error("cannot make a private key: {0}")]
    NewKey(String),
    /// The request for a certificate cannot be used.
    #[error("{0}")]
    Request(String),
    /// Neither a DNS name nor an address nor a URI.
    #[error("the certificate needs a name")]
    Unnamed,
    /// A URI is none.
    #[error("{0:?} is no URI such as spiffe://example.org/jit-controller")]
    Uri(String),
}

/// The names that a certificate bears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ip: Vec<IpAddr>,
    /// URIs: the identity of a controller.
    pub uri: Vec<String>,
}

/// A certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS#8), without a passphrase.
    pub key: String,
}

/// A request for a certificate (RFC 2986). Its signature was good: the other side has the key.
pub struct Request(CertificateSigningRequestParams);

/// A certificate for a key that somebody else has, of whom nothing else counts.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'l> {
    /// Its common name.
    pub name: &'l str,
    /// Its names.
    pub names: &'l Names,
    /// When it is issued.
    pub now: SystemTime,
    /// For how long.
    pub lifetime: Duration,
    /// Its serial number, a positive number of at most 20 bytes. `rcgen` would take the key's hash,
    /// so that two certificates of one key have the same.
    pub serial: &'l [u8],
}

/// An authority.
pub struct Authority(Issuer<'static, KeyPair>);

impl Names {
    /// Checks them, and adds the DNS names and addresses of a request, if these names have neither:
    /// a URI is a controller's identity, which a host must not ask for.
    fn checked(&self, request: Option<&Request>) -> Result<Vec<SanType>, CaError> {
        let asked = request.filter(|_| self.dns.is_empty() && self.ip.is_empty());
        let asked = asked.into_iter().flat_map(|Request(asked)| &asked.params.subject_alt_names);
        let asked =
            asked.filter(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)));
        let dns = self.dns.iter().map(|name| {
            let made = name.as_str().try_into().map(SanType::DnsName);
            made.map_err(|_| CaError::Dns(name.clone()))
        });
        let uri = self.uri.iter().map(|uri| {
            let scheme = uri.split_once(':').is_some_and(|(scheme, rest)| {
                scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && !rest.is_empty()
            });
            let made = uri.as_str().try_into().ok().filter(|_| scheme);
            made.map(SanType::URI).ok_or_else(|| CaError::Uri(uri.clone()))
        });
        let ip = self.ip.iter().map(|ip| Ok(SanType::IpAddress(*ip)));
        let names: Vec<_> =
            dns.chain(uri).chain(ip).chain(asked.cloned().map(Ok)).collect::<Result<_, _>>()?;
        if names.is_empty() { Err(CaError::Unnamed) } else { Ok(names) }
    }
}

impl Request {
    /// Reads one in PEM, and checks its signature.
    ///
    /// # Errors
    /// [`CaError::Request`].
    pub fn from_pem(text: &str) -> Result<Self, CaError> {
        let unusable = |why: String| CaError::Request(why);
        pem::one(text, &["CERTIFICATE REQUEST"]).map_err(|error| unusable(error.to_string()))?;
        let read = CertificateSigningRequestParams::from_pem(text);
        read.map(Self).map_err(|error| unusable(error.to_string()))
    }
}

impl Authority {
    /// Makes the certificate and the key of an authority.
    ///
    /// # Errors
    /// No random numbers, or a name that no certificate can bear.
    pub fn create(name: &str, lifetime: Duration) -> Result<Pair, CaError> {
        let mut params = params(name, SystemTime::now(), lifetime);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key()?;
        let made = params.self_signed(&key).map_err(|error| CaError::Made(error.to_string()))?;
        Ok(Pair { certificate: made.pem(), key: key.serialize_pem() })
    }

    /// Reads an authority.
    ///
    /// # Errors
    /// [`CaError::Certificate`], [`CaError::Key`].
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CaError> {
        // `rcgen` would take the first document and leave the rest.
        pem::one(certificate, &["CERTIFICATE"])
            .map_err(|error| CaError::Certificate(error.to_string()))?;
        pem::one(key, &["PRIVATE KEY"]).map_err(|error| CaError::Key(error.to_string()))?;
        let key = KeyPair::from_pem(key).map_err(|error| CaError::Key(error.to_string()))?;
        let read = Issuer::from_ca_cert_pem(certificate, key);
        read.map(Self).map_err(|error| CaError::Certificate(error.to_string()))
    }

    /// Issues a certificate with a new key, for a server and a client.
    ///
    /// # Errors
    /// A name that is none; no random numbers.
    pub fn issue(&self, name: &str, names: &Names, lifetime: Duration) -> Result<Pair, CaError> {
        let params = leaf(name, names.checked(None)?, SystemTime::now(), lifetime);
        let key = new_key()?;
        let made = params.signed_by(&key, &self.0);
        let made = made.map_err(|error| CaError::Made(error.to_string()))?;
        Ok(Pair { certificate: made.pem(), key: key.serialize_pem() })
    }

    /// Issues a certificate for the key of a request. Returns it in PEM.
    ///
    /// # Errors
    /// A name that is none.
    pub fn sign(
        &self,
        request: &Request,
        name: &str,
        names: &Names,
        lifetime: Duration,
    ) -> Result<String, CaError> {
        let params = leaf(name, names.checked(Some(request))?, SystemTime::now(), lifetime);
        let made = params.signed_by(&request.0.public_key, &self.0);
        Ok(made.map_err(|error| CaError::Made(error.to_string()))?.pem())
    }

    /// Issues a certificate for a public key (SubjectPublicKeyInfo, DER). Returns it in PEM.
    ///
    /// # Errors
    /// A name that is none; a key of another kind.
    pub fn certify(&self, key: &[u8], wanted: &Leaf<'_>) -> Result<String, CaError> {
        let Leaf { name, names, now, lifetime, serial } = *wanted;
        let failed = |error: rcgen::Error| CaError::Made(error.to_string());
        let mut params = leaf(name, names.checked(None)?, now, lifetime);
        params.serial_number = Some(SerialNumber::from_slice(serial));
        let key = SubjectPublicKeyInfo::from_der(key).map_err(failed)?;
        Ok(params.signed_by(&key, &self.0).map_err(failed)?.pem())
    }
}

/// Checks names before anything else is done with them.
///
/// # Errors
/// A name that is none, or no name.
pub fn check_names(names: &Names, request: Option<&Request>) -> Result<(), CaError> {
    names.checked(request).map(drop)
}

fn leaf(name: &str, names: Vec<SanType>, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = params(name, now, lifetime);
    params.subject_alt_names = names;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn params(name: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = |since_epoch: Duration| {
        date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch.as_secs().min(LAST_SECOND))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(now.saturating_sub(BACKDATE));
    params.not_after = at(now.saturating_add(lifetime));
    params
}

fn new_key() -> Result<KeyPair, CaError> {
    KeyPair::generate().map_err(|error| CaError::NewKey(error.to_string()))
}
