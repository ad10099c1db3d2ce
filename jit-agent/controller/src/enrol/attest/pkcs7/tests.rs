use proptest::prelude::*;

use super::*;
use crate::enrol::attest::forge::Forge;

const CONTENT: &[u8] = br#"{"region" : "eu-west-1"}"#;

fn forge() -> Forge {
    let forge = Forge::new();
    forge.root("cloud", "rsa:2048", "");
    forge
}

fn content_of(message: &[u8], certificates: &[Vec<u8>]) -> Result<Vec<u8>, SignedError> {
    let signed = Message::read(message)?.signed(certificates.iter().map(Vec::as_slice))?.content;
    Ok(signed)
}

#[test]
fn every_form_that_a_cloud_may_write_is_read() {
    let forge = forge();
    let cloud = [forge.der("cloud")];
    // With `-stream` there are no lengths, and the text is in pieces: so EC2 writes it.
    for more in ["", "-noattr", "-stream", "-stream -noattr", "-nocerts", "-nosmimecap -nocerts"] {
        let message = forge.signed("cloud", CONTENT, more);
        assert_eq!(content_of(&message, &cloud).as_deref(), Ok(CONTENT), "{more}");
        let text = STANDARD.encode(&message);
        let lines = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap());
        let lines: Vec<_> = lines.collect();
        for text in [lines.join("\n"), format!("{}\r\n", lines.join("\r\n")), text.clone()] {
            assert_eq!(bytes(&text).as_ref(), Ok(&message));
        }
    }
    let stream = forge.signed("cloud", CONTENT, "-stream");
    assert_eq!(stream.get(..2), Some(&[0x30, 0x80][..]), "it has a length");
    // Over 1,024 bytes `openssl` writes several pieces.
    let long = CONTENT.repeat(200);
    let message = forge.signed("cloud", &long, "-stream");
    assert_eq!(content_of(&message, &cloud), Ok(long));
}

#[test]
fn the_certificate_is_the_one_that_signed_wherever_it_stands() {
    let forge = forge();
    forge.root("thief", "rsa:2048", "");
    let (cloud, thief) = (forge.der("cloud"), forge.der("thief"));
    for (signer, other) in [("cloud", "thief"), ("thief", "cloud")] {
        let message = forge.signed(signer, CONTENT, &format!("-certfile {other}.pem"));
        let message = Message::read(&message).unwrap();
        let bag = message.certificates().to_vec();
        assert_eq!(bag.len(), 2);
        for bag in [bag.clone(), bag.into_iter().rev().collect()] {
            assert_eq!(message.signed(bag).unwrap().certificate, forge.der(signer));
        }
        let other = forge.der(other);
        assert_eq!(message.signed([other.as_slice()]), Err(SignedError::Certificate));
    }
    // A certificate of the same name and number with another key is not the one that signed.
    forge.openssl("genrsa -out double.key 2048");
    let serial = X509Certificate::from_der(&cloud).unwrap().1.raw_serial_as_string();
    forge.openssl(&format!(
        "req -x509 -key double.key -out double.pem -subj /O=Example/CN=cloud -days 30 -set_serial 0x{}",
        serial.replace(':', "")
    ));
    let message = forge.signed("cloud", CONTENT, "");
    let double = forge.der("double");
    let read = Message::read(&message).unwrap();
    assert_eq!(read.signed([double.as_slice()]), Err(SignedError::Signature));
    let all = [thief.as_slice(), double.as_slice(), &[1, 2, 3], cloud.as_slice()];
    assert_eq!(read.signed(all).unwrap().certificate, cloud);
}

#[test]
fn no_changed_byte_changes_what_was_signed() {
    let forge = forge();
    let cloud = [forge.der("cloud")];
    for more in ["-nocerts", "-noattr -nocerts", "-stream -nocerts"] {
        let message = forge.signed("cloud", CONTENT, more);
        let at = message.windows(CONTENT.len()).position(|part| part == CONTENT).unwrap();
        for place in 0..message.len() {
            for bit in [1, 0x20, 0x80] {
                let mut changed = message.clone();
                changed[place] ^= bit;
                let found = content_of(&changed, &cloud);
                // The version and the list of digests are of no use to anybody.
                assert!(found.is_err() || found.as_deref() == Ok(CONTENT), "{more} {place}");
                let inside = (at..at + CONTENT.len()).contains(&place);
                assert!(!inside || found.is_err(), "{more} {place}");
            }
        }
        for length in 0..message.len() {
            assert!(content_of(&message[..length], &cloud).is_err(), "{more} {length}");
        }
    }
}

