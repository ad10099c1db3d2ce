//! A person's passkey as the second approval that a host asks for, checked by the host itself.

use std::{fs, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};
use jit_tests::{
    agent::{CLIENT, Site},
    programs::binary,
};
use p256::{
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePublicKey as _, LineEnding},
};
use prost::Message as _;
use rustix::process::Signal;
use sha2::{Digest as _, Sha256};

use crate::controlled::succeed;

const RP_ID: &str = "jit.example.org";
const ORIGIN: &str = "https://jit.example.org";

/// Ana's authenticator.
fn passkey() -> SigningKey {
    SigningKey::from_slice(&[21; 32]).unwrap()
}

/// What a page at this origin gets when Ana approves these signed bytes.
fn approval(message: &[u8], origin: &str) -> v1::Signature {
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(message));
    let client_data = format!(
        "{{\"type\":\"webauthn.get\",\"challenge\":\"{challenge}\",\"origin\":\"{origin}\",\
         \"crossOrigin\":false}}"
    );
    let data = [&Sha256::digest(RP_ID)[..], &[0b1_1101, 0, 0, 0, 0]].concat();
    let signature: Signature =
        passkey().sign(&[&data[..], &Sha256::digest(&client_data)[..]].concat());
    v1::Signature {
        key_id: "ana".into(),
        signature: signature.to_der().as_bytes().to_vec().into(),
        assertion: Some(Box::new(v1::Assertion {
            authenticator_data: data.into(),
            client_data_json: client_data.into_bytes().into(),
        })),
    }
}

/// A host that asks for two approvals, and has one signer and one approver.
fn site() -> Site {
    let mut site = Site::new();
    let pem = p256::PublicKey::from(passkey().verifying_key()).to_public_key_pem(LineEnding::LF);
    fs::write(site.path("ana.pem"), pem.unwrap()).unwrap();
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
    let mut site = site();
    let (mut envelope, message) = signed(&site);
    let good = approval(&message, ORIGIN);
    let refused = |envelope: &v1::Envelope, word: &str, says: &str| {
        let status = site.push(envelope.clone()).unwrap_err();
        let said = format!("{status:?}");
        assert!(said.contains(word) && said.contains(says), "{word}, {says}: {said}");
    };
    refused(&envelope, "approvals_missing", "there are 1");
    let alone = v1::Envelope { signatures: vec![good.clone()], ..envelope.clone() };
    refused(&alone, "approvals_missing", "only approvers signed it");
    let evil = approval(&message, "https://jit.example.org.evil.example");
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
    assert!(site.client_opens(0, 22), "{}", site.log());
    assert!(!site.stranger_opens(0, 22));
    let approvers = |site: &Site| site.status().0["grants"][0]["signers"].clone();
    assert_eq!(approvers(&site), serde_json::json!(["test", "ana"]));

    // What is stored is verified again at a start.
    site.end(Signal::KILL);
    site.start();
    assert!(site.client_opens(0, 22), "{}", site.log());
    assert_eq!(approvers(&site), serde_json::json!(["test", "ana"]));
    let audit = fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap();
    let admitted = audit.lines().find(|line| line.contains("grant_admitted")).unwrap();
    assert!(admitted.contains("[\"test\",\"ana\"]"), "{admitted}");
    let checked = site.run(&["check", "--json"]);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains(RP_ID) && checked.contains(ORIGIN), "{checked}");
}
