//! The protocol can be implemented from docs/signing.md and the .proto files alone.

use std::{fs, path::Path, process::Command, time::Duration};

use jit_proto::{payload_type::GRANT_TYPE, v1};
use jit_tests::{
    agent::{CLIENT, HOST, STRANGER, TO_CLIENT},
    python::{python, script},
};
use prost::Message as _;

use crate::controlled::{Controlled, PORT, Said, repository, succeed};

#[test]
fn python_agrees_with_the_worked_example() {
    let mut command = Command::new(python());
    command.arg(script("push_grant.py")).arg("check-example");
    let said = succeed(command.arg(repository("jit-agent/docs/signing.md")));
    assert_eq!(said, "ed25519: good\np256: good\n");
}

#[test]
fn a_grant_signed_and_pushed_by_python_opens() {
    let controlled = Controlled::with_signers(|site| {
        let mut keygen = Command::new(jit_tests::programs::binary("jitctl"));
        keygen.args(["keygen", "--algorithm", "p256", "--out", "p256"]);
        succeed(keygen.current_dir(site.path("")));
        vec![site.path("p256.pub.pem")]
    });
    let site = &controlled.site;
    site.assert_closed_to_all();
    for (key, family) in [("signer.key", 0), ("p256.key", 1)] {
        let said = push(&controlled, key, CLIENT[family], &[]).good();
        assert!(said.starts_with("ok "), "{said}");
        assert!(site.client_opens(family, 22), "{key}\n{}", site.log());
        assert!(!site.stranger_opens(family, 22), "{key}");
    }
}

#[test]
fn a_byte_changed_after_signing_is_refused_by_its_word() {
    let controlled = Controlled::new();
    // A byte of the id, of the host's name, of an address, and the last byte.
    for byte in ["3", "20", "38", "-1"] {
        let flipped = push(&controlled, "signer.key", CLIENT[0], &["--flip", byte]);
        flipped.fails(77, "refused: bad_signature: ");
    }
    controlled.site.assert_closed_to_all();
    // The same grant without the flip is good.
    push(&controlled, "signer.key", CLIENT[0], &[]).good();
    assert!(controlled.site.client_opens(0, 22));
}

#[test]
fn the_pages_openssl_commands_sign_grants_that_open() {
    let page = fs::read_to_string(repository("jit-agent/docs/signing.md")).unwrap();
    let controlled = Controlled::with_signers(|site| {
        shell(&page, "openssl-keys", &site.path(""));
        ["ed25519.pub.pem", "p256.pub.pem"].map(|name| site.path(name)).to_vec()
    });
    let site = &controlled.site;
    for (number, (algorithm, family)) in [("ed25519", 0), ("p256", 1)].into_iter().enumerate() {
        let payload = site.grant(&[CLIENT[family]], Duration::from_secs(60)).encode_to_vec();
        fs::write(site.path("payload.bin"), &payload).unwrap();
        shell(&page, "openssl-example", &site.path(""));
        let signature = fs::read(site.path(&format!("{algorithm}.sig"))).unwrap();
        let envelope = v1::Envelope {
            payload_type: GRANT_TYPE.into(),
            payload: payload.into(),
            signatures: vec![v1::Signature {
                key_id: format!("controller-{}", number + 1),
                signature: signature.into(),
                ..v1::Signature::default()
            }],
        };
        fs::write(site.path("envelope"), envelope.encode_to_vec()).unwrap();
        controlled.jitctl("push envelope").good();
        assert!(site.client_opens(family, 22), "{algorithm}\n{}", site.log());
        assert!(!site.stranger_opens(family, 22), "{algorithm}: {}", STRANGER[family]);
    }
}

/// The Python client's `push` of a grant for one source.
fn push(controlled: &Controlled, key: &str, source: &str, more: &[&str]) -> Said {
    let [address, _] = TO_CLIENT;
    let mut command = Command::new(python());
    command.arg(script("push_grant.py")).arg("push");
    command.args(["--agent", &format!("{address}:{PORT}"), "--ca", "pki/ca.pem"]);
    command.args(["--cert", "pki/controller.pem", "--key", "pki/controller.key"]);
    command.args(["--signing-key", key, "--host", HOST, "--source", source]);
    command.args(["--port", "22", "--seconds", "60"]).args(more);
    Said::from(controlled.run(&mut command))
}

/// Runs the page's block of shell commands that begins with this comment.
fn shell(page: &str, name: &str, directory: &Path) {
    let begin = format!("```sh\n# {name}\n");
    let (_, rest) = page.split_once(&begin).expect("the page has this block");
    let (commands, _) = rest.split_once("\n```\n").expect("the block ends");
    succeed(Command::new("sh").args(["-euc", commands]).current_dir(directory));
}