#[test]
fn a_digest_of_another_text_is_refused() {
    let forge = forge();
    let cloud = [forge.der("cloud")];
    let put = |message: &[u8]| {
        let at = message.windows(CONTENT.len()).position(|part| part == CONTENT).unwrap();
        let mut changed = message.to_vec();
        changed[at..at + CONTENT.len()].copy_from_slice(br#"{"region" : "us-west-2"}"#);
        changed
    };
    let message = put(&forge.signed("cloud", CONTENT, ""));
    assert_eq!(content_of(&message, &cloud), Err(SignedError::Digest));
    let message = put(&forge.signed("cloud", CONTENT, "-noattr"));
    assert_eq!(content_of(&message, &cloud), Err(SignedError::Signature));
    // The signed attributes as a text of their own: the signature is good for it. It is no JSON.
    let message = forge.signed("cloud", CONTENT, "-nocerts");
    let read = Message::read(&message).unwrap();
    let attributes = read.attributes.clone().unwrap();
    let swapped = Message { content: attributes.clone(), attributes: None, ..read };
    let bag = cloud.iter().map(Vec::as_slice);
    assert_eq!(swapped.signed(bag).unwrap().content, attributes);
    assert!(serde_json::from_slice::<serde_json::Value>(&attributes).is_err());
}

#[test]
fn weak_and_foreign_algorithms_are_refused() {
    let forge = forge();
    let cloud = [forge.der("cloud")];
    let message = forge.signed("cloud", CONTENT, "-md sha1");
    assert_eq!(content_of(&message, &cloud), Err(SignedError::Algorithm));
    let message = forge.signed("cloud", CONTENT, "-md sha512");
    assert_eq!(content_of(&message, &cloud), Err(SignedError::Algorithm));
    let message = forge.signed("cloud", CONTENT, "-keyopt rsa_padding_mode:pss");
    assert_eq!(content_of(&message, &cloud), Err(SignedError::Algorithm));
    forge.root("short", "rsa:1024", "");
    let message = forge.signed("short", CONTENT, "");
    assert_eq!(content_of(&message, &[forge.der("short")]), Err(SignedError::Signature));
    forge.root("curve", "ec", "-pkeyopt ec_paramgen_curve:P-256");
    let message = forge.signed("curve", CONTENT, "");
    assert_eq!(content_of(&message, &[forge.der("curve")]), Err(SignedError::Algorithm));
    // EC2's `pkcs7`.
    forge.openssl("dsaparam -out dsa.params 1024");
    forge.root("dsa", "dsa:dsa.params", "");
    let message = forge.signed("dsa", CONTENT, "-md sha1 -noattr");
    assert_eq!(content_of(&message, &[forge.der("dsa")]), Err(SignedError::Algorithm));
}

#[test]
fn one_signer_with_its_content_is_asked_for() {
    let forge = forge();
    forge.root("second", "rsa:2048", "");
    let both = forge.signed("cloud", CONTENT, "-signer second.pem -inkey second.key");
    assert_eq!(Message::read(&both).unwrap_err(), SignedError::Signers(2));
    let by_key = forge.signed("cloud", CONTENT, "-keyid");
    assert_eq!(Message::read(&by_key).unwrap_err(), SignedError::Malformed);
    std::fs::write(forge.path("content"), CONTENT).unwrap();
    forge.openssl(
        "cms -sign -binary -in content -signer cloud.pem -inkey cloud.key -md sha256 -outform DER \
         -out detached",
    );
    let detached = std::fs::read(forge.path("detached")).unwrap();
    assert_eq!(Message::read(&detached).unwrap_err(), SignedError::Malformed);
    let mut more = forge.signed("cloud", CONTENT, "");
    more.push(0);
    assert_eq!(Message::read(&more).unwrap_err(), SignedError::Malformed);
}

#[test]
fn what_is_too_large_or_deep_is_refused() {
    assert_eq!(Message::read(&vec![0x30; MAX_BYTES + 1]).unwrap_err(), SignedError::TooLarge);
    assert_eq!(bytes(&"A".repeat(MAX_BYTES * 2)), Err(SignedError::TooLarge));
    assert_eq!(bytes("MIAG CSqG"), Err(SignedError::Base64));
    for junk in [[0x30, 0x80].as_slice(), &[0x24, 0x80], &[0xa0, 0x80], &[0x30, 0x82, 0xff, 0xff]] {
        assert!(Message::read(&junk.repeat(MAX_BYTES / junk.len())).is_err());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Message::read(&bytes).is_err());
    }
}

#[test]
fn no_mixture_of_good_messages_makes_it_panic_or_say_something_else() {
    let forge = forge();
    let cloud = [forge.der("cloud")];
    let other = br#"{"region":"us-west-2"}"#.as_slice();
    let good: Vec<_> = [(CONTENT, ""), (other, "-stream"), (CONTENT, "-noattr -nocerts")]
        .map(|(content, more)| forge.signed("cloud", content, more))
        .into();
    let mut rng = fastrand::Rng::with_seed(18);
    let mut read = 0;
    for _ in 0..20_000 {
        let mut mixed = good[rng.usize(..good.len())].clone();
        for _ in 0..rng.usize(1..4) {
            let from = &good[rng.usize(..good.len())];
            let length = rng.usize(..40);
            let (to, source) = (rng.usize(..mixed.len()), rng.usize(..from.len() - length));
            let until = (to + rng.usize(..40)).min(mixed.len());
            mixed.splice(to..until, from[source..source + length].iter().copied());
        }
        read += usize::from(Message::read(&mixed).is_ok());
        if let Ok(content) = content_of(&mixed, &cloud) {
            assert!(content == CONTENT || content == other);
        }
    }
    assert!(read > 0, "no mixture came as far as its signature");
}
