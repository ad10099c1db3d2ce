//! `jit-agent why` says what a real connection would meet, and why; with the agent alive, dead or
//! hung. It counts nowhere.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Output,
    thread,
    time::{Duration, Instant},
};

use aya::maps::MapInfo;
use jit_agent::kernel::datapath::{bpf, pins::Pins};
use jit_common::{Counter, Reason, map};
use jit_proto::{
    SourcePrefix,
    v1::{self, revoke_request::What},
};
use jit_tests::{
    agent::{CLIENT, HOST, PATIENCE, STRANGER, Site, TO_CLIENT, opens},
    random::Random,
    tun,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::sessions::wait_until;

const LONG: Duration = Duration::from_secs(600);
/// Number of random questions for all hooks together, unless `JIT_TEST_QUESTIONS` says another one.
const QUESTIONS: usize = 60;

/// The answer as JSON, and whether it is open.
#[track_caller]
fn why(site: &Site, arguments: &[&str]) -> (Value, bool) {
    let output = site.run(&[&["why", "--json"], arguments].concat());
    let text = said(&output);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"));
    let open = match output.status.code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("exit code {other:?}: {text}"),
    };
    assert_eq!(answer["open"], open, "{text}");
    (answer, open)
}

/// The screen.
fn screen(site: &Site, arguments: &[&str]) -> String {
    said(&site.run(&[&["why"], arguments].concat()))
}

fn said(output: &Output) -> String {
    let [out, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{errors}")
}

#[track_caller]
fn says(screen: &str, words: &[&str]) {
    for word in words {
        assert!(screen.contains(word), "no {word:?} in:\n{screen}");
    }
}

/// A state that the grants of a source can be in.
const STATES: [&str; 9] = [
    "none",
    "host",
    "prefix",
    "other source",
    "other port",
    "ended",
    "revoked",
    "scheduled",
    "limited",
];

/// Puts the host into a state. The grant is for the client or for the stranger.
fn set_up(site: &Site, state: &str, source: &str) {
    site.revoke_all();
    let grant = |source: &str| site.grant(&[source], LONG);
    let host: SourcePrefix = source.parse().unwrap();
    let prefix = host.widened(if source.contains(':') { 64 } else { 24 }).to_string();
    let signed = match state {
        "host" | "revoked" => grant(source),
        "prefix" => grant(&prefix),
        "other source" => grant("192.0.2.7"),
        "other port" => {
            let port = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 23, last: 23 };
            v1::Grant { ports: vec![port], ..grant(source) }
        }
        "ended" => site.grant(&[source], Duration::from_millis(1_200)),
        "scheduled" => {
            let signed = grant(source);
            v1::Grant { not_before_ms: signed.not_before_ms + 300_000, ..signed }
        }
        "limited" => v1::Grant { max_connections: 1, ..grant(source) },
        _ => return,
    };
    let pushed = site.push(site.sign(&signed));
    // A short one may have ended before it came.
    assert!(pushed.is_ok() || state == "ended", "{pushed:?}");
    match state {
        "revoked" => drop(site.revoke_all()),
        "ended" => thread::sleep(Duration::from_millis(1_300)),
        _ => {}
    }
}

/// Whether a real connection of this peer gets in.
fn connects(site: &Site, client: bool, family: usize, port: u16) -> bool {
    if client { site.client_opens(family, port) } else { site.stranger_opens(family, port) }
}

fn questions() -> usize {
    std::env::var("JIT_TEST_QUESTIONS").map_or(QUESTIONS, |number| number.parse().unwrap())
}

/// Random (source, port, state of grants), a part of them for each hook.
#[track_caller]
fn equals_a_real_connection(hook: &str, seed: u64) {
    let mut site = Site::new();
    let text = site.base("[\"*\"]", hook);
    let second =
        "[[port]]\nport = 23\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n[[signer]]";
    site.write_config(&text.replace("[[signer]]", second));
    site.serve(23);
    site.serve(80);
    site.start();
    let mut random = Random::new(seed);
    let count = questions().div_ceil(3);
    let mut opened = 0;
    for turn in 0..count {
        let (client, family) = (random.chance(70), random.below(2));
        let source = if client { CLIENT[family] } else { STRANGER[family] };
        let granted = if random.chance(80) { source } else { CLIENT[family] };
        let (state, port) = (*random.pick(&STATES), *random.pick(&[22, 22, 23, 80]));
        set_up(&site, state, granted);
        // A grant with a limit is used up by the first real connection.
        for again in 0..if state == "limited" { 2 } else { 1 } {
            let (answer, open) = why(&site, &[source, &port.to_string()]);
            assert_eq!(answer["from_tables"], false, "the agent answers: {answer:#}");
            let real = connects(&site, client, family, port);
            assert_eq!(
                open,
                real,
                "{hook}, turn {turn}.{again} of seed {seed}: {source} to {port}, {state} for \
                 {granted}: {answer:#}\n{}",
                site.log()
            );
            opened += usize::from(open);
        }
    }
    assert!(opened > 0 && opened < count, "all alike: {opened} of {count}");
}

