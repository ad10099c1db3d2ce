//! The worked example of docs/signing.md, computed from published test keys, so that the page and
//! the code cannot drift apart. It writes the page only with JIT_BLESS=1.

use std::{fmt::Write as _, path::Path};

use jit_proto::{
    dsse::pre_authentication_encoding,
    payload_type::{GRANT_TYPE, REVOCATION_TYPE},
    v1,
};
use prost::Message as _;

use crate::signing::{SigningKey, seal};

/// RFC 8032 section 7.1, test 1.
const ED25519_SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
/// RFC 6979 appendix A.2.5.
const P256_SECRET: &str = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721";
/// 2027-03-01T08:00:00Z.
const START_MS: i64 = 1_803_888_000_000;
/// Hex digits on a line of the page.
const LINE: usize = 64;
const BEGIN: &str = "<!-- example: written by a test, see the end of this page -->\n";
const END: &str = "<!-- end of the example -->\n";

#[test]
fn the_page_shows_what_the_code_produces() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/signing.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page marks where the example begins");
    let (shown, tail) = rest.split_once(END).expect("the page marks where the example ends");
    let example = example();
    if std::env::var_os("JIT_BLESS").is_some() {
        std::fs::write(&path, [head, BEGIN, &example, END, tail].concat()).unwrap();
        return;
    }
    assert_eq!(shown, example, "docs/signing.md is out of date; JIT_BLESS=1 writes it anew");
}

/// A grant's fields in the order of their numbers, each in a message of its own.
fn fields() -> Vec<(&'static str, v1::Grant)> {
    let empty = v1::Grant::default;
    let id = "01KPEXAMP1E000000000000001".parse::<jit_proto::GrantId>().unwrap();
    let source = v1::Source { address: vec![203, 0, 113, 7].into(), prefix_length: 32 };
    let port = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 };
    vec![
        (
            "id, the ULID 01KPEXAMP1E000000000000001",
            v1::Grant { id: id.0.to_vec().into(), ..empty() },
        ),
        ("hosts: web-1", v1::Grant { hosts: vec!["web-1".into()], ..empty() }),
        ("sources: 203.0.113.7/32", v1::Grant { sources: vec![source], ..empty() }),
        ("ports: tcp 22 to 22", v1::Grant { ports: vec![port], ..empty() }),
        ("issued_at_ms 1803888000000", v1::Grant { issued_at_ms: START_MS, ..empty() }),
        (
            "not_before_ms 1803888000000, 2027-03-01T08:00:00Z",
            v1::Grant { not_before_ms: START_MS, ..empty() },
        ),
        (
            "not_after_ms 1803891600000, an hour later",
            v1::Grant { not_after_ms: START_MS + 3_600_000, ..empty() },
        ),
        (
            "requester: ana@example.org",
            v1::Grant { requester: "ana@example.org".into(), ..empty() },
        ),
        ("justification: disk full", v1::Grant { justification: "disk full".into(), ..empty() }),
        ("ticket: INC-4211", v1::Grant { ticket: "INC-4211".into(), ..empty() }),
    ]
}

/// The fields of a revocation, likewise. It is signed while the grant is live.
fn revocation_fields() -> Vec<(&'static str, v1::Revocation)> {
    let empty = v1::Revocation::default;
    let until = START_MS + 600_000;
    vec![
        ("hosts: web-1", v1::Revocation { hosts: vec!["web-1".into()], ..empty() }),
        (
            "requester: ana@example.org",
            v1::Revocation { requester: "ana@example.org".into(), ..empty() },
        ),
        (
            "issued_before_ms 1803888600000, 2027-03-01T08:10:00Z",
            v1::Revocation { issued_before_ms: until, ..empty() },
        ),
        ("author: bo@example.org", v1::Revocation { author: "bo@example.org".into(), ..empty() }),
        ("reason: stolen key", v1::Revocation { reason: "stolen key".into(), ..empty() }),
        (
            "keep_until_ms 1803975060000, 24 hours and a minute later",
            v1::Revocation { keep_until_ms: until + 86_460_000, ..empty() },
        ),
    ]
}

