//! Approvals by passkey: what an `[[approver]]` may sign, how, and what it is worth
//! (docs/grants.md, section "Approvals by passkey").

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jit_agent::{
    config::Config,
    rules::{
        envelope::Together,
        grant::{self, VerifiedGrant},
        ledger::Admission,
        proposal,
        refusal::Refused,
    },
};
use jit_common::{PortKey, Protocol};
use jit_proto::{
    Refusal,
    dsse::pre_authentication_encoding,
    payload_type::{GRANT_TYPE, POLICY_TYPE},
    v1,
};
use p256::{
    ecdsa::{SigningKey, signature::Signer as _},
    pkcs8::{EncodePublicKey as _, LineEnding},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    host::Host,
    support::{HOST, MINUTE, NOW, grant as good, key, later, pem, port, sign, v4},
};

const RP_ID: &str = "jit.example.org";
const ORIGIN: &str = "https://jit.example.org";
const UP_AND_UV: u8 = 0b101;

/// An authenticator and a browser, and what they are made to say.
struct Passkey {
    key: SigningKey,
    name: &'static str,
    kind: &'static str,
    origin: &'static str,
    rp_id: &'static str,
    flags: u8,
    /// Bytes after authenticatorData's 37.
    extensions: Vec<u8>,
    /// More keys of clientDataJSON.
    more: &'static str,
}

impl Passkey {
    /// The passkey of this seed, as the browser of an approver uses it.
    fn new(seed: u8) -> Self {
        Self {
            key: SigningKey::from_slice(&[seed; 32]).unwrap(),
            name: "",
            kind: "webauthn.get",
            origin: ORIGIN,
            rp_id: RP_ID,
            flags: UP_AND_UV,
            extensions: Vec::new(),
            more: ",\"crossOrigin\":false",
        }
    }

    fn pem(&self) -> String {
        let key = p256::PublicKey::from(self.key.verifying_key());
        key.to_public_key_pem(LineEnding::LF).unwrap()
    }

    /// The approval of these signed bytes.
    fn approves(&self, message: &[u8]) -> v1::Signature {
        let Self { key, name, kind, origin, rp_id, flags, extensions, more } = self;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(message));
        let client_data = format!(
            "{{\"type\":\"{kind}\",\"challenge\":\"{challenge}\",\"origin\":\"{origin}\"{more}}}"
        );
        let data =
            [&Sha256::digest(rp_id)[..], &[*flags, 0, 0, 0, 9], extensions.as_slice()].concat();
        let signed = [&data[..], &Sha256::digest(&client_data)[..]].concat();
        let signature: p256::ecdsa::Signature = key.sign(&signed);
        v1::Signature {
            key_id: (*name).to_owned(),
            signature: signature.to_der().as_bytes().to_vec().into(),
            assertion: Some(Box::new(v1::Assertion {
                authenticator_data: data.into(),
                client_data_json: client_data.into_bytes().into(),
            })),
        }
    }

    /// The same signed bytes, signed plainly.
    fn signs_plainly(&self, message: &[u8]) -> v1::Signature {
        let signature: p256::ecdsa::Signature = self.key.sign(message);
        v1::Signature {
            key_id: self.name.to_owned(),
            signature: signature.to_der().as_bytes().to_vec().into(),
            ..v1::Signature::default()
        }
    }
}

/// Ana's passkey.
fn ana() -> Passkey {
    Passkey { name: "ana", ..Passkey::new(21) }
}

/// Bo's passkey.
fn bo() -> Passkey {
    Passkey { name: "bo", ..Passkey::new(22) }
}

fn approver(id: &str, more: &str) -> String {
    format!(
        "[[approver]]\nid = \"{id}\"\npublic_key = \"{id}.pem\"\nrp_id = \"{RP_ID}\"\n\
         origins = [\"{ORIGIN}\", \"https://jit.example.org:8443\"]\n{more}\n"
    )
}

const SIGNER: &str = "[[signer]]\nid = \"k1\"\npublic_key = \"1.pem\"\n";

/// One signer and two approvers.
fn all() -> String {
    [SIGNER, &approver("ana", ""), &approver("bo", "")].concat()
}