#[test]
fn why_equals_a_real_connection_by_native_xdp() {
    equals_a_real_connection("native", 1);
}

#[test]
fn why_equals_a_real_connection_by_generic_xdp() {
    equals_a_real_connection("generic", 2);
}

#[test]
fn why_equals_a_real_connection_by_a_classifier() {
    equals_a_real_connection("clsact", 3);
}

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// Everything in the tables that packets change.
fn counted(site: &Site) -> BTreeMap<&'static str, Table> {
    let pins = Pins::new(site.pins());
    let cpus = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let cpus: usize = cpus.trim().rsplit('-').next().unwrap().parse::<usize>().unwrap() + 1;
    let names = [
        (map::COUNTERS, cpus),
        (map::FIRST_PORTS, cpus),
        (map::PORT_COUNTERS, cpus),
        (map::EVENT_BUDGET, cpus),
        (map::PLACES, 1),
        (map::CONNECTIONS, 1),
        (map::SLOTS, 1),
        (map::LAST_COUNTED, 1),
        (map::OPENED_HERE, 1),
        (map::HOST_GRANTS, 1),
        (map::PREFIX_GRANTS_V4, 1),
    ];
    let mut all = BTreeMap::new();
    for (name, copies) in names {
        let path = pins.map(name);
        let info = MapInfo::from_pin(&path).unwrap();
        let sizes = [info.key_size(), info.value_size()].map(|size| size as usize);
        let value = if copies > 1 { sizes[1].next_multiple_of(8) * copies } else { sizes[1] };
        let table = bpf::open_pin(&path).unwrap();
        let rows: &mut Table = all.entry(name).or_default();
        let mut from = None;
        loop {
            let batch = bpf::read_batch(&table, (sizes[0], value), from.as_deref(), 4096).unwrap();
            let (keys, values) = (batch.keys.chunks(sizes[0]), batch.values.chunks(value));
            rows.extend(keys.zip(values).take(batch.count).map(|(k, v)| (k.to_vec(), v.to_vec())));
            from = batch.next;
            if from.is_none() {
                break;
            }
        }
    }
    // ND and MLD of the interfaces go on meanwhile.
    for reason in [Reason::NotIp, Reason::OtherProtocol] {
        let key = Counter::Reason(reason).index().to_ne_bytes().to_vec();
        all.get_mut(map::COUNTERS).unwrap().remove(&key);
    }
    all
}

fn audit_lines(site: &Site) -> usize {
    std::fs::read_to_string(site.path("state/audit/audit.jsonl")).unwrap().lines().count()
}

#[test]
fn why_counts_nowhere() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    let limited = v1::Grant { max_connections: 3, ..site.grant(&[STRANGER[0]], LONG) };
    site.push(site.sign(&limited)).unwrap();
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(0, 22));
    thread::sleep(Duration::from_millis(300));
    let ask = |site: &Site| {
        for source in [CLIENT[0], CLIENT[1], STRANGER[0], STRANGER[1], "192.0.2.7"] {
            for _ in 0..4 {
                why(site, &[source, "22"]);
                why(site, &[source, "22", "--udp"]);
            }
        }
    };
    let (before, lines) = (counted(&site), audit_lines(&site));
    ask(&site);
    assert_eq!(counted(&site), before);
    assert_eq!(audit_lines(&site), lines);
    // A place is left, and is still there after many questions.
    assert!(why(&site, &[STRANGER[0], "22"]).1 && site.stranger_gets_in(0, 22));
    site.end(Signal::KILL);
    let before = counted(&site);
    ask(&site);
    assert_eq!(counted(&site), before);
    // The comparison has eyes: a real connection is seen.
    assert!(!site.stranger_opens(1, 22));
    assert_ne!(counted(&site), before);
}

