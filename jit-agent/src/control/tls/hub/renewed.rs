//! The next certificate of `[uplink]`: the request for it, and what it must be to take the place of
//! the one before. A hub brings it, and a hub may be broken into: so it must come from the
//! authority that issued the one before, which stands behind that one in its file.

use std::{sync::Arc, time::Duration};

use jit_client::HostUri;
use jit_proto::{WallTime, pem, uplink::next_certificate};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::{
    RootCertStore,
    SignatureScheme::{ECDSA_NISTP256_SHA256, ED25519},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::WebPkiClientVerifier,
};
use zeroize::Zeroizing;

use super::{HubMaterial, certified};
use crate::control::{
    certificate::{Authority, Facts},
    tls::names,
};

/// Why a certificate does not take the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    /// It names another host, or none.
    AnotherHost,
    /// It is for another key.
    AnotherKey,
    /// It is no certificate.
    Malformed,
    /// The file of the one before lacks the authority that issued it.
    NoAuthority,
    /// It does not end later.
    NotLater,
    /// It does not count at this moment.
    NotNow,
    /// The authority has not issued it.
    Untrusted,
}

impl NotRenewed {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AnotherHost => "another_host",
            Self::AnotherKey => "another_key",
            Self::Malformed => "malformed",
            Self::NoAuthority => "no_authority",
            Self::NotLater => "not_later",
            Self::NotNow => "not_now",
            Self::Untrusted => "untrusted",
        }
    }

    /// The same in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::AnotherHost => "the certificates do not name one and the same host by a URI",
            Self::AnotherKey => "the certificate is not for the key that was made",
            Self::Malformed => "it is no certificate (X.509, DER)",
            Self::NoAuthority => {
                "the file of [uplink] certificate lacks the authority that issued it: enrol the host \
                 again (jit-agent enrol), or renew it by hand"
            }
            Self::NotLater => "it does not end later than the certificate before",
            Self::NotNow => "it does not count at this moment, by the clock of this host",
            Self::Untrusted => {
                "it does not come from the authority that issued the certificate before, or is not \
                 for clients"
            }
        }
    }
}

/// A request (PKCS#10, DER) for a certificate with this key. It asks for nothing: what the
/// certificate says, who issues it decides.
///
/// # Errors
/// The key cannot sign it.
pub fn request(pair: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(pair)?.der().to_vec())
}

impl HubMaterial {
    /// Whether the certificate can be renewed by a hub.
    pub(crate) fn may_be_renewed(&self) -> Result<(), NotRenewed> {
        self.authority()?;
        self.host().map(drop)
    }

    /// The same hubs with the host's next certificate (DER) and its key.
    pub(crate) fn renewed(
        &self,
        leaf: &[u8],
        key: PrivateKeyDer<'static>,
        now: WallTime,
    ) -> Result<Self, NotRenewed> {
        let leaf = CertificateDer::from(leaf.to_vec());
        let facts = Facts::of(&leaf).ok_or(NotRenewed::Malformed)?;
        let chain = vec![leaf, self.authority()?.clone()];
        certified(chain.clone(), key.clone_key()).map_err(|_| NotRenewed::AnotherKey)?;
        let new = Self {
            hubs: self.hubs.clone(),
            end: facts.end(),
            own: self.own.with((chain, &facts), key),
            credentials: Arc::clone(&self.credentials),
        };
        new.may_follow(self)?;
        if new.not_now(now).is_some() { Err(NotRenewed::NotNow) } else { Ok(new) }
    }

    /// The certificate (DER), and a signature by its key that this request (DER) comes from here. A
    /// key of a kind that no enrolled host has makes none.
    pub(crate) fn proves(&self, csr: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let certificate = self.own.chain.first().map(|one| one.to_vec()).unwrap_or_default();
        let key = certified(self.own.chain.clone(), self.own.private_key()).ok();
        let signer = key.and_then(|own| own.key.choose_scheme(&[ECDSA_NISTP256_SHA256, ED25519]));
        let proof = signer.and_then(|signer| signer.sign(&next_certificate(csr)).ok());
        (certificate, proof.unwrap_or_default())
    }