/// A host with ports 22 and 3389 (two approvals) for everyone, and these keys.
fn config(keys: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("1.pem"), pem(&key(1))).unwrap();
    let p = Passkey { name: "p", ..Passkey::new(31) };
    for one in [ana(), bo(), p] {
        std::fs::write(directory.path().join(format!("{}.pem", one.name)), one.pem()).unwrap();
    }
    let path = directory.path().join("config.toml");
    let port = |port: u16, more: &str| {
        format!("[[port]]\nport = {port}\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n{more}\n")
    };
    let ports = [port(22, ""), port(3389, "approvals = 2")].concat();
    std::fs::write(&path, format!("[host]\nid = \"{HOST}\"\n{ports}{keys}")).unwrap();
    Config::read(&path).map_err(|error| error.to_string())
}

fn ssh() -> v1::Grant {
    good(1, &["203.0.113.7"])
}

fn rdp() -> v1::Grant {
    v1::Grant { ports: vec![port(3389)], ..ssh() }
}

fn message(grant: &v1::Grant) -> Vec<u8> {
    pre_authentication_encoding(GRANT_TYPE, &grant.encode_to_vec())
}

/// Signed by these signers, and with these signatures beside them.
fn envelope(grant: &v1::Grant, seeds: &[u8], more: &[v1::Signature]) -> v1::Envelope {
    let mut envelope = sign(GRANT_TYPE, &grant.encode_to_vec(), seeds);
    envelope.signatures.extend_from_slice(more);
    envelope
}

fn check(config: &Config, envelope: &v1::Envelope) -> Result<VerifiedGrant, Refused> {
    let grant = grant::verify(envelope, &config.keyring, HOST)?;
    config.policy.check(&grant, &config.keyring, NOW)?;
    Ok(grant)
}

#[test]
fn a_signer_and_a_passkey_open_what_needs_two_with_and_without_hints() {
    let config = config(&all()).unwrap();
    let message = message(&rdp());
    for hint in ["ana", "", "somebody", "bo"] {
        let approval = Passkey { name: hint, ..ana() }.approves(&message);
        for signatures in [[1].as_slice(), &[]] {
            let envelope = envelope(&rdp(), signatures, std::slice::from_ref(&approval));
            let checked = check(&config, &envelope);
            match signatures {
                [] => assert!(checked.is_err(), "{hint}"),
                _ => assert_eq!(checked.unwrap().signers(), ["k1", "ana"], "{hint}"),
            }
        }
    }
    let at_another_port = Passkey { origin: "https://jit.example.org:8443", ..ana() };
    let envelope = envelope(&rdp(), &[1], &[at_another_port.approves(&message)]);
    check(&config, &envelope).unwrap();
}

#[test]
fn passkeys_alone_open_nothing_however_many_there_are() {
    let config = config(&all()).unwrap();
    for grant in [ssh(), rdp()] {
        let message = message(&grant);
        for approvals in [
            vec![ana().approves(&message)],
            vec![ana().approves(&message), bo().approves(&message)],
        ] {
            let refused = check(&config, &envelope(&grant, &[], &approvals)).unwrap_err();
            assert_eq!(refused.refusal, Refusal::ApprovalsMissing);
            assert!(refused.detail.contains("only approvers signed it"), "{refused}");
        }
    }
    // A signer that does not count is none.
    let window = "not_after = \"2026-01-01T00:00:00Z\"\n";
    let keys = [SIGNER, window, &approver("ana", "")].concat();
    let config = self::config(&keys).unwrap();
    let refused =
        check(&config, &envelope(&ssh(), &[1], &[ana().approves(&message(&ssh()))])).unwrap_err();
    assert_eq!(refused.refusal, Refusal::ApprovalsMissing);
    assert!(refused.detail.contains("\"k1\" counts no longer since"), "{refused}");
}

