//! From the bytes of an envelope to a grant that the policy allows.

use std::{fs, hint::black_box};

use jit_agent::{config::Config, rules::grant, system::sys};
use jit_client::signing::{Algorithm, SigningKey, seal};
use jit_proto::{payload_type::GRANT_TYPE, v1};
use jit_tests::{
    agent::HOST,
    figures::{Figure, GATE},
};
use prost::Message as _;

use crate::Bench;

pub(crate) fn measure(bench: &mut Bench) {
    for (name, algorithms) in [
        ("Ed25519", &[Algorithm::Ed25519][..]),
        ("P-256", &[Algorithm::P256]),
        ("both, two approvals", &[Algorithm::Ed25519, Algorithm::P256]),
    ] {
        let keys: Vec<_> = algorithms.iter().copied().map(key).collect();
        let config = trusting(&keys);
        let now = sys::now();
        let envelope = seal(GRANT_TYPE, message(now.wall.0).encode_to_vec(), &keys);
        let nanos = bench.row(&format!("verify and check: {name}"), || {
            let grant = grant::verify(black_box(&envelope), &config.keyring, HOST).unwrap();
            config.policy.check(&grant, &config.keyring, now).unwrap();
            black_box(grant);
        });
        if !nanos.is_empty() {
            let values = nanos.iter().map(|nanos| 1e9 / nanos).collect();
            let row = &format!("verified by one core, {name}");
            let (table, unit, more_is_better) = ("pushes a second", "1/s", true);
            Figure { table, row, subject: GATE, unit, more_is_better, values }.report();
        }
    }
}

fn key(algorithm: Algorithm) -> SigningKey {
    let provider = rustls::crypto::ring::default_provider();
    SigningKey::generate(algorithm, provider.secure_random).unwrap()
}

/// A configuration that needs an approval by each of these keys.
fn trusting(keys: &[SigningKey]) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let mut signers = String::new();
    for (number, key) in keys.iter().enumerate() {
        fs::write(directory.path().join(format!("{number}.pem")), key.public_pem()).unwrap();
        signers += &format!("[[signer]]\nid = \"{number}\"\npublic_key = \"{number}.pem\"\n");
    }
    let text = format!(
        "[host]\nid = \"{HOST}\"\n[[port]]\nport = 22\nprotocol = \"tcp\"\n\
         sources = [\"0.0.0.0/0\"]\napprovals = {}\n{signers}",
        keys.len()
    );
    Config::parse(&text, &directory.path().join("config.toml")).unwrap()
}

fn message(now: i64) -> v1::Grant {
    v1::Grant {
        id: vec![1; 16].into(),
        hosts: vec![HOST.into()],
        sources: vec![v1::Source::from(&"192.0.2.7".parse().unwrap())],
        ports: vec![v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 }],
        issued_at_ms: now,
        not_before_ms: now,
        not_after_ms: now + 600_000,
        requester: "ana@example.org".into(),
        justification: "bench".into(),
        ..v1::Grant::default()
    }
}
