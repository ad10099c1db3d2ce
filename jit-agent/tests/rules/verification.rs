//! Which grants are refused, and by which word (docs/grants.md, section "Verification").

use jit_agent::rules::{
    grant::{self, VerifiedGrant},
    keyring::Keyring,
    refusal::Refused,
};
use jit_proto::{
    Refusal,
    dsse::{MAX_ENVELOPE_BYTES, pre_authentication_encoding},
    payload_type::GRANT_TYPE,
    v1,
};
use prost::Message as _;

use crate::{
    host::Host,
    support::{HOST, MINUTE, NOW, config, envelope, grant as good, key, port, sign, signer},
};

/// All checks before the ledger.
fn check(envelope: &v1::Envelope) -> Result<VerifiedGrant, Refused> {
    let (_directory, config) = config("");
    let grant = grant::verify(envelope, &config.keyring, HOST)?;
    config.policy.check(&grant, &config.keyring, NOW)?;
    Ok(grant)
}

fn refusal(grant: &v1::Grant) -> Refusal {
    check(&envelope(grant)).unwrap_err().refusal
}

#[test]
fn a_good_grant_is_verified_with_its_signers() {
    let grant = check(&envelope(&good(1, &["203.0.113.7", "2001:db8:7::/64"]))).unwrap();
    assert_eq!(grant.signers(), ["prod"]);
    assert_eq!(grant.entries().count(), 2);
}

/// An envelope that is wrong in everything from this step on, and right before.
fn wrong_from(step: usize) -> v1::Envelope {
    let wrong = |number: usize| step <= number;
    let source = if wrong(6) { "198.51.100.1" } else { "203.0.113.0/24" };
    let grant = v1::Grant {
        id: vec![if wrong(8) { 1 } else { 2 }; 16].into(),
        hosts: vec![if wrong(4) { "web-2" } else { HOST }.into()],
        not_before_ms: NOW.wall.0 - MINUTE / 4,
        not_after_ms: NOW.wall.0 + if wrong(5) { -1 } else { MINUTE / 2 },
        ports: vec![port(if wrong(6) { 3390 } else { 3389 })],
        ..good(1, &[if wrong(9) { source } else { "203.0.113.9" }])
    };
    let mut payload = grant.encode_to_vec();
    if wrong(3) {
        payload.push(0xff);
    }
    let payload_type = if wrong(1) { "text/plain" } else { GRANT_TYPE };
    let seeds = match step {
        0 => &[9; 9][..],
        1 | 2 => &[9],
        3..8 => &[1],
        _ => &[1, 2],
    };
    sign(payload_type, &payload, seeds)
}

#[test]
fn the_first_step_that_fails_names_itself() {
    let mut host = Host::with("[limits]\nhosts = 1\nprefixes = 1\n");
    host.push(&good(1, &["203.0.113.9"])).unwrap();
    host.push(&good(3, &["198.51.100.0/24"])).unwrap();
    let mut word = |step| {
        let outcome = host.gate().push(vec![wrong_from(step)], "test", NOW).remove(0);
        outcome.map(|_| ()).map_err(|refused| refused.refusal)
    };
    for (step, expected) in [
        Refusal::TooLarge,
        Refusal::BadType,
        Refusal::BadSignature,
        Refusal::Malformed,
        Refusal::WrongHost,
        Refusal::Expired,
        Refusal::PortNotProtected,
        Refusal::ApprovalsMissing,
        Refusal::IdConflict,
        Refusal::Capacity,
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(word(step), Err(expected), "step {step}");
    }
}

#[test]
fn every_flipped_bit_of_a_good_envelope_is_refused() {
    let (_directory, config) = config("");
    let bytes = envelope(&good(1, &["203.0.113.7"])).encode_to_vec();
    grant::verify(&v1::Envelope::decode(bytes.as_slice()).unwrap(), &config.keyring, HOST).unwrap();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[index] ^= 1 << bit;
            // A flip may keep the envelope what it was: in the tag of a field that is not signed
            // (an empty key id). Only then may it be good.
            let Ok(flipped) = v1::Envelope::decode(bytes.as_slice()) else { continue };
            let same_signed = flipped.payload_type == GRANT_TYPE
                && flipped.payload == envelope(&good(1, &["203.0.113.7"])).payload
                && flipped.signatures.iter().any(|s| {
                    s.signature == envelope(&good(1, &["203.0.113.7"])).signatures[0].signature
                });
            let result = grant::verify(&flipped, &config.keyring, HOST);
            assert_eq!(result.is_ok(), same_signed, "byte {index} bit {bit}");
        }
    }
}

