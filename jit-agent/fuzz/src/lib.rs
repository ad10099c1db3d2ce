//! The fuzz targets of `jit-agent` as functions, without libFuzzer: the ordinary tests run every
//! corpus file through the same functions (`jit-agent/tests/corpus.rs`).
//!
//! Each target checks more than "does not panic": an accepted input must be what was signed,
//! written or allowed. The checks use other means than the code under test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
use jit_agent::{
    config::Config,
    disk::store::{Damage, Store, StoreError, StoredGrant, StoredProgress, Transaction},
    kernel::netlink::{
        message::{LinkId, Message, messages},
        sock_diag as diag,
        watch::may_change_links,
    },
    rules::{
        checkpoint as stamped,
        clock::{BootNanos, Now},
        grant::{self, MAX_ENTRIES, VerifiedGrant},
        impact::Impact,
        keyring::Signer,
        ledger::Tombstone,
        proposal,
        revocation::{self, Whose},
    },
};
use jit_common::{Family, PortKey, Protocol};
use jit_proto::{
    GrantId, WallTime,
    dsse::{MAX_ENVELOPE_BYTES, pre_authentication_encoding},
    payload_type::{CHECKPOINT_TYPE, GRANT_TYPE, POLICY_TYPE, REVOCATION_TYPE},
    v1,
    webauthn::challenge,
};
use p256::{ecdsa::signature::Verifier as _, pkcs8::LineEnding};
use prost::Message as _;
use tempfile::TempDir;

/// A target: its name, which is also that of its corpus directory, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this crate.
pub const TARGETS: [Target; 9] = [
    ("checkpoint", checkpoint),
    ("config", config),
    ("envelope", envelope),
    ("grant", grant),
    ("netlink", netlink),
    ("policy", policy),
    ("revocation", revocation),
    ("sock_diag", sock_diag),
    ("store", store),
];

/// The host that the configuration names.
pub const HOST: &str = "web-1";
/// 2026-06-01T00:00:00Z, an hour after boot.
pub const NOW: Now = Now { wall: WallTime(1_780_272_000_000), boot: BootNanos(3_600_000_000_000) };

const CONFIG: &str = r#"
[host]
id = "web-1"
[[port]]
port = 22
protocol = "tcp"
sources = ["0.0.0.0/0", "2001:db8::/32"]
widest_v4 = 8
[[port]]
port = "5985-5986"
protocol = "tcp"
sources = ["203.0.113.0/24"]
max_duration = "1h"
sessions = "cut"
[[signer]]
id = "prod"
public_key = "prod.pem"
signs = ["grant", "policy", "revocation"]
[[signer]]
id = "freshness"
public_key = "freshness.pem"
signs = ["checkpoint"]
[[approver]]
id = "ana"
public_key = "ana.pem"
rp_id = "jit.example.org"
origins = ["https://jit.example.org"]
[ceiling]
arm = ["8000-8100", "53/udp"]
disarm = ["5985-5986"]
sources = ["10.0.0.0/8", "2001:db8::/32"]
drain = true
exemptions = true
"#;

/// The key that signs what the fuzzer makes.
pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

/// The key that signs checkpoints, and nothing else.
fn freshness_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// The passkey of the approver.
fn passkey() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[2; 32]).expect("a scalar")
}

/// A directory with the keys, and the configuration in it.
fn host() -> &'static (TempDir, Config) {
    static HOST: OnceLock<(TempDir, Config)> = OnceLock::new();
    HOST.get_or_init(|| {
        let directory = TempDir::new().expect("a directory");
        let pem = key().verifying_key().to_public_key_pem(LineEnding::LF).expect("a key in PEM");
        fs::write(directory.path().join("prod.pem"), pem).expect("write the key");
        let pem = freshness_key().verifying_key().to_public_key_pem(LineEnding::LF);
        let pem = pem.expect("a key in PEM");
        fs::write(directory.path().join("freshness.pem"), pem).expect("write the key");
        let approver = p256::PublicKey::from(passkey().verifying_key());
        let pem = approver.to_public_key_pem(LineEnding::LF).expect("a key in PEM");
        fs::write(directory.path().join("ana.pem"), pem).expect("write the key");
        let config = Config::parse(CONFIG, &directory.path().join("config.toml"));
        (directory, config.expect("a good configuration"))
    })
}

/// A grant's payload under a good signature.
pub fn signed(payload: &[u8]) -> v1::Envelope {
    signed_as(GRANT_TYPE, payload)
}