#[test]
fn a_passkey_counts_once_and_only_within_its_own_limits() {
    let twice = |config: &Config, grant: &v1::Grant| {
        let approval = ana().approves(&message(grant));
        check(config, &envelope(grant, &[1], &[approval.clone(), approval]))
    };
    let config = config(&all()).unwrap();
    assert_eq!(twice(&config, &rdp()).unwrap().signers(), ["k1", "ana"]);
    for (limits, refused) in [
        ("ports = [\"3389\"]", false),
        ("ports = [\"22\"]", true),
        ("sources = [\"198.51.100.0/24\"]", true),
        ("max_duration = \"10m\"", false),
        ("max_duration = \"9m\"", true),
        ("not_before = \"2026-06-01T00:00:01Z\"", true),
        ("not_after = \"2026-06-01T00:00:00Z\"", true),
    ] {
        let config = self::config(&[SIGNER, &approver("ana", limits)].concat()).unwrap();
        let checked = twice(&config, &rdp());
        assert_eq!(checked.is_err(), refused, "{limits}");
        let Err(error) = checked else { continue };
        assert_eq!(error.refusal, Refusal::ApprovalsMissing);
        assert!(error.detail.contains("there are 1; \"ana\" "), "{error}");
    }
}

/// Every way in which an approval can be false, and what the refusal says of it.
fn false_approvals(message: &[u8]) -> Vec<(v1::Signature, &'static str)> {
    let honest = ana().approves(message);
    let with = |change: fn(&mut Passkey)| {
        let mut passkey = ana();
        change(&mut passkey);
        passkey.approves(message)
    };
    let changed = |change: fn(&mut v1::Signature)| {
        let mut signature = honest.clone();
        change(&mut signature);
        signature
    };
    let asserted = |change: fn(&mut v1::Assertion)| {
        let mut signature = honest.clone();
        change(signature.assertion.as_mut().unwrap());
        signature
    };
    vec![
        (ana().approves(b"another payload"), "challenge"),
        (with(|one| one.origin = "https://jit.example.org.evil.example"), "the origin"),
        (with(|one| one.origin = "http://jit.example.org"), "the origin"),
        (with(|one| one.rp_id = "evil.example"), "rpIdHash"),
        (with(|one| one.flags = 0b001), "user verification"),
        (with(|one| one.flags = 0b100), "user presence"),
        (with(|one| one.flags = 0), "user presence"),
        (with(|one| one.kind = "webauthn.create"), "webauthn.create"),
        (with(|one| one.more = ",\"crossOrigin\":true"), "crossOrigin"),
        (with(|one| one.more = ",\"origin\":\"https://jit.example.org\""), "is there twice"),
        (with(|one| one.more = ",\"type\":\"webauthn.get\""), "is there twice"),
        (with(|one| one.more = ",\"x\":1,\"x\":2"), "is there twice"),
        (with(|one| one.extensions = vec![0xa0]), "authenticatorData"),
        (
            with(|one| {
                one.flags |= 0x80;
                one.extensions = vec![0; 1000];
            }),
            "at most 1024",
        ),
        (Passkey { name: "ana", ..Passkey::new(99) }.approves(message), "is not by this key"),
        (changed(|one| one.signature = one.signature.slice(..one.signature.len() - 1)), "is not"),
        (changed(|one| one.signature = Vec::new().into()), "is not by this key"),
        (changed(|one| one.signature = vec![7; 64].into()), "is not by this key"),
        (asserted(|one| one.authenticator_data = Vec::new().into()), "authenticatorData"),
        (
            asserted(|one| one.authenticator_data = one.authenticator_data.slice(..36)),
            "authenticatorData",
        ),
        (asserted(|one| one.client_data_json = Vec::new().into()), "clientDataJSON"),
        (
            asserted(|one| {
                one.client_data_json = one.client_data_json.slice(..one.client_data_json.len() - 1);
            }),
            "clientDataJSON",
        ),
        (
            asserted(|one| {
                let padded = [one.client_data_json.as_ref(), &[b' '; 2048]].concat();
                one.client_data_json = padded.into();
            }),
            "at most 2048",
        ),
        // The same text with a space more: what was signed is its hash.
        (
            asserted(|one| {
                one.client_data_json = [one.client_data_json.as_ref(), b" "].concat().into();
            }),
            "is not by this key",
        ),
        (ana().signs_plainly(message), "\"ana\" is an [[approver]]"),
    ]
}