#[test]
fn the_same_fields_in_another_encoding_are_refused() {
    let grant = good(1, &["203.0.113.7"]);
    let payload = grant.encode_to_vec();
    let signed = sign(GRANT_TYPE, &payload, &[1]);
    // A padded varint: the last field's number is not minimal. And another order of fields.
    let mut padded = payload.clone();
    padded.splice(1..2, [payload[1] | 0x80, 0x00]);
    let mut reordered = payload[18..].to_vec();
    reordered.extend(&payload[..18]);
    for bytes in [&padded, &reordered] {
        assert_eq!(v1::Grant::decode(bytes.as_slice()).unwrap(), grant);
        let other = v1::Envelope { payload: bytes.clone().into(), ..signed.clone() };
        assert_eq!(check(&other).unwrap_err().refusal, Refusal::BadSignature);
    }
    // Also if a trusted key has signed the padded form.
    assert_eq!(check(&sign(GRANT_TYPE, &padded, &[1])).unwrap_err().refusal, Refusal::Malformed);
}

#[test]
fn fields_of_a_newer_version_are_refused_not_ignored() {
    let mut payload = good(1, &["203.0.113.7"]).encode_to_vec();
    // Field 99, varint 1: it might narrow the grant.
    payload.extend([0x98, 0x06, 0x01]);
    assert_eq!(check(&sign(GRANT_TYPE, &payload, &[1])).unwrap_err().refusal, Refusal::Malformed);
}

#[test]
fn another_payload_type_is_refused_even_when_it_is_signed() {
    let payload = good(1, &["203.0.113.7"]).encode_to_vec();
    for other in ["application/vnd.jit-agent.policy.v1+protobuf", "", "text/plain"] {
        assert_eq!(check(&sign(other, &payload, &[1])).unwrap_err().refusal, Refusal::BadType);
    }
    // A signature for another type is not valid for this one.
    let policy = sign("application/vnd.jit-agent.policy.v1+protobuf", &payload, &[1]);
    let crossed = v1::Envelope { payload_type: GRANT_TYPE.into(), ..policy };
    assert_eq!(check(&crossed).unwrap_err().refusal, Refusal::BadSignature);
}

#[test]
fn unknown_keys_and_missing_signatures_are_refused() {
    let payload = good(1, &["203.0.113.7"]).encode_to_vec();
    let mut unknown = sign(GRANT_TYPE, &payload, &[9]);
    assert_eq!(check(&unknown).unwrap_err().refusal, Refusal::BadSignature);
    unknown.signatures[0].key_id = "somebody".into();
    assert_eq!(check(&unknown).unwrap_err().refusal, Refusal::UnknownKey);
    unknown.signatures[0].key_id = "prod".into();
    assert_eq!(check(&unknown).unwrap_err().refusal, Refusal::BadSignature);
    assert_eq!(check(&sign(GRANT_TYPE, &payload, &[])).unwrap_err().refusal, Refusal::BadSignature);
    // One good signature among strangers is enough for one approval.
    check(&sign(GRANT_TYPE, &payload, &[9, 1])).unwrap();
}

#[test]
fn sizes_are_bounded() {
    let grant = good(1, &["203.0.113.7"]);
    let nine = sign(GRANT_TYPE, &grant.encode_to_vec(), &[1; 9]);
    assert_eq!(check(&nine).unwrap_err().refusal, Refusal::TooLarge);
    let big = v1::Grant { justification: "x".repeat(MAX_ENVELOPE_BYTES), ..grant.clone() };
    assert_eq!(refusal(&big), Refusal::TooLarge);
    let many =
        v1::Grant { ports: vec![v1::PortRange { first: 1, last: 5000, ..port(1) }], ..grant };
    assert_eq!(refusal(&many), Refusal::TooLarge);
}