fn signed_as(payload_type: &str, payload: &[u8]) -> v1::Envelope {
    signed_by(&key(), payload_type, payload)
}

fn signed_by(key: &SigningKey, payload_type: &str, payload: &[u8]) -> v1::Envelope {
    let signature = key.sign(&pre_authentication_encoding(payload_type, payload));
    v1::Envelope {
        payload_type: payload_type.into(),
        payload: payload.to_vec().into(),
        signatures: vec![v1::Signature {
            signature: signature.to_bytes().to_vec().into(),
            ..v1::Signature::default()
        }],
    }
}

/// Any text as a configuration: it is accepted or refused as a whole, with the same result each
/// time.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (directory, _) = host();
    let path = directory.path().join("config.toml");
    let read = Config::parse(text, &path);
    let again = Config::parse(text, &path);
    let config = match (read, again) {
        (Ok(config), Ok(again)) => {
            assert_eq!(format!("{config:?}"), format!("{again:?}"));
            config
        }
        (Err(error), Err(again)) => {
            let error = error.to_string();
            assert!(!error.trim().is_empty());
            return assert_eq!(error, again.to_string());
        }
        (read, again) => panic!("{read:?}, then {again:?}"),
    };
    assert!(!config.host.is_empty() && config.host != "auto");
    assert!(config.paths.state.is_absolute() && config.paths.pins.is_absolute());
    for section in config.policy.sections() {
        assert!(section.range.first > 0 && section.range.first <= section.range.last);
        assert!(section.approvals >= 1);
        assert!(section.widest_v4 <= 32 && section.widest_v6 <= 128);
        assert!(section.max_duration > Duration::ZERO);
        for port in section.range.ports() {
            assert_eq!(config.policy.port(port), Some(section), "a port is in one section");
        }
    }
}

/// Any bytes as an envelope: an accepted one has a good signature over exactly its payload.
pub fn envelope(input: &[u8]) {
    let Ok(envelope) = v1::Envelope::decode(input) else { return };
    let (_, config) = host();
    let Ok(taken) = grant::verify(&envelope, &config.keyring, HOST) else { return };
    let message = pre_authentication_encoding(GRANT_TYPE, &envelope.payload);
    let signed = |signature: &v1::Signature| {
        signature.assertion.is_none()
            && ed25519_dalek::Signature::from_slice(&signature.signature).is_ok_and(|signature| {
                key().verifying_key().verify_strict(&message, &signature).is_ok()
            })
    };
    let approved = |v1::Signature { signature, assertion, .. }: &v1::Signature| {
        let approver = config.keyring.signers().iter().find_map(Signer::approver);
        let party = approver.expect("there is one");
        let assertion = assertion.as_deref();
        let bytes = assertion.and_then(|made| party.check(&challenge(&message), made).ok());
        let signature = p256::ecdsa::Signature::from_der(signature)
            .or_else(|_| p256::ecdsa::Signature::from_slice(signature));
        bytes.zip(signature.ok()).is_some_and(|(bytes, signature)| {
            passkey().verifying_key().verify(&bytes, &signature).is_ok()
        })
    };
    assert_eq!(envelope.payload_type, GRANT_TYPE);
    for name in taken.signers() {
        let mut signatures = envelope.signatures.iter();
        let good = if name == "ana" { signatures.any(approved) } else { signatures.any(signed) };
        assert!(good, "{name}");
    }
    let signs_alone = taken.signers() == ["ana"];
    let checked = config.policy.check(&taken, &config.keyring, NOW);
    assert!(!signs_alone || checked.is_err(), "an approver opens nothing alone");
    check_grant(&taken, &envelope.payload);
}