#[test]
fn each_false_approval_is_refused_and_the_failed_check_is_named() {
    let config = config(&all()).unwrap();
    for (number, (approval, expected)) in false_approvals(&message(&rdp())).into_iter().enumerate()
    {
        let alone = envelope(&rdp(), &[], std::slice::from_ref(&approval));
        let refused = check(&config, &alone).unwrap_err();
        assert_eq!(refused.refusal, Refusal::BadSignature, "{number}: {refused}");
        assert!(refused.detail.contains(expected), "{number}, {expected}: {refused}");
        // Beside a good signature it is the approval that is missing, and the reason is named, too.
        let beside = envelope(&rdp(), &[1], std::slice::from_ref(&approval));
        let refused = check(&config, &beside).unwrap_err();
        assert_eq!(refused.refusal, Refusal::ApprovalsMissing, "{number}: {refused}");
        assert!(refused.detail.contains(expected), "{number}, {expected}: {refused}");
        assert!(refused.detail.len() < 600, "{}", refused.detail);
        // And it takes nothing from an approval that is good.
        let both = envelope(&rdp(), &[1], &[approval, bo().approves(&message(&rdp()))]);
        assert_eq!(check(&config, &both).unwrap().signers(), ["k1", "bo"], "{number}");
    }
}

#[test]
fn a_key_signs_in_its_own_way_alone() {
    let config = config(&all()).unwrap();
    let message = message(&ssh());
    // An approver's key as a signer's, without any hint.
    let plain = Passkey { name: "", ..ana() }.signs_plainly(&message);
    let refused = check(&config, &envelope(&ssh(), &[], &[plain])).unwrap_err();
    assert_eq!(refused.refusal, Refusal::BadSignature);
    // A signer's key as an approver's: what it signs is right in every other way.
    let passkey = Passkey { name: "p", ..Passkey::new(31) };
    let keys = [SIGNER, "[[signer]]\nid = \"p\"\npublic_key = \"p.pem\"\n"].concat();
    let config = self::config(&keys).unwrap();
    check(&config, &envelope(&ssh(), &[], &[passkey.signs_plainly(&message)])).unwrap();
    let refused =
        check(&config, &envelope(&ssh(), &[], &[passkey.approves(&message)])).unwrap_err();
    assert_eq!(refused.refusal, Refusal::BadSignature);
    assert!(refused.detail.contains("\"p\" is a [[signer]]"), "{refused}");
}

#[test]
fn an_approval_is_good_for_its_own_payload_alone() {
    let config = config(&all()).unwrap();
    let approval = ana().approves(&message(&rdp()));
    for other in [
        v1::Grant { id: vec![9; 16].into(), ..rdp() },
        v1::Grant { not_after_ms: rdp().not_after_ms + 1, ..rdp() },
        v1::Grant { sources: good(1, &["203.0.113.8"]).sources, ..rdp() },
        v1::Grant { ports: vec![port(3389), port(22)], ..rdp() },
    ] {
        let envelope = envelope(&other, &[1], std::slice::from_ref(&approval));
        let refused = check(&config, &envelope).unwrap_err();
        assert_eq!(refused.refusal, Refusal::ApprovalsMissing);
        assert!(refused.detail.contains("challenge"), "{refused}");
    }
}

#[test]
fn an_approver_signs_no_policies() {
    let config = config(&all()).unwrap();
    let message = pre_authentication_encoding(POLICY_TYPE, b"");
    let envelope = v1::Envelope {
        payload_type: POLICY_TYPE.into(),
        payload: Vec::new().into(),
        signatures: vec![ana().approves(&message)],
    };
    let refused = proposal::verify(&envelope, &config.keyring, HOST).unwrap_err();
    assert_eq!(refused.refusal, Refusal::UnknownKey);
    assert!(refused.detail.contains("an [[approver]] signs grants"), "{refused}");
}

#[test]
fn false_approvals_cost_tries_and_those_in_another_way_none() {
    let Config { keyring, .. } = config(&all()).unwrap();
    let cost = |signatures: &[v1::Signature]| {
        let mut wasted = 0;
        let envelope = envelope(&rdp(), &[], signatures);
        let refused = grant::verify_counting(&envelope, &keyring, HOST, &mut wasted).unwrap_err();
        assert_eq!(refused.refusal, Refusal::BadSignature);
        wasted
    };
    let elsewhere = ana().approves(b"another payload");
    assert_eq!(cost(std::slice::from_ref(&elsewhere)), 2, "both approvers' keys");
    assert_eq!(cost(&vec![elsewhere; 8]), 16);
    assert_eq!(cost(&[ana().signs_plainly(&message(&rdp()))]), 0, "no key signs like this");
}

