//! What a `[[signer]]` may sign: its own limits, its window, and what its removal means.

use std::time::Duration;

use jit_agent::{
    config::Config,
    rules::{
        envelope::Together,
        grant,
        keyring::{Keyring, Signer},
        refusal::Refused,
    },
};
use jit_client::signing::{Algorithm, SigningKey, seal};
use jit_proto::{Refusal, dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};
use prost::Message as _;

use crate::support::{HOST, MINUTE, NOW, grant as good, key, later, pem, port, sign};

/// A host with ports 22 and 3389 (two approvals) for everyone, and these signers.
fn config(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    for seed in [1, 2, 3, 4] {
        std::fs::write(directory.path().join(format!("{seed}.pem")), pem(&key(seed))).unwrap();
    }
    let path = directory.path().join("config.toml");
    let port = |port: u16, more: &str| {
        format!("[[port]]\nport = {port}\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n{more}\n")
    };
    let ports = [port(22, ""), port(3389, "approvals = 2")].concat();
    std::fs::write(&path, format!("[host]\nid = \"{HOST}\"\n{ports}{text}")).unwrap();
    Config::read(&path).map_err(|error| error.to_string())
}

/// Three signers: 1 with these limits, 2 and 3 without.
fn signers(limits: &str) -> String {
    let signer = |seed: u8, more: &str| {
        format!("[[signer]]\nid = \"k{seed}\"\npublic_key = \"{seed}.pem\"\n{more}\n")
    };
    [signer(1, limits), signer(2, ""), signer(3, "")].concat()
}

fn check(config: &Config, grant: &v1::Grant, seeds: &[u8]) -> Result<(), Refused> {
    let envelope = sign(GRANT_TYPE, &grant.encode_to_vec(), seeds);
    let grant = grant::verify(&envelope, &config.keyring, HOST)?;
    config.policy.check(&grant, &config.keyring, NOW)
}

fn word(config: &Config, grant: &v1::Grant, seeds: &[u8]) -> &'static str {
    check(config, grant, seeds).map_or_else(|refused| refused.refusal.word(), |()| "ok")
}

#[test]
fn a_key_counts_only_where_its_limits_admit_the_whole_grant() {
    let ssh = good(1, &["203.0.113.7", "198.51.100.1"]);
    for (limits, expected) in [
        ("", "ok"),
        ("ports = [\"22/tcp\", \"80-90\"]", "ok"),
        ("ports = [\"20-21\", \"22/udp\"]", "port_not_allowed"),
        ("sources = [\"203.0.113.0/24\", \"198.51.100.1\"]", "ok"),
        ("sources = [\"203.0.113.0/24\"]", "source_not_allowed"),
        ("max_duration = \"10m\"", "ok"),
        ("max_duration = \"599s\"", "lifetime"),
        ("not_before = \"2026-06-01T00:00:00Z\"", "ok"),
        ("not_before = \"2026-06-01T00:00:01Z\"", "unknown_key"),
        ("not_after = \"2026-06-01T00:00:01Z\"", "ok"),
        ("not_after = \"2026-06-01T00:00:00Z\"", "unknown_key"),
        ("signs = [\"grant\", \"policy\"]", "ok"),
        ("signs = [\"policy\"]", "unknown_key"),
    ] {
        let config = config(&signers(limits)).unwrap();
        assert_eq!(word(&config, &ssh, &[1]), expected, "{limits}");
        // Together with a key without limits, the limited one changes nothing.
        assert_eq!(word(&config, &ssh, &[1, 2]), "ok", "{limits}");
        let both = v1::Grant { ports: vec![port(22), port(3389)], ..ssh.clone() };
        let of_two = match (expected, limits.starts_with("ports")) {
            ("ok", false) => "ok",
            _ => "approvals_missing",
        };
        assert_eq!(word(&config, &both, &[1, 2]), of_two, "{limits}");
    }
}

#[test]
fn the_refusal_says_which_key_did_not_count_and_why() {
    let config = config(&signers("not_after = \"2026-01-01T00:00:00Z\"")).unwrap();
    let refused = check(&config, &good(1, &["203.0.113.7"]), &[1]).unwrap_err();
    assert_eq!(refused.refusal, Refusal::UnknownKey);
    assert!(refused.detail.contains("\"k1\" counts no longer since 2026-01-01T00:00:00Z"));
    let rdp = v1::Grant { ports: vec![port(3389)], ..good(1, &["203.0.113.7"]) };
    let refused = check(&config, &rdp, &[1, 2]).unwrap_err();
    assert!(refused.detail.contains("there are 1; \"k1\" counts no longer"), "{refused}");
}

#[test]
fn limits_that_make_no_sense_are_refused_with_their_key() {
    for (limits, expected) in [
        ("ports = []", "ports is empty"),
        ("sources = []", "sources is empty"),
        ("signs = []", "signs is empty"),
        ("signs = [\"checkpoints\"]", "checkpoints"),
        ("ports = [\"22/sctp\"]", "22/sctp"),
        ("sources = [\"203.0.113.1/24\"]", "203.0.113.0/24"),
        ("not_before = \"soon\"", "not_before"),
        (
            "not_before = \"2027-01-01T00:00:00Z\"\nnot_after = \"2027-01-01T00:00:00Z\"",
            "not later",
        ),
        ("signs = [\"policy\"]\nports = [\"22\"]", "limit grants"),
    ] {
        let error = config(&signers(limits)).unwrap_err();
        assert!(error.contains(expected), "{limits}: {error}");
    }
}

