//! Certificates of hosts: the signer's process issues them, with a key that it alone has.

use std::fs;

use jit_client::{
    ca::Authority,
    pem::{Holds, certificates},
};
use jit_controller::signer::{AuthoritySettings, CertificateWish, SignerError};
use jit_proto::pem;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::world::{World, signs};

const LIFETIME: std::time::Duration = std::time::Duration::from_secs(3600);

/// A world whose signer has an authority; and its certificate.
fn with_authority() -> (World, CertificateDer<'static>) {
    let mut world = World::new();
    let pair = Authority::create("hosts", 24 * LIFETIME).unwrap();
    fs::write(world.path("hosts.pem"), &pair.certificate).unwrap();
    fs::write(world.path("hosts.key"), &pair.key).unwrap();
    world.settings.authority = Some(AuthoritySettings {
        certificate: world.path("hosts.pem"),
        key: world.path("hosts.key"),
        trust_domain: "example.org".into(),
        lifetime: LIFETIME,
        certificates_a_minute: 3,
    });
    let der = pem::one(&pair.certificate, &["CERTIFICATE"]).unwrap().der.to_vec();
    (world, der.into())
}

fn wish(host: &str) -> CertificateWish {
    let key = KeyPair::generate().unwrap();
    let asked = vec!["evil.example.org".to_owned()];
    let request = CertificateParams::new(asked).unwrap().serialize_request(&key).unwrap();
    let dns = vec!["web-1.example.org".to_owned()];
    CertificateWish { csr: request.pem().unwrap(), host: host.into(), dns }
}

#[tokio::test]
async fn the_signers_process_issues_certificates_that_lead_to_its_authority() {
    let (world, authority) = with_authority();
    let signer = world.start().await;
    let issued = signer.certify(wish("arn:x/i-1")).await.unwrap();
    let chain = certificates(&issued.certificate, Holds::One).unwrap();
    let [der, after] = &chain[..] else { panic!("two certificates: {issued:?}") };
    assert_eq!(after, &authority, "a host knows its next certificate by it");
    let leaf = EndEntityCert::try_from(der).unwrap();
    let anchors = [webpki::anchor_from_trusted_cert(&authority).unwrap()];
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        let now = UnixTime::now();
        let all = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(all, &anchors, &[], now, usage, None, None).unwrap();
    }
    let uris: Vec<_> = leaf.valid_uri_names().collect();
    assert_eq!(uris, ["spiffe://example.org/host/arn%3Ax%2Fi-1"]);
    let named = |name: &'static str| {
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).is_ok()
    };
    assert!(named("web-1.example.org") && !named("evil.example.org"));
    // It signs grants as before.
    signs(&signer).await;
}

#[tokio::test]
async fn what_is_no_request_or_no_host_gets_no_certificate() {
    let (world, _) = with_authority();
    let signer = world.start().await;
    let good = wish("web-1");
    for bad in [
        CertificateWish { csr: "x".into(), ..good.clone() },
        CertificateWish { csr: good.csr.replace("CERTIFICATE REQUEST", "KEY"), ..good.clone() },
        CertificateWish { host: String::new(), ..good.clone() },
    ] {
        let refused = signer.certify(bad).await.unwrap_err();
        let is_malformed =
            matches!(&refused, SignerError::Refused { word, .. } if word == "malformed");
        assert!(is_malformed, "{refused}");
    }
}

#[tokio::test]
async fn certificates_have_a_rate_of_their_own() {
    let (world, _) = with_authority();
    let signer = world.start().await;
    for number in 0..3 {
        signer.certify(wish(&format!("web-{number}"))).await.unwrap();
    }
    let refused = signer.certify(wish("web-4")).await.unwrap_err();
    assert!(matches!(&refused, SignerError::Unavailable(why) if why.contains("too_fast")));
    // Grants are signed meanwhile.
    signs(&signer).await;
}

#[tokio::test]
async fn without_an_authority_no_certificate_is_issued() {
    let world = World::new();
    let signer = world.start().await;
    let refused = signer.certify(wish("web-1")).await.unwrap_err();
    assert!(matches!(&refused, SignerError::Refused { word, .. } if word == "no_authority"));
    // A key of another authority is noticed at the start.
    let (mut world, _) = with_authority();
    fs::remove_file(world.path("hosts.key")).unwrap();
    let refused = world.try_start().await.unwrap_err();
    assert!(refused.to_string().contains("hosts.key"), "{refused}");
    world.settings.authority.as_mut().unwrap().trust_domain = "Example.org".into();
    let refused = world.try_start().await.unwrap_err();
    assert!(refused.to_string().contains("trust_domain"), "{refused}");
}