#[test]
fn approvals_get_the_same_answers_alone_and_among_many() {
    let Config { keyring, .. } = config(&all()).unwrap();
    let one = |number: u8| {
        let grant = v1::Grant { id: vec![number; 16].into(), ..rdp() };
        let mut envelope = envelope(&grant, &[1], &[]);
        envelope.signatures.iter_mut().for_each(|signature| signature.key_id = "k1".into());
        if number.is_multiple_of(5) {
            envelope.signatures.push(ana().approves(&message(&grant)));
        }
        if number.is_multiple_of(10) {
            // It looks like a signer's signature, with its name.
            envelope.signatures.push(v1::Signature {
                assertion: Some(Box::default()),
                ..envelope.signatures[0].clone()
            });
            envelope.signatures.remove(0);
        }
        envelope
    };
    let all: Vec<_> = (1..=60).map(one).collect();
    let envelopes: Vec<_> = all.iter().collect();
    let alone = |envelope: &&v1::Envelope| grant::verify(envelope, &keyring, HOST);
    let alone: Vec<_> = envelopes.iter().map(alone).collect();
    assert_eq!(grant::verify_all(&envelopes, &keyring, HOST), alone);
    assert!(alone.iter().all(Result::is_ok));
    let with_approval = &envelopes[4..5];
    let together = grant::verify_together(with_approval.iter().copied(), &keyring, HOST);
    assert!(matches!(together, Together::OneByOne { envelopes: 1, signatures: 0 }));
}

#[test]
fn what_a_key_signed_in_one_way_does_not_count_after_it_has_become_the_other() {
    let before = config(&all()).unwrap();
    let grant =
        check(&before, &envelope(&rdp(), &[1], &[ana().approves(&message(&rdp()))])).unwrap();
    let as_signer = "[[signer]]\nid = \"ana\"\npublic_key = \"ana.pem\"\n";
    let for_another = approver("ana", "").replace(RP_ID, "example.org");
    let for_another = for_another.replace("https://example.org", ORIGIN);
    for keys in [
        [SIGNER, as_signer].concat(),
        [SIGNER, &for_another].concat(),
        [SIGNER, &approver("bo", "")].concat(),
    ] {
        let after = config(&keys).unwrap_or_else(|error| panic!("{error}\n{keys}"));
        let refused = after.policy.check(&grant, &after.keyring, NOW).unwrap_err();
        assert_eq!(refused.refusal, Refusal::ApprovalsMissing, "{keys}");
        assert!(after.policy.check_open(&grant, &after.keyring).is_err(), "{keys}");
    }
    // And the reverse: what it signed as a signer is no approval, and no signature any more.
    let before = config(&[SIGNER, as_signer].concat()).unwrap();
    let plain = ana().signs_plainly(&message(&rdp()));
    let grant = check(&before, &envelope(&rdp(), &[1], &[plain])).unwrap();
    let after = config(&all()).unwrap();
    let refused = after.policy.check(&grant, &after.keyring, NOW).unwrap_err();
    assert_eq!(refused.refusal, Refusal::ApprovalsMissing);
    // A name and an origin more change nothing.
    let before = config(&all()).unwrap();
    let grant =
        check(&before, &envelope(&rdp(), &[1], &[ana().approves(&message(&rdp()))])).unwrap();
    let renamed = all().replace("id = \"ana\"", "id = \"ana.lee\"");
    let after = config(&renamed.replace(":8443", ":9443")).unwrap();
    after.policy.check(&grant, &after.keyring, later(MINUTE)).unwrap();
}