/// Any bytes as a signed policy: an accepted policy is what was signed, and one that passes the
/// ceiling's check lies within the ceiling.
pub fn policy(input: &[u8]) {
    let (_, config) = host();
    let envelope = signed_as(POLICY_TYPE, input);
    assert!(grant::verify(&envelope, &config.keyring, HOST).is_err(), "a policy is not a grant");
    let Ok(taken) = proposal::verify(&envelope, &config.keyring, HOST) else { return };
    let proposal = taken.proposal();
    let message = v1::Policy::decode(input).expect("taken, so it decodes");
    assert_eq!(message.encode_to_vec(), input, "nothing is read past");
    assert!(message.hosts.iter().any(|host| host == HOST) && message.version > 0);
    assert_eq!(proposal.sections().len(), message.ports.len());
    for (section, port) in proposal.sections().iter().zip(&message.ports) {
        let again = v1::PolicyPort::from(section);
        let defaults = v1::PolicyPort {
            widest_v4: Some(port.widest_v4.unwrap_or(24)),
            widest_v6: Some(port.widest_v6.unwrap_or(48)),
            ..port.clone()
        };
        assert_eq!(again, defaults);
    }
    let _ = proposal.check_times(NOW);
    let ceiling = config.ceiling.as_ref().expect("there is a ceiling");
    if ceiling.check(proposal.sections(), &config.policy).is_err() {
        return;
    }
    let ssh = PortKey { protocol: Protocol::Tcp, port: 22 };
    assert!(proposal.sections().iter().any(|section| section.range.has(ssh)), "22 stays");
    for section in proposal.sections() {
        assert!(!section.observe && !section.forwarded && section.approvals >= 1);
        assert!(section.max_duration <= Duration::from_secs(3 * 3600));
        for port in section.range.ports() {
            let may = config.policy.port(port).is_some()
                || ceiling.arm.iter().any(|range| range.has(port));
            assert!(may, "{port:?} may be armed");
        }
    }
    let in_force = ceiling.in_force(proposal.sections(), &config.policy, None);
    let impact = Impact::between(&config.policy, &in_force, NOW.wall);
    assert!(Impact::between(&in_force, &in_force, NOW.wall).is_empty());
    assert_eq!(impact.is_empty(), Impact::between(&in_force, &config.policy, NOW.wall).is_empty());
}

/// Any bytes as a signed revocation: what is taken is what was signed, for this host, and its floor is
/// never more than a minute ahead.
pub fn revocation(input: &[u8]) {
    let (_, config) = host();
    let envelope = signed_as(REVOCATION_TYPE, input);
    assert!(grant::verify(&envelope, &config.keyring, HOST).is_err(), "it is no grant");
    assert!(proposal::verify(&envelope, &config.keyring, HOST).is_err(), "it is no policy");
    let Ok(taken) = revocation::verify(&envelope, &config.keyring, HOST) else { return };
    let message = v1::Revocation::decode(input).expect("taken, so it decodes");
    assert_eq!(message.encode_to_vec(), input, "nothing is read past");
    assert!(message.every_host != message.hosts.iter().any(|host| host == HOST));
    let (all, requester, ids) = match taken.whose() {
        Whose::All => (true, "", Vec::new()),
        Whose::Ids(ids) => (false, "", ids.iter().map(|id| id.0.to_vec()).collect()),
        Whose::Requester(name) => (false, name.as_str(), Vec::new()),
    };
    assert_eq!((all, requester), (message.all, message.requester.as_str()));
    assert!(message.grant_ids == ids && (all || !requester.is_empty() || !ids.is_empty()));
    assert_eq!(taken.issued_before(), WallTime(message.issued_before_ms));
    assert!(message.issued_before_ms > 0 && message.keep_until_ms > message.issued_before_ms);
    assert!(!taken.author().is_empty() && !taken.reason().is_empty());
    assert_eq!(taken.cut(), message.cut);
    assert!(taken.check_keys(&config.keyring, NOW).is_ok());
    let floor = taken.floor(NOW);
    assert!(floor <= taken.issued_before() && floor.0 <= NOW.wall.0 + 60_000);
    let whole = floor == taken.issued_before() || !ids.is_empty();
    assert_eq!(taken.check_floor(NOW, "").is_ok(), whole);
}

/// Any bytes as a signed checkpoint: what is taken is what was signed, within its bounds, and its key signs
/// nothing else.
pub fn checkpoint(input: &[u8]) {
    let (_, config) = host();
    let other = signed_as(CHECKPOINT_TYPE, input);
    assert!(stamped::verify(&other, &config.keyring).is_err(), "another key");
    for payload_type in [GRANT_TYPE, REVOCATION_TYPE, POLICY_TYPE] {
        let envelope = signed_by(&freshness_key(), payload_type, input);
        assert!(grant::verify(&envelope, &config.keyring, HOST).is_err(), "it is no grant");
        assert!(revocation::verify(&envelope, &config.keyring, HOST).is_err());
        assert!(proposal::verify(&envelope, &config.keyring, HOST).is_err());
    }
    let envelope = signed_by(&freshness_key(), CHECKPOINT_TYPE, input);
    let Ok(taken) = stamped::verify(&envelope, &config.keyring) else { return };
    let message = v1::Checkpoint::decode(input).expect("taken, so it decodes");
    assert_eq!(message.encode_to_vec(), input, "nothing is read past");
    assert_eq!(stamped::message(taken.stamp()), message);
    assert!(message.epoch > 0 && message.number > 0 && message.issued_at_ms > 0);
    assert!((1_000..=3_600_000).contains(&message.valid_for_ms) && message.root.len() == 32);
    assert!(message.hosts > 0 && message.hosts <= 1 << 32);
    let in_time = message.issued_at_ms <= NOW.wall.0 + 60_000;
    assert_eq!(taken.check(&config.keyring, NOW).is_ok(), in_time);
}

