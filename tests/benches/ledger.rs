//! The figures of many grants: verification, admission with few and with many live grants,
//! revoke-all, all grants ending at once, size on the disk and in memory. `cargo xtask bench`.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
use jit_agent::{config::Config, rules::grant, system::sys};
use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};
use jit_tests::agent::{HOST, Site};
use p256::pkcs8::LineEnding;
use prost::Message as _;

/// Number of grants that are live at once.
const MANY: u32 = 100_000;
const SOME: u32 = 10_000;
/// Number of grants in a batch.
const BATCH: u32 = 1_000;
/// Number of pushes that are timed one by one.
const PUSHES: u32 = 300;

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    // Runs one of them by its name, or all.
    let wanted: Vec<_> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if wants("verifications") {
        verifications();
    }
    println!("\n| {MANY} grants | |\n|---|---|");
    if wants("revoked") {
        revoked_at_once();
    }
    if wants("ended") {
        ended_at_once();
    }
}

/// Envelopes a second that one core verifies, decodes and checks against the policy.
fn verifications() {
    let directory = tempfile::tempdir().unwrap();
    let ed25519 = SigningKey::from_bytes(&[1; 32]);
    let p256 = p256::ecdsa::SigningKey::from_slice(&[2; 32]).unwrap();
    let pem = ed25519.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    fs::write(directory.path().join("ed25519.pem"), pem).unwrap();
    let pem = p256.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    fs::write(directory.path().join("p256.pem"), pem).unwrap();
    println!("\n| verified pushes a second, one core | |\n|---|---|");
    for (name, approvals, keys) in [
        ("Ed25519", 1, &["ed25519"][..]),
        ("P-256", 1, &["p256"]),
        ("both, threshold 2", 2, &["ed25519", "p256"]),
    ] {
        let signers: String = keys
            .iter()
            .map(|key| format!("[[signer]]\nid = \"{key}\"\npublic_key = \"{key}.pem\"\n"))
            .collect();
        let text = format!(
            "[host]\nid = \"{HOST}\"\n[[port]]\nport = 22\nprotocol = \"tcp\"\n\
             sources = [\"0.0.0.0/0\"]\napprovals = {approvals}\n{signers}"
        );
        let config = Config::parse(&text, &directory.path().join("config.toml")).unwrap();
        let now = sys::now();
        let message = v1::Grant {
            id: vec![1; 16].into(),
            hosts: vec![HOST.into()],
            sources: vec![v1::Source::from(&"192.0.2.7".parse().unwrap())],
            ports: vec![v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 }],
            issued_at_ms: now.wall.0,
            not_before_ms: now.wall.0,
            not_after_ms: now.wall.0 + 600_000,
            requester: "ana@example.org".into(),
            justification: "bench".into(),
            ..v1::Grant::default()
        };
        let payload = message.encode_to_vec();
        let signed = pre_authentication_encoding(GRANT_TYPE, &payload);
        let signatures = keys.iter().map(|key| {
            let signature = match *key {
                "p256" => {
                    let signature: p256::ecdsa::Signature = p256.sign(&signed);
                    signature.to_der().as_bytes().to_vec()
                }
                _ => ed25519.sign(&signed).to_bytes().to_vec(),
            };
            v1::Signature { key_id: (*key).into(), signature: signature.into() }
        });
        let envelope = v1::Envelope {
            payload_type: GRANT_TYPE.into(),
            payload: payload.into(),
            signatures: signatures.collect(),
        };
        let (start, mut count) = (Instant::now(), 0_u32);
        while start.elapsed() < Duration::from_secs(2) {
            let grant = grant::verify(&envelope, &config.keyring, HOST).unwrap();
            config.policy.check(&grant, &config.keyring, now).unwrap();
            count += 1;
        }
        println!("| {name} | {:.0} |", f64::from(count) / start.elapsed().as_secs_f64());
    }
}

fn site() -> Site {
    let mut site = Site::new();
    site.configure("[limits]\nhosts = 120000\n");
    site.start();
    site
}

/// Pushes the grants with these numbers, in batches.
fn fill(site: &Site, from: u32, to: u32, lasts: Duration) {
    for first in (from..to).step_by(BATCH as usize) {
        let envelopes = (first..(first + BATCH).min(to)).map(|number| {
            let source = Ipv4Addr::from(0x0b00_0000 + number).to_string();
            site.envelope(&[&source], lasts)
        });
        let request = v1::PushBatchRequest { envelopes: envelopes.collect(), ..Default::default() };
        let answer = site.call(async |mut client| client.push_batch(request).await).unwrap();
        for outcome in answer.into_inner().outcomes {
            assert!(outcome.accepted, "{outcome:?}");
        }
    }
}

/// Median and 99th percentile of single pushes.
fn admissions(site: &Site, live: u32) {
    let mut times = Vec::new();
    site.call(async |mut client| {
        for number in 0..PUSHES {
            let source = Ipv4Addr::from(0x0c00_0000 + live + number).to_string();
            let envelope = Some(site.envelope(&[&source], Duration::from_secs(3_000)));
            let start = Instant::now();
            client.push(v1::PushRequest { envelope }).await?;
            times.push(start.elapsed());
        }
        Ok(())
    })
    .unwrap();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    println!("| one push with {live} live, median and p99 | {:.2?}, {:.2?} |", at(50), at(99));
}

fn revoked_at_once() {
    let site = site();
    let idle = resident(site.pid());
    let lasts = Duration::from_secs(3_000);
    fill(&site, 0, SOME, lasts);
    admissions(&site, SOME);
    fill(&site, SOME, MANY, lasts);
    admissions(&site, MANY);
    let grants = u64::from(MANY + 2 * PUSHES);
    let memory = resident(site.pid()).saturating_sub(idle) * 1024 / grants;
    let disk = fs::metadata(site.path("state/grants.redb")).unwrap().len() / grants;
    println!("| a grant in memory, on the disk | {memory} B, {disk} B |");
    let (start, cpu) = (Instant::now(), cpu(site.pid()));
    assert_eq!(u64::from(site.revoke_all()), grants);
    let answered = start.elapsed();
    println!("| revoke-all answered after | {answered:.2?} |");
    println!("| its CPU | {:.2} s |", seconds(self::cpu(site.pid()) - cpu));
    assert!(answered < Duration::from_secs(2), "revoke-all took {answered:?}");
}

fn ended_at_once() {
    let site = site();
    // Long enough for all to be pushed before the first ends.
    let end = Instant::now() + Duration::from_secs(120);
    for first in (0..MANY).step_by(BATCH as usize) {
        let left = end.saturating_duration_since(Instant::now());
        fill(&site, first, first + BATCH, left);
    }
    let left = end.saturating_duration_since(Instant::now());
    println!("| pushed with this much time left | {left:.0?} |");
    thread::sleep(left.saturating_sub(Duration::from_secs(1)));
    let before = cpu(site.pid());
    thread::sleep(Duration::from_secs(8));
    let used = seconds(cpu(site.pid()) - before);
    println!("| CPU of the agent when all end at once | {used:.2} s |");
    assert!(used < 2.0, "{used} s");
}

/// CPU that a process has used, in ticks of its clock (100 a second; proc(5), utime and stime).
fn cpu(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

fn seconds(ticks: u64) -> f64 {
    f64::from(u32::try_from(ticks).unwrap()) / 100.0
}

/// Resident memory of a process, KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
