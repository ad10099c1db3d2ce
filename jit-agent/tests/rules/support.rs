//! Keys, grants and envelopes as a controller would make them.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
use jit_agent::{
    config::Config,
    rules::{
        clock::{BootNanos, Now},
        grant::{self, VerifiedGrant},
        keyring::Signer,
    },
};
use jit_common::{Address, PortKey, Protocol};
use jit_proto::{
    WallTime,
    dsse::pre_authentication_encoding,
    payload_type::{GRANT_TYPE, REVOCATION_TYPE},
    v1,
};
use p256::pkcs8::LineEnding;
use prost::Message as _;

pub(crate) const HOST: &str = "web-1";
/// 2026-06-01T00:00:00Z, an hour after boot.
pub(crate) const NOW: Now =
    Now { wall: WallTime(1_780_272_000_000), boot: BootNanos(3_600_000_000_000) };
pub(crate) const SSH: PortKey = PortKey { protocol: Protocol::Tcp, port: 22 };
pub(crate) const MINUTE: i64 = 60_000;

pub(crate) fn later(millis: i64) -> Now {
    let boot = NOW.boot.0 + u64::try_from(millis).unwrap() * 1_000_000;
    Now { wall: WallTime(NOW.wall.0 + millis), boot: BootNanos(boot) }
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn pem(key: &SigningKey) -> String {
    key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap()
}

pub(crate) fn signer(id: &str, seed: u8, max: Duration) -> Signer {
    Signer::from_pem(id.into(), max, &pem(&key(seed))).unwrap()
}

/// A grant that is good for ten minutes from [`NOW`] on.
pub(crate) fn grant(id: u8, sources: &[&str]) -> v1::Grant {
    let source = |text: &&str| {
        let prefix: jit_proto::SourcePrefix = text.parse().unwrap();
        v1::Source::from(&prefix)
    };
    v1::Grant {
        id: vec![id; 16].into(),
        hosts: vec![HOST.into()],
        sources: sources.iter().map(source).collect(),
        ports: vec![port(22)],
        issued_at_ms: NOW.wall.0,
        not_before_ms: NOW.wall.0,
        not_after_ms: NOW.wall.0 + 10 * MINUTE,
        requester: "ana@example.org".into(),
        justification: "disk full".into(),
        ..v1::Grant::default()
    }
}

/// The same, signed a moment later: after a revocation at [`NOW`].
pub(crate) fn fresh_grant(id: u8, sources: &[&str]) -> v1::Grant {
    v1::Grant { issued_at_ms: NOW.wall.0 + 1, ..grant(id, sources) }
}

pub(crate) fn port(number: u32) -> v1::PortRange {
    v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: number, last: number }
}

pub(crate) fn sign(payload_type: &str, payload: &[u8], seeds: &[u8]) -> v1::Envelope {
    let message = pre_authentication_encoding(payload_type, payload);
    let signatures = seeds
        .iter()
        .map(|seed| v1::Signature {
            signature: key(*seed).sign(&message).to_bytes().to_vec().into(),
            ..v1::Signature::default()
        })
        .collect();
    v1::Envelope { payload_type: payload_type.into(), payload: payload.to_vec().into(), signatures }
}

pub(crate) fn envelope(grant: &v1::Grant) -> v1::Envelope {
    sign(GRANT_TYPE, &grant.encode_to_vec(), &[1])
}

/// A configuration with an own directory: ports 22 and 3389, signers `prod` (seed 1) and `second`
/// (seed 2, at most a minute).
pub(crate) fn config(extra: &str) -> (tempfile::TempDir, Config) {
    try_config(extra).unwrap()
}

/// The same, but it may be refused. Keys 1 to 4 exist.
pub(crate) fn try_config(extra: &str) -> Result<(tempfile::TempDir, Config), String> {
    let directory = tempfile::tempdir().unwrap();
    for seed in 1..=4 {
        std::fs::write(directory.path().join(format!("{seed}.pem")), pem(&key(seed))).unwrap();
    }
    let path: PathBuf = directory.path().join("config.toml");
    let text = format!(
        r#"
        [host]
        id = "{HOST}"
        [[port]]
        port = 22
        protocol = "tcp"
        sources = ["0.0.0.0/0", "2001:db8::/32"]
        widest_v4 = 8
        [[port]]
        port = 3389
        protocol = "tcp"
        sources = ["203.0.113.0/24"]
        max_duration = "1h"
        approvals = 2
        [[signer]]
        id = "prod"
        public_key = "1.pem"
        [[signer]]
        id = "second"
        public_key = "2.pem"
        max_duration = "1m"
        {extra}
        "#
    );
    std::fs::write(&path, text).unwrap();
    let config = Config::read(&path).map_err(|error| error.to_string())?;
    Ok((directory, config))
}

pub(crate) fn verified(grant: &v1::Grant) -> VerifiedGrant {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    let config = CONFIG.get_or_init(|| config("").1);
    grant::verify(&envelope(grant), &config.keyring, HOST).unwrap()
}

pub(crate) fn v4(text: &str) -> Address {
    Address::v4(text.parse::<std::net::Ipv4Addr>().unwrap().octets())
}

/// Of the signers, 3 signs revocations and nothing else.
pub(crate) const REVOKER: &str =
    "[[signer]]\nid = \"revoker\"\npublic_key = \"3.pem\"\nsigns = [\"revocation\"]\n";

/// A revocation of everything that was issued until a moment after [`NOW`], milliseconds.
pub(crate) fn revocation(until: i64) -> v1::Revocation {
    let issued_before_ms = NOW.wall.0 + until;
    v1::Revocation {
        hosts: vec![HOST.into()],
        all: true,
        issued_before_ms,
        author: "bo@example.org".into(),
        reason: "stolen key".into(),
        keep_until_ms: issued_before_ms + 24 * 60 * MINUTE,
        ..v1::Revocation::default()
    }
}

/// A revocation with a good signature.
pub(crate) fn signed_revocation(revocation: &v1::Revocation) -> v1::Envelope {
    sign(REVOCATION_TYPE, &revocation.encode_to_vec(), &[3])
}
