//! Judges the agent's certificates as a controller would, before one does: usage, names, time, and
//! the way to an authority (RFC 5280 section 6; RFC 9525).

use std::{sync::Arc, time::Duration};

use jit_proto::WallTime;
use rustls::{
    CertificateError, Error, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::control::certificate::{Authority, Facts};

/// Why no peer at any time would accept this as a server's certificate.
pub(super) fn never_serves(leaf: &Facts) -> Option<String> {
    let subject = &leaf.subject;
    if leaf.authority == Authority::Yes {
        return Some(format!(
            "the first certificate ({subject}) is an authority's, which no peer accepts as a \
             server's; put the agent's own certificate first"
        ));
    }
    if !leaf.serves {
        return Some(format!(
            "the certificate ({subject}) is not for servers: its extended key usage lacks \
             serverAuth, so no controller accepts it; issue it with serverAuth"
        ));
    }
    leaf.hosts.is_empty().then(|| {
        format!(
            "the certificate ({subject}) has no subject alternative name with a DNS name or an \
             address; peers do not read the CN (RFC 9525), so no controller accepts it; issue it \
             with the name by which controllers reach this host"
        )
    })
}

/// Why a certificate cannot be one of `client_ca`.
pub(super) fn no_authority(facts: &Facts) -> Option<String> {
    (facts.authority == Authority::No).then(|| {
        format!(
            "{} is no authority's certificate (basic constraints: CA is not true), so it vouches \
             for no controller; put the certificate of the CA here that issues the controllers'",
            facts.subject
        )
    })
}

/// What is doubtful about the way from the agent's certificate to an authority; `None`: it leads to
/// one of `client_ca`.
pub(super) fn doubt(
    chain: &[CertificateDer<'static>],
    authorities: &[CertificateDer<'static>],
    now: WallTime,
) -> Option<String> {
    let facts: Vec<_> = chain.iter().filter_map(Facts::of).collect();
    let leaf = facts.first()?;
    match verify(chain, authorities, leaf, now) {
        Ok(()) => return None,
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
        Err(error) => return Some(format!("a controller would refuse the certificate: {error}")),
    }
    let roots: Vec<_> = chain
        .iter()
        .filter(|one| Facts::of(one).is_some_and(|facts| facts.is_root()))
        .cloned()
        .collect();
    if !roots.is_empty() && verify(chain, &roots, leaf, now).is_ok() {
        return Some(
            "the certificate leads to the root in its own file, not to client_ca; controllers \
             need that root"
                .into(),
        );
    }
    let last = facts.last().map_or(leaf, |last| last);
    let others = authorities.iter().filter_map(Facts::of).map(|facts| facts.subject);
    let others: Vec<_> = others.collect();
    Some(format!(
        "no certificate of {:?}, which issued {:?}, is in `certificate` or `client_ca` (there: {}): \
         controllers that trust it accept the agent, so this is no error, and one that has it only as \
         an intermediate refuses the agent; append it to `certificate`",
        last.issuer,
        last.subject,
        others.join(", ")
    ))
}

/// What peers that follow RFC 5280 strictly refuse (OpenSSL does), and what does not belong there.
pub(super) fn oddities(chain: &[CertificateDer<'static>]) -> Vec<String> {
    let facts: Vec<_> = chain.iter().filter_map(Facts::of).collect();
    let Some((leaf, others)) = facts.split_first() else { return Vec::new() };
    let mut oddities = Vec::new();
    if !leaf.signs {
        oddities.push(format!(
            "the key usage of {} lacks digitalSignature, which TLS 1.3 needs; issue it with \
             digitalSignature",
            leaf.subject
        ));
    }
    // A root that is not needed issued itself alone.
    let issued = |one: &Facts, below: &Facts| {
        below.issuer == one.subject && below.fingerprint != one.fingerprint
    };
    let issuer = |one: &&Facts| facts.iter().any(|below| issued(one, below));
    for one in others.iter().filter(|one| issuer(one) && !one.issues) {
        oddities.push(format!(
            "the key usage of {} lacks keyCertSign, so it issues nothing; issue it with keyCertSign",
            one.subject
        ));
    }
    for one in others.iter().filter(|one| !issuer(one)) {
        oddities.push(format!(
            "{} is in the file and issued none of the certificates there; remove it, or append what \
             belongs between",
            one.subject
        ));
    }
    oddities
}

fn verify(
    chain: &[CertificateDer<'static>],
    authorities: &[CertificateDer<'static>],
    leaf: &Facts,
    now: WallTime,
) -> Result<(), Error> {
    let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|_| unknown())?;
    let (own, intermediates) = chain.split_first().ok_or_else(unknown)?;
    // A wildcard stands for any name below it.
    let host = leaf.hosts.first().map(|host| host.replacen('*', "host", 1)).unwrap_or_default();
    let name = ServerName::try_from(host)
        .map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
    let since_epoch = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    let at = UnixTime::since_unix_epoch(since_epoch);
    verifier.verify_server_cert(own, intermediates, &name, &[], at).map(|_| ())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Usage, IsCa,
        Issuer, KeyPair,
    };

    use super::*;

    type Signed = (CertificateDer<'static>, Issuer<'static, KeyPair>);

    fn params(name: &str, hosts: &[&str], authority: bool) -> CertificateParams {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    fn signed(params: CertificateParams, by: Option<&Signed>) -> Signed {
        let key = KeyPair::generate().unwrap();
        let made = match by {
            Some((_, issuer)) => params.signed_by(&key, issuer),
            None => params.self_signed(&key),
        };
        (made.unwrap().der().clone(), Issuer::new(params, key))
    }

    fn now() -> WallTime {
        WallTime("2026-01-15T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn facts(params: CertificateParams) -> Facts {
        Facts::of(&signed(params, None).0).unwrap()
    }

    #[test]
    fn a_certificate_that_no_peer_takes_for_a_server_is_named_with_the_cure() {
        assert_eq!(never_serves(&facts(params("agent", &["web-1"], false))), None);
        let mut client = params("agent", &["web-1"], false);
        client.extended_key_usages = vec![Usage::ClientAuth];
        let mut both = client.clone();
        both.extended_key_usages.push(Usage::ServerAuth);
        assert_eq!(never_serves(&facts(both)), None);
        for (params, cure) in [
            (client, "issue it with serverAuth"),
            (params("web-1", &[], false), "peers do not read the CN"),
            (params("ca", &["web-1"], true), "put the agent's own certificate first"),
        ] {
            let why = never_serves(&facts(params)).unwrap();
            assert!(why.contains(cure), "{why}");
        }
    }

    #[test]
    fn a_leaf_vouches_for_nobody() {
        assert_eq!(no_authority(&facts(params("ca", &[], true))), None);
        let why = no_authority(&facts(params("controller", &["c"], false))).unwrap();
        assert!(why.contains("CN=controller is no authority's certificate"), "{why}");
    }

    #[test]
    fn the_way_to_an_authority_is_followed_as_a_controller_would() {
        let root = signed(params("root", &[], true), None);
        let middle = signed(params("middle", &[], true), Some(&root));
        let other = signed(params("other", &[], true), None);
        let (leaf, _) = signed(params("agent", &["web-1"], false), Some(&middle));
        let all = [leaf.clone(), middle.0.clone(), root.0.clone()];
        let doubts = |chain: usize, authority: &Signed| {
            doubt(&all[..chain], std::slice::from_ref(&authority.0), now())
        };
        assert_eq!(doubts(2, &root), None);
        assert_eq!(doubts(1, &middle), None);
        let missing = doubts(1, &root).unwrap();
        assert!(missing.contains("no certificate of \"CN=middle\""), "{missing}");
        assert!(missing.contains("append it"), "{missing}");
        let unrelated = doubts(2, &other).unwrap();
        assert!(unrelated.contains("no certificate of \"CN=root\""), "{unrelated}");
        let own = doubts(3, &other).unwrap();
        assert!(own.contains("the root in its own file"), "{own}");
    }

    #[test]
    fn usages_of_keys_and_certificates_that_do_not_belong_there_are_named() {
        use rcgen::KeyUsagePurpose as Key;
        let mut weak = params("middle", &[], true);
        weak.key_usages = vec![Key::CrlSign];
        let weak = signed(weak, None);
        let good = signed(params("good", &[], true), None);
        let other = signed(params("other", &[], true), None);
        let leaf = |usages: Vec<Key>, by: &Signed| {
            let mut params = params("agent", &["web-1"], false);
            params.key_usages = usages;
            signed(params, Some(by)).0
        };
        let signs = vec![Key::DigitalSignature];
        assert_eq!(oddities(&[leaf(signs.clone(), &good), good.0.clone()]), [""; 0]);
        assert_eq!(oddities(&[leaf(Vec::new(), &good), good.0.clone()]), [""; 0]);
        for (chain, says) in [
            (
                vec![leaf(vec![Key::KeyEncipherment], &good), good.0.clone()],
                "lacks digitalSignature",
            ),
            (vec![leaf(signs.clone(), &weak), weak.0], "CN=middle lacks keyCertSign"),
            (vec![leaf(signs, &good), other.0, good.0], "CN=other is in the file and issued none"),
        ] {
            let found = oddities(&chain);
            assert!(matches!(&found[..], [one] if one.contains(says)), "{says}: {found:?}");
        }
    }

    #[test]
    fn what_a_controller_would_refuse_is_said_in_its_words() {
        let root = signed(params("root", &[], true), None);
        let mut ended = params("agent", &["web-1"], false);
        ended.not_after = rcgen::date_time_ymd(2026, 1, 1);
        let (leaf, _) = signed(ended, Some(&root));
        let doubt = doubt(&[leaf], &[root.0], now()).unwrap();
        assert!(doubt.contains("a controller would refuse the certificate"), "{doubt}");
        assert!(doubt.contains("expired"), "{doubt}");
    }
}