/// Any bytes as a signed payload: a grant that passes the host's policy lies within the policy.
pub fn grant(input: &[u8]) {
    let (_, config) = host();
    let envelope = signed(input);
    let Ok(taken) = grant::verify(&envelope, &config.keyring, HOST) else { return };
    assert!(envelope.encoded_len() <= MAX_ENVELOPE_BYTES);
    check_grant(&taken, input);
    if config.policy.check(&taken, &config.keyring, NOW).is_err() {
        return;
    }
    let (from, to) = (taken.not_before().0, taken.not_after().0);
    assert!(from < to && to > NOW.wall.0);
    for (port, source) in taken.entries() {
        let section = config.policy.port(port).expect("a protected port");
        let longest = i64::try_from(section.max_duration.as_millis()).expect("hours");
        assert!(to - from <= longest);
        assert!(section.sources.iter().any(|allowed| allowed.contains(&source)), "{source}");
        let widest = match source.address().family {
            Family::V4 => section.widest_v4,
            Family::V6 => section.widest_v6,
        };
        assert!(source.length() >= widest, "{source}");
    }
}

/// What holds for every accepted grant.
fn check_grant(taken: &VerifiedGrant, payload: &[u8]) {
    assert_eq!(taken.message().encode_to_vec(), payload, "one encoding for one grant");
    assert!(taken.message().hosts.iter().any(|host| host == HOST));
    assert_eq!(GrantId::from_bytes(&taken.message().id), Some(taken.id()));
    let entries = taken.entries().count();
    assert!((1..=MAX_ENTRIES).contains(&entries), "{entries} entries");
    assert!(!taken.signers().is_empty());
    for range in taken.ports() {
        assert!(range.first > 0 && range.first <= range.last);
    }
    for source in taken.sources() {
        let text = source.to_string();
        assert_eq!(text.parse().ok(), Some(*source), "{text} reads as it was written");
    }
}

/// Any bytes as a datagram of route netlink: each message begins where the length of the one before
/// says, what is reported of a link is possible, and an unknown message counts as a change.
pub fn netlink(input: &[u8]) {
    let mut at = 0_usize;
    let mut reported = false;
    let mut ended = false;
    for message in messages(input) {
        assert!(!ended, "after an error there is no more");
        let Ok(message) = message else {
            (reported, ended) = (true, true);
            continue;
        };
        let header = input.get(at..).and_then(|rest| rest.first_chunk::<8>()).expect("a header");
        let [a, b, c, d, kind @ .., _, _] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).expect("a length");
        assert!(length >= 16 && at + length <= input.len());
        at += length.next_multiple_of(4);
        let kind = u16::from_ne_bytes(kind);
        match message {
            Message::Changed(link) | Message::Gone(link) => {
                assert!(kind == 16 || kind == 17);
                reported = true;
                let LinkId { index, name } = link;
                assert!(i32::try_from(index).is_ok_and(|index| index > 0));
                assert!(!name.is_empty() && !name.contains('\0'));
            }
            Message::Overrun => reported = true,
            Message::Other => {}
        }
    }
    assert!(ended || at >= input.len(), "everything was read");
    assert_eq!(may_change_links(input), reported);
}