#[test]
fn why_answers_the_same_with_the_agent_dead_and_with_the_agent_hung() {
    let mut site = Site::new();
    site.start();
    site.admit(&[CLIENT[0]], LONG);
    let used = v1::Grant { max_connections: 1, ..site.grant(&[CLIENT[1]], LONG) };
    site.push(site.sign(&used)).unwrap();
    let verdicts = |site: &Site| {
        [CLIENT[0], CLIENT[1], STRANGER[0], STRANGER[1]].map(|source| why(site, &[source, "22"]).1)
    };
    assert_eq!(verdicts(&site), [true, true, false, false]);
    assert!(site.client_gets_in(1, 22));
    wait_until(|| !why(&site, &[CLIENT[1], "22"]).1);
    let alive = verdicts(&site);
    assert_eq!(why(&site, &[CLIENT[0], "22"]).0["from_tables"], false);
    assert_eq!(alive, [true, false, false, false]);
    site.signal(Signal::STOP);
    let began = Instant::now();
    assert!(why(&site, &[CLIENT[0], "22"]).1);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(verdicts(&site), alive);
    site.signal(Signal::CONT);
    site.end(Signal::KILL);
    assert_eq!(verdicts(&site), alive);
    let dead = screen(&site, &[CLIENT[0], "22"]);
    says(&dead, &["OPEN: ", " of ana@example.org lets it in", "no agent answers", "left"]);
    says(&screen(&site, &[CLIENT[1], "22"]), &["CLOSED: ", "used up", "1 of 1 connections"]);
    let other = screen(&site, &[STRANGER[0], "22"]);
    let ask = format!(
        "jitctl grant --signing-key KEY --host {HOST} --source {} --port 22 --for 1h",
        STRANGER[0]
    );
    says(&other, &["CLOSED: ", "no grant covers it", &ask]);
    // Nothing is in the kernel: everything is open.
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    says(&screen(&site, &[STRANGER[0], "22"]), &["OPEN: ", "no program is in the kernel"]);
}

/// From the database and the audit.
#[test]
fn why_names_grants_also_with_the_agent_dead_or_hung() {
    let mut site = Site::new();
    site.start();
    site.admit(&[CLIENT[0], "192.0.2.0/28"], LONG);
    let later = site.grant(&[CLIENT[1]], LONG);
    let later = v1::Grant { not_before_ms: later.not_before_ms + 120_000, ..later };
    site.push(site.sign(&later)).unwrap();
    let of_li = |source: &str, lasts| v1::Grant {
        requester: "li@example.org".into(),
        approvers: vec!["bo@example.org".into()],
        ..site.grant(&[source], lasts)
    };
    site.push(site.sign(&of_li(STRANGER[0], Duration::from_millis(1_200)))).unwrap();
    let revoked = of_li(STRANGER[1], LONG);
    site.push(site.sign(&revoked)).unwrap();
    site.revoke(What::GrantId(revoked.id), false);
    wait_until(|| screen(&site, &[STRANGER[0], "22"]).contains(") ended at "));
    for signal in [Signal::STOP, Signal::KILL] {
        site.signal(signal);
        let ask = |source: &str| screen(&site, &[source, "22"]);
        says(&ask(CLIENT[0]), &["OPEN: ", " of ana@example.org lets it in", "9m", "left"]);
        says(&ask("192.0.2.7"), &["OPEN: ", " of ana@example.org lets it in, for 192.0.2.0/28"]);
        says(&ask(CLIENT[1]), &["CLOSED: ", " of ana@example.org has not begun"]);
        let li = " of li@example.org (signed by test, approved by bo@example.org) ";
        says(&ask(STRANGER[0]), &["CLOSED: ", &format!("{li}ended at ")]);
        says(&ask(STRANGER[1]), &["CLOSED: ", &format!("{li}was revoked")]);
        if signal == Signal::STOP {
            site.signal(Signal::CONT);
        }
    }
    let answer = why(&site, &[CLIENT[0], "22"]).0;
    assert!(answer["decides"]["grant"].is_string() && answer["from_tables"] == true, "{answer:#}");
    assert_eq!(answer["decides"]["grant"], answer["grants"][0]["id"], "{answer:#}");
}