#[test]
fn missing_and_impossible_fields_are_malformed() {
    let grant = || good(1, &["203.0.113.7"]);
    let source = |bytes: &[u8], prefix_length| {
        vec![v1::Source { address: bytes.to_vec().into(), prefix_length }]
    };
    let range = |protocol, first, last| vec![v1::PortRange { protocol, first, last }];
    for (name, bad) in [
        ("id", v1::Grant { id: vec![1; 15].into(), ..grant() }),
        ("zero id", v1::Grant { id: vec![0; 16].into(), ..grant() }),
        ("hosts", v1::Grant { hosts: vec![], ..grant() }),
        ("sources", v1::Grant { sources: vec![], ..grant() }),
        ("ports", v1::Grant { ports: vec![], ..grant() }),
        ("requester", v1::Grant { requester: String::new(), ..grant() }),
        ("justification", v1::Grant { justification: String::new(), ..grant() }),
        ("issued", v1::Grant { issued_at_ms: 0, ..grant() }),
        ("sessions", v1::Grant { sessions: 7, ..grant() }),
        ("long name", v1::Grant { requester: "x".repeat(257), ..grant() }),
        ("host bits", v1::Grant { sources: source(&[203, 0, 113, 7], 24), ..grant() }),
        ("length", v1::Grant { sources: source(&[203, 0, 113, 7], 33), ..grant() }),
        ("address", v1::Grant { sources: source(&[1, 2, 3], 24), ..grant() }),
        ("port 0", v1::Grant { ports: range(1, 0, 22), ..grant() }),
        ("inverted", v1::Grant { ports: range(1, 23, 22), ..grant() }),
        ("port", v1::Grant { ports: range(1, 22, 65_536), ..grant() }),
        ("protocol", v1::Grant { ports: range(0, 22, 22), ..grant() }),
        ("protocol 9", v1::Grant { ports: range(9, 22, 22), ..grant() }),
    ] {
        assert_eq!(refusal(&bad), Refusal::Malformed, "{name}");
    }
    let mut mapped = grant();
    let address: std::net::Ipv6Addr = "::ffff:203.0.113.7".parse().unwrap();
    mapped.sources = source(&address.octets(), 128);
    assert_eq!(refusal(&mapped), Refusal::Malformed);
    assert_eq!(
        check(&sign(GRANT_TYPE, b"\xff\xff", &[1])).unwrap_err().refusal,
        Refusal::Malformed
    );
}

#[test]
fn another_hosts_grant_is_refused_and_there_is_no_wildcard() {
    for hosts in [vec!["web-2"], vec!["web-10", "web"], vec!["*"], vec!["WEB-1"], vec![""]] {
        let hosts = hosts.into_iter().map(String::from).collect();
        let grant = v1::Grant { hosts, ..good(1, &["203.0.113.7"]) };
        assert_eq!(refusal(&grant), Refusal::WrongHost);
    }
    let hosts = vec!["web-2".into(), HOST.into()];
    check(&envelope(&v1::Grant { hosts, ..good(1, &["203.0.113.7"]) })).unwrap();
}

#[test]
fn each_bad_lifetime_has_its_word() {
    let now = NOW.wall.0;
    let year_10_12 = i64::MAX / 4;
    for (from, to, issued, expected) in [
        (now - 20 * MINUTE, now, now, Refusal::Expired),
        (now - 20 * MINUTE, now - 1, now, Refusal::Expired),
        (now, now, now, Refusal::Lifetime),
        (now + 10, now, now, Refusal::Lifetime),
        (now, now + 180 * MINUTE + 1, now, Refusal::Lifetime),
        (now, year_10_12, now, Refusal::Lifetime),
        (now + 8 * 1440 * MINUTE, now + 8 * 1440 * MINUTE + 1, now, Refusal::NotYetValid),
        (1, i64::MAX, now, Refusal::Lifetime),
        (now, now + MINUTE, now + MINUTE + 1, Refusal::NotYetValid),
        (now, now + MINUTE, year_10_12, Refusal::NotYetValid),
    ] {
        let grant = v1::Grant {
            not_before_ms: from,
            not_after_ms: to,
            issued_at_ms: issued,
            ..good(1, &["203.0.113.7"])
        };
        assert_eq!(refusal(&grant), expected, "{from} {to} {issued}");
    }
    for (from, to, issued) in
        [(now, now + 180 * MINUTE, now), (now, now + 1, now), (now, now + MINUTE, now + MINUTE)]
    {
        let grant = v1::Grant {
            not_before_ms: from,
            not_after_ms: to,
            issued_at_ms: issued,
            ..good(1, &["203.0.113.7"])
        };
        check(&envelope(&grant)).unwrap();
    }
}

#[test]
fn a_signers_own_maximum_binds_its_grants() {
    let short = v1::Grant { not_after_ms: NOW.wall.0 + MINUTE, ..good(1, &["203.0.113.7"]) };
    check(&sign(GRANT_TYPE, &short.encode_to_vec(), &[2])).unwrap();
    let long = v1::Grant { not_after_ms: NOW.wall.0 + MINUTE + 1, ..short };
    let refused = check(&sign(GRANT_TYPE, &long.encode_to_vec(), &[2])).unwrap_err();
    assert_eq!(refused.refusal, Refusal::Lifetime);
}