/// A good database with changed bytes. Each four bytes of the input are one change: three bytes for
/// the offset, one for the value; the bytes left at the end cut the file. The database opens with
/// what can be read, or is kept aside; either way it accepts a grant.
pub fn store(input: &[u8]) {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = GOOD.get_or_init(good_database).clone();
    let (edits, rest) = input.as_chunks::<4>();
    for [high, middle, low, value] in edits {
        let at = u32::from_be_bytes([0, *high, *middle, *low]);
        let at = usize::try_from(at).expect("24 bits") % bytes.len();
        *bytes.get_mut(at).expect("below the length") = *value;
    }
    if let [high, low, ..] = rest {
        bytes.truncate(usize::from(u16::from_be_bytes([*high, *low])) * 64);
    }
    let directory = scratch();
    let path = database(directory.path());
    fs::create_dir(directory.path().join("state")).expect("make the state directory");
    fs::write(&path, &bytes).expect("write the database");
    let state = directory.path().join("state");
    let (mut opened, stored) = match Store::open(&state, NOW.wall) {
        Ok(opened) => opened,
        // The error names the file and the cause, and the agent does not start: nothing opens.
        Err(error @ StoreError::Database { .. }) => {
            return assert!(error.to_string().contains("grants.redb"), "{error}");
        }
        Err(error) => panic!("{error}"),
    };
    if let Some(Damage { kept, why }) = stored.damaged {
        assert!(!why.is_empty() && kept.is_none_or(|kept| kept.exists()));
        assert!(stored.grants.is_empty() && stored.tombstones.is_empty());
    }
    // "Accepted" means durable: a committed grant is there when the file is opened again.
    if opened.commit(&one_grant(9)).is_err() {
        return;
    }
    drop(opened);
    let Ok((_, again)) = Store::open(&state, NOW.wall) else { return };
    let kept =
        again.damaged.is_some() || again.grants.iter().any(|(id, _)| *id == GrantId([9; 16]));
    assert!(kept, "a grant that was accepted is gone without a word");
}

fn good_database() -> Vec<u8> {
    let directory = scratch();
    let state = directory.path().join("state");
    let (mut store, _) = Store::open(&state, NOW.wall).expect("a new database");
    for byte in 1..=3 {
        store.commit(&one_grant(byte)).expect("a commit");
    }
    let revoked = Transaction {
        remove: vec![GrantId([2; 16])],
        tombstones: vec![(GrantId([2; 16]), Tombstone::new(WallTime(NOW.wall.0 + 1_000), NOW))],
        floor: Some(NOW.wall),
        ..Transaction::default()
    };
    store.commit(&revoked).expect("a commit");
    drop(store);
    fs::read(database(directory.path())).expect("read the database")
}

fn one_grant(byte: u8) -> Transaction {
    let id = GrantId([byte; 16]);
    let progress = StoredProgress {
        boot_id: "boot".into(),
        deadline: NOW.boot.0,
        slot: u32::from(byte),
        generation: 1,
        ..StoredProgress::default()
    };
    Transaction {
        put: vec![(id, StoredGrant::from(signed(&[byte; 40])))],
        progress: vec![(id, progress)],
        ..Transaction::default()
    }
}

fn database(directory: &Path) -> PathBuf {
    directory.join("state/grants.redb")
}

/// A directory in memory where the system has one: syncs of the disk are not tested here.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a directory")
}

/// Any bytes as the kernel's answer about sockets: the number of the request, then the messages.
/// Each socket that is read was in the bytes, and the request to end it names it with the same
/// bytes.
pub fn sock_diag(input: &[u8]) {
    let Some((head, datagram)) = input.split_first_chunk() else { return };
    let sequence = u32::from_ne_bytes(*head);
    let mut sockets = Vec::new();
    let answer = diag::read(datagram, sequence, |socket| sockets.push(socket));
    // A message that names a socket has a header of 16 bytes, and the name ends 52 bytes after it.
    assert!(sockets.len() * 68 <= datagram.len(), "{answer:?}");
    for socket in &sockets {
        let request = diag::destroy_request(socket, sequence);
        // After the two headers, of message and request: local port, peer's port, the rest.
        let family = *request.get(16).expect("a request has a family");
        let name = request.get(24..).expect("a request has a name");
        let found = datagram
            .windows(52)
            .any(|body| body.first() == Some(&family) && body.get(4..) == Some(name));
        assert!(found && matches!(family, 2 | 10), "{socket:?}");
        let ports = [socket.port.to_be_bytes(), socket.peer_port.to_be_bytes()].concat();
        assert!(name.starts_with(&ports), "{socket:?}");
        // There is no such address on the wire: it stands for an IPv4 address.
        assert!(!matches!(socket.peer.bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]
            if socket.peer.family == Family::V6));
    }
    let mut again = Vec::new();
    let second = diag::read(datagram, sequence, |socket| again.push(socket));
    assert_eq!((sockets, answer.is_ok()), (again, second.is_ok()));
}
