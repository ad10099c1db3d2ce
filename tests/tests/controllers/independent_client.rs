//! The protocol can be implemented from docs/signing.md and the .proto files alone.

use std::{fs, path::Path, process::Command, time::Duration};

use jit_proto::{payload_type::GRANT_TYPE, v1};
use jit_tests::{
    agent::{CLIENT, HOST, STRANGER, TO_CLIENT},
    python::{python, script},
};
use prost::Message as _;

use crate::{
    controlled::{Controlled, PORT, Said, repository, succeed},
    revocations,
};

#[test]
fn python_agrees_with_the_worked_example() {
    let mut command = Command::new(python());
    command.arg(script("push_grant.py")).arg("check-example");
    let said = succeed(command.arg(repository("jit-agent/docs/signing.md")));
    assert_eq!(said, "ed25519: good\np256: good\nrevocation: good\n");
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
        assert!(site.client_gets_in(family, 22), "{key}\n{}", site.log());
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
    assert!(controlled.site.client_gets_in(0, 22));
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
        assert!(site.client_gets_in(family, 22), "{algorithm}\n{}", site.log());
        assert!(!site.stranger_opens(family, 22), "{algorithm}: {}", STRANGER[family]);
    }
}

#[test]
fn a_revocation_signed_by_python_closes_whatever_the_controller_may() {
    let controlled = revocations::controlled();
    let site = &controlled.site;
    let revoke = |host: &str, more: &[&str]| {
        python_as(&controlled, "reader", "revoke", "revoker.key", host, more)
    };
    site.admit(&CLIENT, Duration::from_secs(600));
    let of_bo = revoke(HOST, &["--requester", "bo@example.org"]).good();
    assert_eq!(of_bo, "ok 0\n", "a floor, and none of his grants");
    for (byte, host, says) in [
        ("3", HOST, "refused: bad_signature: "),
        ("-1", HOST, "refused: bad_signature: "),
        ("", "web-2", "refused: wrong_host: "),
    ] {
        let flip = ["--flip", byte];
        revoke(host, if byte.is_empty() { &[] } else { &flip }).fails(77, says);
    }
    let other = python_as(&controlled, "controller", "revoke", "signer.key", HOST, &[]);
    other.fails(77, "refused: unknown_key: ");
    site.assert_open_to_the_client_alone();
    assert_eq!(revoke(HOST, &["--requester", "ana@example.org"]).good(), "ok 1\n");
    site.assert_closed_to_all();
    push(&controlled, "signer.key", CLIENT[0], &[]).good();
    assert!(site.client_gets_in(0, 22), "signed after it");
    assert_eq!(revoke(HOST, &[]).good(), "ok 1\n");
    site.assert_closed_to_all();
}

/// The Python client's `push` of a grant for one source.
fn push(controlled: &Controlled, key: &str, source: &str, more: &[&str]) -> Said {
    let grant = ["--source", source, "--port", "22", "--seconds", "60"];
    python_as(controlled, "controller", "push", key, HOST, &[&grant[..], more].concat())
}

/// The Python client with the certificate of a controller.
fn python_as(
    controlled: &Controlled,
    controller: &str,
    command: &str,
    key: &str,
    host: &str,
    more: &[&str],
) -> Said {
    let [address, _] = TO_CLIENT;
    let mut python = Command::new(python());
    python.arg(script("push_grant.py")).arg(command);
    python.args(["--agent", &format!("{address}:{PORT}"), "--ca", "pki/ca.pem"]);
    python.arg("--cert").arg(format!("pki/{controller}.pem"));
    python.arg("--key").arg(format!("pki/{controller}.key"));
    python.args(["--signing-key", key, "--host", host]).args(more);
    Said::from(controlled.run(&mut python))
}

/// Runs the page's block of shell commands that begins with this comment.
fn shell(page: &str, name: &str, directory: &Path) {
    let begin = format!("```sh\n# {name}\n");
    let (_, rest) = page.split_once(&begin).expect("the page has this block");
    let (commands, _) = rest.split_once("\n```\n").expect("the block ends");
    succeed(Command::new("sh").args(["-euc", commands]).current_dir(directory));
}