#[test]
fn the_hosts_ceiling_binds_every_signer() {
    let ports = |number| vec![port(number)];
    let wide = v1::Grant { ports: ports(3390), ..good(1, &["203.0.113.7"]) };
    assert_eq!(refusal(&wide), Refusal::PortNotProtected);
    let udp = v1::PortRange { protocol: v1::Protocol::Udp.into(), ..port(22) };
    assert_eq!(
        refusal(&v1::Grant { ports: vec![udp], ..good(1, &["203.0.113.7"]) }),
        Refusal::PortNotProtected
    );
    let span = v1::PortRange { first: 22, last: 23, ..port(22) };
    assert_eq!(
        refusal(&v1::Grant { ports: vec![span], ..good(1, &["203.0.113.7"]) }),
        Refusal::PortNotProtected
    );
    assert_eq!(refusal(&good(1, &["2001:db9::1"])), Refusal::SourceNotAllowed);
    assert_eq!(refusal(&good(1, &["::/0"])), Refusal::SourceNotAllowed);
    assert_eq!(refusal(&good(1, &["203.0.113.7", "2001:db9::1"])), Refusal::SourceNotAllowed);
    assert_eq!(refusal(&good(1, &["0.0.0.0/0"])), Refusal::SourceTooWide);
    assert_eq!(refusal(&good(1, &["2001:db8::/47"])), Refusal::SourceTooWide);
    check(&envelope(&good(1, &["2001:db8::/48", "198.0.0.0/8"]))).unwrap();
    let rdp = v1::Grant { ports: ports(3389), ..good(1, &["198.51.100.1"]) };
    assert_eq!(refusal(&rdp), Refusal::SourceNotAllowed);
}

#[test]
fn a_grant_may_cut_its_sessions_and_never_keeps_those_that_the_port_cuts() {
    for sessions in [v1::Sessions::Cut, v1::Sessions::Drain] {
        let grant = v1::Grant { sessions: sessions.into(), ..good(1, &["203.0.113.7"]) };
        check(&envelope(&grant)).unwrap();
    }
    let unknown = v1::Grant { sessions: 3, ..good(1, &["203.0.113.7"]) };
    assert_eq!(refusal(&unknown), Refusal::Malformed);
}

#[test]
fn a_threshold_counts_distinct_keys() {
    let rdp = v1::Grant {
        ports: vec![port(3389)],
        not_after_ms: NOW.wall.0 + MINUTE,
        ..good(1, &["203.0.113.7"])
    };
    let payload = rdp.encode_to_vec();
    check(&sign(GRANT_TYPE, &payload, &[1, 2])).unwrap();
    for seeds in [&[1][..], &[1, 1], &[1, 9]] {
        let mut envelope = sign(GRANT_TYPE, &payload, seeds);
        // Other ids for the same key change nothing.
        for (index, signature) in envelope.signatures.iter_mut().enumerate() {
            signature.key_id = ["prod", "second"][index].into();
        }
        let refused = check(&envelope).unwrap_err();
        assert_eq!(refused.refusal, Refusal::ApprovalsMissing, "{seeds:?}");
    }
    // A key whose maximum is shorter than the grant does not approve it.
    let long = v1::Grant { not_after_ms: NOW.wall.0 + 2 * MINUTE, ..rdp };
    let refused = check(&sign(GRANT_TYPE, &long.encode_to_vec(), &[1, 2])).unwrap_err();
    assert_eq!(refused.refusal, Refusal::ApprovalsMissing);
}

#[test]
fn an_ecdsa_signature_is_accepted() {
    use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};
    let p256 = SigningKey::from_slice(&[3; 32]).unwrap();
    let pem =
        p256::PublicKey::from(p256.verifying_key()).to_public_key_pem(LineEnding::LF).unwrap();
    let mut ring = Keyring::default();
    ring.add(signer("ed", 1, std::time::Duration::from_secs(9))).unwrap();
    ring.add(
        jit_agent::rules::keyring::Signer::from_pem(
            "p".into(),
            std::time::Duration::from_secs(9),
            &pem,
        )
        .unwrap(),
    )
    .unwrap();
    let mut envelope = envelope(&good(1, &["203.0.113.7"]));
    let message = pre_authentication_encoding(GRANT_TYPE, &envelope.payload);
    let signature: Signature = p256.sign(&message);
    envelope.signatures.push(v1::Signature {
        key_id: "p".into(),
        signature: signature.to_der().as_bytes().to_vec().into(),
        ..v1::Signature::default()
    });
    assert_eq!(grant::verify(&envelope, &ring, HOST).unwrap().signers(), ["ed", "p"]);
    assert_ne!(key(1).to_bytes(), [0; 32]);
}
