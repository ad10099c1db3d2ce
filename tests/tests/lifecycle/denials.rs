//! The history of denials of a real agent: who knocked, which pushes were refused, over a restart
//! too, and under a flood.

use std::{
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, STRANGER, Site, TO_STRANGER},
    frames::{Ipv4, Macs, Tcp},
    random::Random,
    raw::Wire,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::audit::shown;

const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(20);

fn denials(site: &Site, arguments: &[&str]) -> Value {
    let output = site.run(&[&["denials", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The denials with these arguments, as soon as there is one.
fn some_denials(site: &Site, arguments: &[&str]) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = denials(site, arguments);
        if !found["denials"].as_array().unwrap().is_empty() {
            return found;
        }
        assert!(Instant::now() < deadline, "no denial: {found}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn status(site: &Site) -> v1::StatusResponse {
    let answer = site.call(async |mut client| client.status(v1::StatusRequest {}).await);
    answer.unwrap().into_inner()
}

#[test]
fn a_strangers_syns_are_in_the_history_over_a_restart_too() {
    let mut site = Site::new();
    site.start();
    assert!(!site.stranger_opens(0, 22) && !site.stranger_opens(1, 22));
    let found = some_denials(&site, &["--source", STRANGER[0], "--port", "22/tcp"]);
    let denial = &found["denials"][0];
    assert_eq!((&denial["source"], &denial["port"]), (&STRANGER[0].into(), &"22/tcp".into()));
    assert_eq!((&denial["reason"], &denial["packets"]), (&"denied".into(), &denial["seen"]));
    assert_eq!(found["unrecorded"], 0, "{found}");
    assert_eq!(some_denials(&site, &["--source", "2001:db8:2::/64"])["matching"], 1);
    assert_eq!(denials(&site, &["--port", "23/tcp"])["matching"], 0);
    assert_eq!(denials(&site, &["--user", "ana"])["matching"], 0);

    let recent = status(&site).recent.unwrap();
    assert!(
        recent.packets >= 2 && recent.top.len() == 2 && recent.by_port[0].port == 22,
        "{recent:?}"
    );

    site.end(Signal::TERM);
    site.start();
    assert_eq!(denials(&site, &["--source", STRANGER[0]])["denials"][0], *denial);
    assert!(!site.stranger_opens(0, 22));
    let deadline = Instant::now() + PATIENCE;
    let again = loop {
        let again = denials(&site, &["--source", STRANGER[0]])["denials"][0].clone();
        if again["seen"].as_u64() > denial["seen"].as_u64() {
            break again;
        }
        assert!(Instant::now() < deadline, "{again}");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(again["first"], denial["first"]);
    let text = String::from_utf8(site.run(&["denials", "--since", "1h"]).stdout).unwrap();
    assert!(text.contains("SOURCE") && text.contains(STRANGER[0]), "{text}");
}

#[test]
fn a_refused_push_is_in_denials_audit_and_status() {
    let mut site = Site::new();
    site.start();
    let mut foreign = site.grant(&[STRANGER[0]], LONG);
    foreign.hosts = vec!["another".into()];
    foreign.requester = "li@example.org".into();
    for _ in 0..3 {
        site.push(site.sign(&foreign)).unwrap_err();
    }
    let mut forged = site.envelope(&CLIENT, LONG);
    forged.signatures[0].signature = vec![7; 64].into();
    site.push(forged).unwrap_err();

    let of_li = denials(&site, &["--user", "li@example.org"]);
    let push = &of_li["refused"][0];
    assert_eq!((&of_li["matching_refused"], &push["count"]), (&1.into(), &3.into()));
    assert_eq!((&push["reason"], &push["by"]), (&"wrong_host".into(), &"local uid 0".into()));
    assert_eq!((&push["sources"][0], &push["ports"][0]), (&STRANGER[0].into(), &"22/tcp".into()));
    let of_ana = &denials(&site, &["--source", CLIENT[0]])["refused"][0];
    assert_eq!(of_ana["reason"], "bad_signature");
    assert!(of_ana["detail"].as_str().unwrap().contains("no good signature vouches"), "{of_ana}");

    let records = shown(&site, &["--code", "G004"]);
    assert_eq!(records.len(), 4);
    let (first, last) = (&records[0], &records[3]);
    assert_eq!((&first["requester"], &first["grant"]), (&push["requester"], &push["grant_id"]));
    assert_eq!((&first["sources"], &first["ports"]), (&push["sources"], &push["ports"]));
    assert_eq!((&first["verified"], &last["verified"]), (&Value::Null, &false.into()));
    assert_eq!(last["requester"], "ana@example.org");

    let shows = |status: v1::StatusResponse| {
        let refused =
            status.refused.into_iter().map(|push| (push.requester, push.reason, push.count));
        (refused.collect::<Vec<_>>(), status.refused_last_hour)
    };
    let row = |name: &str, word: &str, count| (name.to_owned(), word.to_owned(), count);
    let all =
        vec![row("ana@example.org", "bad_signature", 1), row("li@example.org", "wrong_host", 3)];
    assert_eq!(shows(status(&site)), (all.clone(), 4));
    site.end(Signal::TERM);
    site.start();
    assert_eq!(shows(status(&site)), (all, 4));
    assert_eq!(denials(&site, &["--user", "li@example.org"])["refused"], of_li["refused"]);
}

#[test]
fn new_denials_are_followed() {
    let mut site = Site::new();
    site.start();
    let mut command = site.command(&["denials", "--follow", "--json", "--source", STRANGER[0]]);
    let mut child = site.host.start(command.stdout(Stdio::piped()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The list comes first: then the events are followed.
    let list: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(list["matching"], 0);
    assert!(!site.stranger_opens(0, 22));
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&event["packet"]["source"], &event["packet"]["reason"]),
        (&STRANGER[0].into(), &"denied".into())
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Three packets in five are of one source, the others of a million. The kernel reports 128 of them
/// a second and CPU.
#[test]
fn the_heaviest_of_a_million_sources_is_right_within_5_percent() {
    const HEAVIEST: u32 = 0x0a00_0001;
    let mut site = Site::new();
    site.start();
    let macs = Macs { destination: site.host.mac("s0"), ..Macs::default() };
    let to: Ipv4Addr = TO_STRANGER[0].parse().unwrap();
    let (index, mut random) = (site.stranger.index("p0"), Random::new(7));
    let packet = Ipv4::new(Ipv4Addr::from(HEAVIEST), to).tcp(&Tcp::syn(22));
    let (mut sent, mut heaviest) = (0_u64, 0_u64);
    site.stranger.run(|| {
        let wire = Wire::open(index);
        let mut frames = vec![packet.between(macs, &[]); 32];
        let end = Instant::now() + Duration::from_secs(25);
        while Instant::now() < end {
            for frame in &mut frames {
                let is_heaviest = random.chance(60);
                let other = 0x0b00_0000 + u32::try_from(random.below(1 << 20)).unwrap();
                let source = if is_heaviest { HEAVIEST } else { other };
                // Nobody looks at the checksum of a packet that is dropped at the gate.
                frame[26..30].copy_from_slice(&source.to_be_bytes());
                heaviest += u64::from(is_heaviest);
            }
            wire.send_all(&frames);
            sent += 32;
        }
    });
    let found = denials(&site, &["--top", "2"]);
    let number = |value: &Value| value.as_u64().unwrap();
    let all = number(&found["recorded"]) + number(&found["unrecorded"]);
    // Some frames find no place on the wire, whoever sent them.
    let truth = heaviest * all / sent;
    let first = &found["denials"][0];
    println!("{sent} sent, {all} dropped, {truth} of the heaviest: {first}");
    assert_eq!(first["source"], Ipv4Addr::from(HEAVIEST).to_string());
    assert!(number(&first["packets"]).abs_diff(truth) * 20 <= truth, "{truth}: {found}");
    assert!(number(&found["recorded"]) < all / 10, "most were not reported: {found}");
    assert_eq!(status(&site).recent.unwrap().top[0].source[..], HEAVIEST.to_be_bytes());
}