#[test]
fn a_configuration_of_approvers_that_makes_no_sense_is_refused_by_name() {
    let ana = approver("ana", "");
    for (keys, expected) in [
        (ana.clone(), "approvals: 1, but only 0 [[signer]]"),
        (SIGNER.to_owned(), "approvals: 2, but only 1 [[signer]]"),
        ([SIGNER, &ana, &ana].concat(), "[[approver]] \"ana\": the id is in two sections"),
        (
            [SIGNER, &ana.replace("id = \"ana\"", "id = \"k1\"")].concat(),
            "[[approver]] \"k1\": the id is in two sections",
        ),
        (
            [SIGNER, &ana.replace("id = \"ana\"", "id = \"again\""), &ana].concat(),
            "the same key as `again`",
        ),
        (
            [SIGNER, &ana, "[[signer]]\nid = \"k3\"\npublic_key = \"ana.pem\"\n"].concat(),
            "the same key as `k3`",
        ),
        ([SIGNER, &ana.replace(RP_ID, "https://x")].concat(), "[[approver]] \"ana\": rp_id: "),
        ([SIGNER, &ana.replace("rp_id = \"jit.", "rp_id = \"x.")].concat(), "origins: "),
        ([SIGNER, &approver("ana", "signs = [\"policy\"]")].concat(), "signs"),
        ([SIGNER, &approver("ana", "max_duration = \"soon\"")].concat(), "[[approver]] \"ana\""),
        ([SIGNER, &ana.replace("rp_id", "rpid")].concat(), "rp_id"),
        (
            [SIGNER, &ana.replace("ana.pem", "none.pem")].concat(),
            "[[approver]] \"ana\": public_key",
        ),
    ] {
        let error = config(&keys).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let empty = format!(
        "{SIGNER}[[approver]]\nid = \"ana\"\npublic_key = \"ana.pem\"\nrp_id = \"{RP_ID}\"\norigins = []\n"
    );
    assert!(config(&empty).unwrap_err().contains("origins: no origin"));
    config(&[SIGNER, &ana].concat()).unwrap();
}

/// Passkeys of both algorithms have the same form: this one signs with Ed25519 (COSE -8).
#[test]
fn an_approved_grant_opens_again_after_a_restart_and_names_the_approver() {
    let approver = approver("ana", "").replace("ana.pem", "3.pem");
    let ports =
        "[[port]]\nport = 2222\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\napprovals = 2\n";
    let mut host = Host::with(&[ports, &approver].concat());
    let grant = v1::Grant { ports: vec![port(2222)], ..ssh() };
    let mut approval = ana().approves(&message(&grant));
    let made = approval.assertion.as_deref().unwrap();
    let client_data = Sha256::digest(&made.client_data_json);
    let signed = [made.authenticator_data.as_ref(), &client_data[..]].concat();
    approval.signature = ed25519_dalek::Signer::sign(&key(3), &signed).to_bytes().to_vec().into();
    let envelope = envelope(&grant, &[1], &[approval]);
    let outcome = host.gate().push(vec![envelope.clone()], "test", NOW).remove(0);
    assert!(outcome.is_ok(), "{outcome:?}");
    let opens = |host: &Host| {
        let port = PortKey { protocol: Protocol::Tcp, port: 2222 };
        host.kernel.opens(port, v4("203.0.113.7"), later(MINUTE).boot)
    };
    assert!(opens(&host));
    host.restart("boot-2", later(1));
    assert!(opens(&host));
    let listed = host.gate().list(false, later(1));
    assert_eq!(listed[0].signers, ["prod", "ana"]);
    let admitted = host.records().into_iter().find(|record| record["code"] == "G001").unwrap();
    assert_eq!(admitted["signers"], serde_json::json!(["prod", "ana"]));
    let again = host.gate().push(vec![envelope], "test", later(2)).remove(0);
    assert_eq!(again.unwrap().admission, Admission::Known);
}

#[test]
fn every_flipped_bit_of_an_approved_envelope_is_refused_or_means_the_same() {
    let config = config(&all()).unwrap();
    let original = envelope(&rdp(), &[1], &[ana().approves(&message(&rdp()))]);
    let accepted = check(&config, &original).unwrap();
    let bytes = original.encode_to_vec();
    let mut same = 0;
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << bit;
            let Ok(envelope) = v1::Envelope::decode(flipped.as_slice()) else { continue };
            let Ok(grant) = check(&config, &envelope) else { continue };
            assert_eq!(grant.payload(), accepted.payload(), "byte {place}, bit {bit}");
            assert_eq!(grant.signers(), accepted.signers(), "byte {place}, bit {bit}");
            same += 1;
        }
    }
    // Only the hint may change, or not be read as one.
    assert!(same <= 8 * (1 + "ana".len()), "{same} changes were accepted");
}