/// Why can this user not get in: each question in one command.
#[test]
fn why_explains_what_is_missing() {
    let mut site = Site::new();
    let text = site.base("[\"*\"]", "auto");
    let text = text.replace(r#"["0.0.0.0/0", "::/0"]"#, r#"["198.51.100.0/24", "203.0.113.0/24"]"#);
    site.write_config(&text);
    site.start();
    let ana = ["--user", "ana@example.org"];
    let ask =
        |site: &Site, source: &str, port: &str| screen(site, &[&[source, port], &ana[..]].concat());
    // Nothing was ever granted.
    says(
        &ask(&site, CLIENT[0], "22"),
        &["CLOSED: ", "no grant covers it", "jitctl grant", "--requester ana@example.org"],
    );
    // No grant could.
    let outside = ask(&site, "192.0.2.7", "22");
    says(&outside, &["CLOSED: ", "no grant can let this source in", "198.51.100.0/24"]);
    assert!(!outside.contains("jitctl grant"), "{outside}");
    // The user comes from another address.
    site.admit(&[STRANGER[0]], LONG);
    says(
        &ask(&site, CLIENT[0], "22"),
        &["CLOSED: ", &format!("is for {}, not for this source", STRANGER[0])],
    );
    // Another grant covers the source.
    site.admit(&["198.51.100.0/24"], LONG);
    let open = ask(&site, CLIENT[0], "22");
    says(&open, &["OPEN: ", "for 198.51.100.0/24", "of ana@example.org", "signed by test", "left"]);
    // The grant was revoked, ended, has not begun.
    site.revoke_all();
    says(&ask(&site, CLIENT[0], "22"), &["CLOSED: ", "was revoked"]);
    site.admit(&[STRANGER[0]], Duration::from_millis(1_200));
    wait_until(|| ask(&site, STRANGER[0], "22").contains(") ended at "));
    let later = site.grant(&[CLIENT[0]], LONG);
    let later = v1::Grant { not_before_ms: later.not_before_ms + 120_000, ..later };
    site.push(site.sign(&later)).unwrap();
    says(&ask(&site, CLIENT[0], "22"), &["CLOSED: ", "has not begun"]);
    // Refused: by the user's name, and by the source.
    let mut refused = site.grant(&[CLIENT[0]], LONG);
    refused.hosts = vec!["another-host".into()];
    site.push(site.sign(&refused)).unwrap_err();
    let says_so = |arguments: &[&str]| {
        let screen = screen(&site, arguments);
        let line = screen.lines().find(|line| line.starts_with("refused"));
        line.is_some_and(|line| line.contains("wrong_host") && line.contains("ana@example.org"))
    };
    wait_until(|| says_so(&[CLIENT[0], "22"]));
    wait_until(|| says_so(&[&["192.0.2.99", "22"], &ana[..]].concat()));
    assert!(!says_so(&["192.0.2.99", "22"]));
    // Not protected; the host itself; no such interface.
    says(&ask(&site, CLIENT[0], "80"), &["OPEN: ", "80/tcp is not protected"]);
    says(&ask(&site, TO_CLIENT[0], "22"), &["OPEN: ", "address of this host"]);
    says(&ask(&site, "127.0.0.1", "22"), &["OPEN: ", "address of this host"]);
    says(&screen(&site, &[CLIENT[0], "22", "--interface", "eth77"]), &["no interface eth77", "c0"]);
}

#[test]
fn why_says_which_interface_has_no_gate() {
    let mut site = Site::new();
    site.configure_gate("[\"c0\"]", "auto");
    site.start();
    let guarded = screen(&site, &[STRANGER[0], "22", "--interface", "s0"]);
    says(&guarded, &["CLOSED: ", "s0  excluded: no gate; the socket guard drops it"]);
    assert!(!site.stranger_opens(0, 22));
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.end(Signal::TERM);
    site.write_config(&text.replace("[gate]", "[gate]\nsocket_guard = false"));
    site.start();
    let open = screen(&site, &[STRANGER[0], "22"]);
    says(&open, &["OPEN: ", "s0 has no gate (excluded)", "no socket guard", "it is closed by c0"]);
    assert!(site.stranger_gets_in(0, 22));
    assert!(!why(&site, &[STRANGER[0], "22", "--interface", "c0"]).1);
}

#[test]
fn why_equals_a_real_connection_in_observe_mode() {
    let mut site = Site::new();
    site.write_config(
        &site.base("[\"*\"]", "auto").replace("[gate]", "[gate]\nmode = \"observe\""),
    );
    site.start();
    for granted in [false, true] {
        if granted {
            site.admit(&[CLIENT[0]], LONG);
        }
        for (client, source) in [(true, CLIENT[0]), (false, STRANGER[0])] {
            assert!(connects(&site, client, 0, 22) && why(&site, &[source, "22"]).1);
            let without = !client || !granted;
            let observes = screen(&site, &[source, "22"]).contains("observe mode lets it pass");
            assert_eq!(observes, without, "{source}");
        }
    }
    site.end(Signal::KILL);
    says(&screen(&site, &[STRANGER[0], "22"]), &["OPEN: ", "observe mode lets it pass"]);
    assert!(site.stranger_gets_in(0, 22));
}

/// Its packets have no Ethernet header, and a program of its own judges them.
#[test]
fn why_equals_a_real_connection_by_a_tun_device() {
    const FROM: [&str; 2] = ["198.18.4.2", "2001:db8:18:4::2"];
    const TO: [&str; 2] = ["198.18.4.1", "2001:db8:18:4::1"];
    let mut site = Site::new();
    tun::connect("t0", &site.host, &site.client);
    for (namespace, [v4, v6]) in [(&site.host, TO), (&site.client, FROM)] {
        namespace.ip_batch(&format!(
            "addr add {v4}/24 dev t0\naddr add {v6}/64 dev t0 nodad\nlink set t0 up\n"
        ));
    }
    let text = site.base("[\"*\"]", "auto");
    site.write_config(&text.replace("[gate]", "[gate]\nsocket_guard = false"));
    site.start();
    let both = |site: &Site, family: usize| {
        let open = why(site, &[FROM[family], "22", "--interface", "t0"]).1;
        let address = SocketAddr::new(TO[family].parse().unwrap(), 22);
        let real = site.client.run(|| opens(address, PATIENCE));
        assert_eq!(open, real, "{}", screen(site, &[FROM[family], "22"]));
        open
    };
    assert_eq!([0, 1].map(|family| both(&site, family)), [false; 2]);
    site.admit(&FROM[..1], LONG);
    assert_eq!([0, 1].map(|family| both(&site, family)), [true, false]);
    site.end(Signal::KILL);
    assert_eq!([0, 1].map(|family| both(&site, family)), [true, false]);
}

/// Whether a datagram of the client gets an answer.
fn answers(site: &Site, port: u16) -> bool {
    site.client.run(|| {
        let socket = UdpSocket::bind((CLIENT[0].parse::<IpAddr>().unwrap(), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send_to(b"ping", (TO_CLIENT[0].parse::<IpAddr>().unwrap(), port)).unwrap();
        socket.recv(&mut [0; 8]).is_ok()
    })
}

#[test]
fn why_answers_for_datagrams() {
    let mut site = Site::new();
    let text = site.base("[\"*\"]", "auto");
    let second =
        "[[port]]\nport = 53\nprotocol = \"udp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n[[signer]]";
    site.write_config(&text.replace("[[signer]]", second));
    site.start();
    for port in [53, 54] {
        let server = site.host.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        thread::spawn(move || {
            let mut bytes = [0; 8];
            while let Ok((_, from)) = server.recv_from(&mut bytes) {
                let _gone = server.send_to(b"pong", from);
            }
        });
    }
    let both = |port: u16| {
        let open = why(&site, &[CLIENT[0], &port.to_string(), "--udp"]).1;
        assert_eq!(open, answers(&site, port), "port {port}");
        open
    };
    assert_eq!((both(53), both(54)), (false, true));
    says(&screen(&site, &[CLIENT[0], "53", "--udp"]), &["53/udp", "--port 53/udp"]);
    let port = v1::PortRange { protocol: v1::Protocol::Udp.into(), first: 53, last: 53 };
    let grant = v1::Grant { ports: vec![port], ..site.grant(&[CLIENT[0]], LONG) };
    site.push(site.sign(&grant)).unwrap();
    assert!(both(53));
}

#[test]
fn why_takes_a_few_milliseconds_by_the_agent() {
    let mut site = Site::new();
    site.start();
    why(&site, &[CLIENT[0], "22"]);
    let fastest = (0..20).map(|_| {
        let began = Instant::now();
        why(&site, &[CLIENT[0], "22"]);
        began.elapsed()
    });
    let fastest = fastest.min().unwrap();
    // Of a debug build, with the start of the process and the call into its namespace.
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}