    /// Whether it may take the place of that one, whatever the time is.
    pub(super) fn may_follow(&self, before: &Self) -> Result<(), NotRenewed> {
        let authority = before.authority()?;
        let leaf = self.own.chain.first().ok_or(NotRenewed::Malformed)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(|_| NotRenewed::NoAuthority)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().map_err(|_| NotRenewed::NoAuthority)?;
        // A moment at which it counts: its time is looked at elsewhere.
        let end = u64::try_from(self.end.at.0).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(Duration::from_millis(end.saturating_sub(1000)));
        let verified = verifier.verify_client_cert(leaf, &[], at);
        verified.map_err(|_| NotRenewed::Untrusted)?;
        if self.host()? != before.host()? {
            return Err(NotRenewed::AnotherHost);
        }
        if self.end.at <= before.end.at {
            return Err(NotRenewed::NotLater);
        }
        Ok(())
    }

    /// The certificates and the key, PEM.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for one in &self.own.chain {
            text.push_str(&pem::encode("CERTIFICATE", one));
        }
        let key = Zeroizing::new(self.own.private_key());
        let label = match *key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        text.push_str(&pem::encode(label, key.secret_der()));
        text
    }

    /// SHA-256 of the certificate, hex.
    pub(crate) fn fingerprint(&self) -> String {
        self.own
            .chain
            .first()
            .and_then(Facts::of)
            .map(|facts| facts.fingerprint)
            .unwrap_or_default()
    }

    /// The last certificate of the file, if it is an authority's.
    fn authority(&self) -> Result<&CertificateDer<'static>, NotRenewed> {
        let last = self.own.chain.get(1..).and_then(<[_]>::last);
        let is_authority = |one: &&CertificateDer<'static>| {
            Facts::of(one).is_some_and(|facts| facts.authority == Authority::Yes)
        };
        last.filter(is_authority).ok_or(NotRenewed::NoAuthority)
    }

    fn host(&self) -> Result<HostUri, NotRenewed> {
        let names = self.own.chain.first().map(names).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| name.parse::<HostUri>().ok());
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Ok(uri),
            _ => Err(NotRenewed::AnotherHost),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rcgen::{
        BasicConstraints, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
    };

    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    use super::*;
    use crate::{
        config::{Hub, Proxy, Uplink},
        system::image::Files,
    };

    const DAY: i64 = 86_400_000;
    const NOW: WallTime = WallTime(1_790_000_000_000);

    fn authority() -> (Issuer<'static, KeyPair>, String) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    }

    /// A certificate of this host that counts until this many days from now.
    fn leaf(issuer: &Issuer<'_, KeyPair>, key: &KeyPair, host: &str, days: i64) -> Vec<u8> {
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://example.org/host/{host}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let at = |ms: i64| {
            let seconds = u64::try_from(ms / 1000).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        (params.not_before, params.not_after) = (at(NOW.0 - 9 * DAY), at(NOW.0 + days * DAY));
        params.signed_by(key, issuer).unwrap().der().to_vec()
    }

    fn key_of(pair: &KeyPair) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(pair.serialize_der()).unwrap()
    }

    /// What a host has that has enrolled.
    struct Enrolled {
        directory: tempfile::TempDir,
        issuer: Issuer<'static, KeyPair>,
        material: HubMaterial,
        uplink: Uplink,
    }

    fn enrolled(days: i64, more: bool) -> Enrolled {
        let directory = tempfile::tempdir().unwrap();
        let (issuer, ca) = authority();
        let pair = KeyPair::generate().unwrap();
        let own = pem::encode("CERTIFICATE", &leaf(&issuer, &pair, "web-1", days)).to_string();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("own.pem"), if more { own + &ca } else { own }).unwrap();
        secret(&at("own.key"), &pair.serialize_pem());
        fs::write(at("ca.pem"), &ca).unwrap();
        let uplink = Uplink {
            hubs: vec![Hub::parse("hub.example.org:443").unwrap()],
            certificate: at("own.pem"),
            key: at("own.key"),
            ca: at("ca.pem"),
            proxy: Proxy::None,
            proxy_credentials: None,
        };
        let material = HubMaterial::read(&uplink).unwrap();
        Enrolled { directory, issuer, material, uplink }
    }

    fn secret(path: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn the_next_certificate_is_of_the_same_host_and_authority_for_the_own_key_and_ends_later() {
        let Enrolled { issuer, material, .. } = enrolled(1, true);
        material.may_be_renewed().unwrap();
        let (pair, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = leaf(&issuer, &pair, "web-1", 7);
        let new = material.renewed(&good, key_of(&pair), NOW).unwrap();
        assert_eq!(new.end.at, WallTime(NOW.0 + 7 * DAY));
        assert_ne!(new.fingerprint(), material.fingerprint());
        // And the one after that.
        let next = leaf(&issuer, &other, "web-1", 8);
        new.renewed(&next, key_of(&other), NOW).unwrap();
        let refused = |leaf: &[u8], now| {
            material.renewed(leaf, key_of(&pair), now).err().map(NotRenewed::word)
        };
        let (foreign, _) = authority();
        for (leaf, word) in [
            (leaf(&issuer, &other, "web-1", 7), "another_key"),
            (leaf(&issuer, &pair, "web-2", 7), "another_host"),
            (leaf(&foreign, &pair, "web-1", 7), "untrusted"),
            (leaf(&issuer, &pair, "web-1", 1), "not_later"),
            ([good.as_slice(), &[0]].concat(), "malformed"),
            (Vec::new(), "malformed"),
        ] {
            assert_eq!(refused(&leaf, NOW), Some(word));
        }
        assert_eq!(refused(&good, WallTime(NOW.0 + 8 * DAY)), Some("not_now"));
        for at in 0..good.len() {
            let mut cut = good.clone();
            cut.truncate(at);
            assert!(refused(&cut, NOW).is_some(), "{at}");
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(refused(&changed, NOW).is_some(), "{at}");
        }
    }

    #[test]
    fn without_the_authority_in_its_file_nothing_is_renewed() {
        let Enrolled { issuer, material, .. } = enrolled(1, false);
        assert_eq!(material.may_be_renewed(), Err(NotRenewed::NoAuthority));
        let pair = KeyPair::generate().unwrap();
        let good = leaf(&issuer, &pair, "web-1", 7);
        let refused = material.renewed(&good, key_of(&pair), NOW).err();
        assert_eq!(refused, Some(NotRenewed::NoAuthority));
    }

    #[test]
    fn what_was_kept_counts_at_the_next_start_until_the_files_are_newer() {
        let Enrolled { directory, issuer, material, uplink } = enrolled(1, true);
        let kept = directory.path().join("uplink.pem");
        let used = || HubMaterial::in_use(&uplink, &kept).unwrap().fingerprint();
        assert_eq!(used(), material.fingerprint(), "there is none");
        let pair = KeyPair::generate().unwrap();
        let new = leaf(&issuer, &pair, "web-1", 7);
        let new = material.renewed(&new, key_of(&pair), NOW).unwrap();
        secret(&kept, &new.to_pem());
        assert_eq!(used(), new.fingerprint());
        fs::write(&kept, "-----BEGIN").unwrap();
        assert_eq!(used(), material.fingerprint(), "it is damaged");
        // Another enrolment, of another host, and of the same host with a later end.
        for (host, days) in [("web-2", 3), ("web-1", 9)] {
            secret(&kept, &new.to_pem());
            let own = pem::encode("CERTIFICATE", &leaf(&issuer, &pair, host, days)).to_string();
            let ca = fs::read_to_string(&uplink.ca).unwrap();
            fs::write(&uplink.certificate, own + &ca).unwrap();
            secret(&uplink.key, &pair.serialize_pem());
            assert_ne!(used(), new.fingerprint(), "{host}");
        }
        assert!(HubMaterial::examine_in_use(&uplink, &kept, &Files::Host).is_ok());
    }

    #[test]
    fn the_key_in_use_proves_whose_request_it_is() {
        let Enrolled { material, .. } = enrolled(1, true);
        let csr = request(&KeyPair::generate().unwrap()).unwrap();
        let (certificate, proof) = material.proves(&csr);
        let (_, read) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        let key = &read.public_key().subject_public_key.data;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
        // As docs/uplink.md has it.
        let signed = [b"jit-agent next certificate/1\0", csr.as_slice()].concat();
        key.verify(&signed, &proof).unwrap();
        let other = request(&KeyPair::generate().unwrap()).unwrap();
        assert!(key.verify(&next_certificate(&other), &proof).is_err());
    }

    #[test]
    fn a_request_asks_for_no_name() {
        let pair = KeyPair::generate().unwrap();
        let der = request(&pair).unwrap();
        let (rest, read) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(read.certification_request_info.subject.iter().count(), 0);
        assert!(read.requested_extensions().is_none_or(|mut all| all.next().is_none()));
    }
}
