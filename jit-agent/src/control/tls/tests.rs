//! Certificates of an agent, and who judges those of controllers.

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
    assert!(material.not_now(material.end.at).unwrap().contains("it ended at"));
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
