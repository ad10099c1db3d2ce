//! A person's passkey as the second approval that a host asks for, checked by the host itself.

use std::{fs, process::Command, time::Duration};

use jit_client::{
    authenticator::Authenticator,
    signing::{Algorithm, SigningKey},
};
use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};
use jit_tests::{
    agent::{CLIENT, Site},
    programs::binary,
};
use prost::Message as _;
use rustix::process::Signal;

use crate::controlled::succeed;

const RP_ID: &str = "jit.example.org";
const ORIGIN: &str = "https://jit.example.org";
/// Flags BE and BS: the passkey can be, and is, on other devices too.
const COPIED: u8 = 0b1_1000;

/// Ana's authenticator, which copies the passkey between devices.
fn passkey() -> Authenticator {
    let random = rustls::crypto::ring::default_provider().secure_random;
    let key = SigningKey::generate(Algorithm::P256, random).unwrap();
    let mut passkey = Authenticator::new(key, RP_ID, ORIGIN);
    passkey.flags |= COPIED;
    passkey
}

/// A host that asks for two approvals, and has one signer and one approver.
fn site(passkey: &Authenticator) -> Site {
    let mut site = Site::new();
    fs::write(site.path("ana.pem"), passkey.key.public_pem()).unwrap();
    site.configure(&format!(
        "[[approver]]\nid = \"ana\"\npublic_key = \"ana.pem\"\nrp_id = \"{RP_ID}\"\n\
         origins = [\"{ORIGIN}\"]\nmax_duration = \"1h\"\n"
    ));
    let text = fs::read_to_string(site.config()).unwrap();
    site.write_config(&text.replacen("port = 22\n", "port = 22\napprovals = 2\n", 1));
    site.start();
    site
}

/// A grant for the client, signed by the signer.
fn signed(site: &Site) -> (v1::Envelope, Vec<u8>) {
    let envelope = site.envelope(&[CLIENT[0]], Duration::from_secs(600));
    let message = pre_authentication_encoding(GRANT_TYPE, &envelope.payload);
    (envelope, message)
}

#[test]
fn a_host_that_asks_for_two_opens_by_the_controllers_key_and_a_passkey_and_by_neither_alone() {
    let mut passkey = passkey();
    let mut site = site(&passkey);
    let (mut envelope, message) = signed(&site);
    let good = passkey.approve(&message);
    let refused = |envelope: &v1::Envelope, word: &str, says: &str| {
        let status = site.push(envelope.clone()).unwrap_err();
        let said = format!("{status:?}");
        assert!(said.contains(word) && said.contains(says), "{word}, {says}: {said}");
    };
    refused(&envelope, "approvals_missing", "there are 1");
    let alone = v1::Envelope { signatures: vec![good.clone()], ..envelope.clone() };
    refused(&alone, "approvals_missing", "only approvers signed it");
    passkey.origin = "https://jit.example.org.evil.example".into();
    let evil = passkey.approve(&message);
    let of_evil = v1::Envelope { signatures: vec![evil.clone()], ..envelope.clone() };
    refused(&of_evil, "bad_signature", "the origin");
    let beside = [envelope.signatures.clone(), vec![evil]].concat();
    refused(
        &v1::Envelope { signatures: beside, ..envelope.clone() },
        "approvals_missing",
        "origin",
    );
    let (mut other, _) = signed(&site);
    other.signatures.push(good.clone());
    refused(&other, "approvals_missing", "challenge");
    site.assert_closed_to_all();

    envelope.signatures.push(good);
    fs::write(site.path("envelope"), envelope.encode_to_vec()).unwrap();
    let inspected = succeed(
        Command::new(binary("jitctl"))
            .args(["inspect", "envelope", "--approver", "config.toml"])
            .current_dir(site.path("")),
    );
    assert!(inspected.contains("good, by a passkey of ana"), "{inspected}");

    site.push(envelope.clone()).unwrap();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert!(!site.stranger_opens(0, 22));
    let approvers = |site: &Site| site.status().0["grants"][0]["signers"].clone();
    assert_eq!(approvers(&site), serde_json::json!(["test", "ana"]));

    // What is stored is verified again at a start.
    site.end(Signal::KILL);
    site.start();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert_eq!(approvers(&site), serde_json::json!(["test", "ana"]));
    let audit = fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap();
    let admitted = audit.lines().find(|line| line.contains("grant_admitted")).unwrap();
    assert!(admitted.contains("[\"test\",\"ana\"]"), "{admitted}");
    let checked = site.run(&["check", "--json"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains(RP_ID) && checked.contains(ORIGIN), "{checked}");
}