#[test]
fn a_name_that_moves_to_another_key_takes_no_approval_with_it() {
    let before = config(&signers("")).unwrap();
    let envelope = sign(GRANT_TYPE, &good(1, &["203.0.113.7"]).encode_to_vec(), &[1]);
    let grant = grant::verify(&envelope, &before.keyring, HOST).unwrap();
    before.policy.check(&grant, &before.keyring, NOW).unwrap();
    // The same names, and 1's name now means another key.
    let after = config(&signers("").replace("1.pem", "4.pem")).unwrap();
    let refused = after.policy.check(&grant, &after.keyring, NOW).unwrap_err();
    assert_eq!(refused.refusal, Refusal::UnknownKey);
    // Another name for the same key changes nothing.
    let renamed = config(&signers("").replace("k1", "prod")).unwrap();
    renamed.policy.check(&grant, &renamed.keyring, NOW).unwrap();
}

#[test]
fn a_keys_window_is_checked_again_after_verification() {
    let config = config(&signers("not_after = \"2026-06-01T00:05:00Z\"")).unwrap();
    let envelope = sign(GRANT_TYPE, &good(1, &["203.0.113.7"]).encode_to_vec(), &[1]);
    let grant = grant::verify(&envelope, &config.keyring, HOST).unwrap();
    config.policy.check(&grant, &config.keyring, later(5 * MINUTE - 1)).unwrap();
    let refused = config.policy.check(&grant, &config.keyring, later(5 * MINUTE)).unwrap_err();
    assert_eq!(refused.refusal, Refusal::UnknownKey);
}

/// Signs with these keys, each of which the signature names.
fn sign_named(payload: &v1::Grant, seeds: &[u8]) -> v1::Envelope {
    let mut envelope = sign(GRANT_TYPE, &payload.encode_to_vec(), seeds);
    for (signature, seed) in envelope.signatures.iter_mut().zip(seeds) {
        signature.key_id = format!("k{seed}");
    }
    envelope
}

#[test]
fn envelopes_get_the_same_answers_alone_and_many_together() {
    let limits = "signs = [\"policy\"]";
    for limits in ["", limits] {
        let Config { keyring, .. } = config(&signers(limits)).unwrap();
        let one = |n: u8, seeds: &[u8]| sign_named(&good(n, &["203.0.113.7"]), seeds);
        let many = |seeds: &[u8]| (1..=12).map(|n| one(n, seeds)).collect::<Vec<_>>();
        let mut all = [many(&[1]), many(&[3, 2]), many(&[2, 1, 3])].concat();
        let check = |all: &[v1::Envelope]| {
            let envelopes: Vec<_> = all.iter().collect();
            let alone = |envelope: &&v1::Envelope| grant::verify(envelope, &keyring, HOST);
            let alone: Vec<_> = envelopes.iter().map(alone).collect();
            assert_eq!(grant::verify_all(&envelopes, &keyring, HOST), alone);
            alone.iter().filter(|verified| verified.is_ok()).count()
        };
        let signs_no_grants = if limits.is_empty() { 0 } else { 12 };
        assert_eq!(check(&all), 36 - signs_no_grants);
        let together = grant::verify_together(all.iter(), &keyring, HOST);
        let Together::Good(results) = together else { panic!("{together:?}") };
        assert_eq!(results.len(), 36);
        // Of another host, of no host's, by no key, with two names for one key, without a name, and
        // with a name of another key, of another type, and too large.
        let mut elsewhere = good(20, &["203.0.113.7"]);
        elsewhere.hosts = vec!["another".into()];
        all.insert(3, sign_named(&elsewhere, &[2]));
        all.insert(9, v1::Envelope { payload: (&b"x"[..]).into(), ..one(1, &[2]) });
        all.insert(15, v1::Envelope { signatures: Vec::new(), ..one(1, &[2]) });
        all.insert(18, one(21, &[2, 2]));
        all.insert(20, sign(GRANT_TYPE, &good(22, &["203.0.113.7"]).encode_to_vec(), &[2]));
        let mut false_name = one(23, &[2]);
        false_name.signatures.iter_mut().for_each(|signature| signature.key_id = "k3".into());
        all.insert(25, false_name);
        all.insert(30, v1::Envelope { payload_type: "x".into(), ..one(1, &[2]) });
        all.insert(31, v1::Envelope { payload: vec![0; 300_000].into(), ..one(1, &[2]) });
        assert_eq!(check(&all), 36 - signs_no_grants + 3);
    }
}

#[test]
fn the_agents_keyring_takes_the_public_key_and_knows_the_hint() {
    let provider = rustls::crypto::ring::default_provider();
    for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
        let key = SigningKey::generate(algorithm, provider.secure_random).unwrap();
        let envelope = seal(GRANT_TYPE, b"x".to_vec(), std::slice::from_ref(&key));
        let mut ring = Keyring::default();
        let signer = Signer::from_pem("k".into(), Duration::ZERO, &key.public_pem()).unwrap();
        ring.add(signer).unwrap();
        let message = pre_authentication_encoding(GRANT_TYPE, b"x");
        assert_eq!(ring.try_signatures(&message, &envelope.signatures).signers.len(), 1);
        assert!(ring.knows_any(&envelope.signatures));
    }
}