/// Appends the lines of a message's fields; returns the message.
fn lines<M: prost::Message>(out: &mut String, fields: Vec<(&'static str, M)>) -> Vec<u8> {
    let mut payload = Vec::new();
    out.push_str("field by field (tag, length where there is one, value):\n\n```text\n");
    for (label, field) in fields {
        let bytes = field.encode_to_vec();
        let hex = hex::encode(&bytes);
        let (first, rest) = hex.split_at(hex.len().min(36));
        writeln!(out, "{first:<36}  {label}").unwrap();
        if !rest.is_empty() {
            writeln!(out, "{rest}").unwrap();
        }
        payload.extend(bytes);
    }
    out.push_str("```\n\n");
    payload
}

fn example() -> String {
    let mut out = String::from("The grant, ");
    let payload = lines(&mut out, fields());
    let message = pre_authentication_encoding(GRANT_TYPE, &payload);
    block(&mut out, "payload", &payload);
    block(&mut out, "pae", &message);

    let ed25519 = ed25519_dalek::SigningKey::from_bytes(&secret(ED25519_SECRET));
    let p256 = p256::SecretKey::from_slice(&secret(P256_SECRET)).unwrap();
    for (name, key) in [("ed25519", SigningKey::Ed25519(ed25519)), ("p256", SigningKey::P256(p256))]
    {
        let algorithm = key.algorithm();
        writeln!(
            out,
            "With the {algorithm} test key\n\n```text\n{}{}```\n",
            key.to_pem(),
            key.public_pem()
        )
        .unwrap();
        writeln!(out, "whose `key_id` is `{}`:\n", key.key_id()).unwrap();
        block(&mut out, &format!("{name} signature"), &key.sign(&message));
        let envelope = seal(GRANT_TYPE, payload.clone(), &[key]);
        block(&mut out, &format!("{name} envelope"), &envelope.encode_to_vec());
    }
    revocation(&mut out);
    out
}

fn revocation(out: &mut String) {
    out.push_str("A revocation of what ana@example.org asked for, ");
    let payload = lines(out, revocation_fields());
    let message = pre_authentication_encoding(REVOCATION_TYPE, &payload);
    block(out, "revocation payload", &payload);
    block(out, "revocation pae", &message);
    out.push_str("With the Ed25519 test key from above:\n\n");
    let key = SigningKey::Ed25519(ed25519_dalek::SigningKey::from_bytes(&secret(ED25519_SECRET)));
    block(out, "revocation signature", &key.sign(&message));
    let envelope = seal(REVOCATION_TYPE, payload, &[key]);
    block(out, "revocation envelope", &envelope.encode_to_vec());
}

fn secret(hex: &str) -> [u8; 32] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

/// Appends a block: name, length, and hex digits in lines of [`LINE`].
fn block(out: &mut String, name: &str, bytes: &[u8]) {
    writeln!(out, "{name}, {} bytes:\n\n```text", bytes.len()).unwrap();
    let hex = hex::encode(bytes);
    for line in hex.as_bytes().chunks(LINE) {
        writeln!(out, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    out.push_str("```\n\n");
}

#[test]
fn the_fields_one_by_one_are_the_whole_message() {
    let joined: Vec<u8> = fields().iter().flat_map(|(_, field)| field.encode_to_vec()).collect();
    let whole = v1::Grant::decode(joined.as_slice()).unwrap();
    assert_eq!(whole.encode_to_vec(), joined);
    let revocation = revocation_fields();
    let joined: Vec<u8> = revocation.iter().flat_map(|(_, field)| field.encode_to_vec()).collect();
    let whole = v1::Revocation::decode(joined.as_slice()).unwrap();
    assert_eq!(whole.encode_to_vec(), joined);
}
