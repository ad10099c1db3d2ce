//! A host that nobody can dial: it connects to a hub, and the hub opens and closes it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1::{self, revoke_request::What};
use jit_tests::{
    agent::{CLIENT, Site},
    revoker::{REVOKER, Revoker, delivery},
};
use rustix::process::Signal;

use crate::{
    controllers::jitctl,
    hub::{Hub, Shows, assert_uplink, proxy, stranger, write},
};

const LONG: Duration = Duration::from_secs(600);
/// The longest time until an agent is connected again: a pause, and what a slow machine takes.
pub(crate) const BACK: Duration = Duration::from_secs(20);
const HUB: &str = "spiffe://example.org/hub";
const READER: &str = "spiffe://example.org/reader";

/// A site with certificates, whose agent does not run yet.
pub(crate) fn site() -> Site {
    let site = Site::new();
    for directory in ["pki", "foreign"] {
        jitctl(&site, &["pki", "init", "--dir", directory]);
        for (name, uri) in
            [("hub", HUB), ("reader", READER), ("unknown", "spiffe://example.org/unknown")]
        {
            let ip = ["--ip", CLIENT[0], "--uri", uri];
            let issue = ["pki", "issue", "--dir", directory, "--name", name];
            jitctl(&site, &[&issue[..], &ip].concat());
        }
    }
    let other = ["pki", "issue", "--dir", "pki", "--name", "other", "--ip", "192.0.2.9"];
    jitctl(&site, &[&other[..], &["--uri", HUB]].concat());
    renew(&site);
    site
}

/// Issues the agent's certificate.
fn renew(site: &Site) {
    for file in ["pki/agent.pem", "pki/agent.key"] {
        let _first = fs::remove_file(site.path(file));
    }
    jitctl(
        site,
        &["pki", "issue", "--dir", "pki", "--name", "agent", "--dns", "web-1.example.org"],
    );
}

/// Only an uplink, to these ports of the client.
pub(crate) fn configure(site: &Site, ports: &[u16], more: &str) {
    let hubs: Vec<_> = ports.iter().map(|port| format!("\"{}:{port}\"", CLIENT[0])).collect();
    let hubs = hubs.join(", ");
    site.configure(&format!(
        r#"
[uplink]
hubs = [{hubs}]
certificate = "pki/agent.pem"
key = "pki/agent.key"
ca = "pki/ca.pem"
{more}
[[controller]]
identity = "{HUB}"
may = ["grant", "revoke", "read"]
[[controller]]
identity = "{READER}"
may = ["read"]
"#
    ));
}

pub(crate) fn hub(site: &Site, port: u16, name: &str) -> Hub {
    Hub::start(site, &format!("{}:{port}", CLIENT[0]), &Shows::name(name))
}

fn all(what: bool) -> v1::RevokeRequest {
    v1::RevokeRequest { what: Some(What::All(what)), reason: "test".into(), cut: false }
}

pub(crate) fn is_connected(uplink: &serde_json::Value) -> bool {
    uplink["connected"] == true
}

/// Says that its last error has these words.
fn failed(words: &str) -> impl Fn(&serde_json::Value) -> bool {
    move |uplink| {
        uplink["connected"] == false
            && uplink["last_error"].as_str().is_some_and(|error| error.contains(words))
    }
}

#[test]
fn a_hub_opens_and_closes_a_host_that_listens_nowhere() {
    let mut site = site();
    let hub = hub(&site, 7444, "hub");
    configure(&site, &[7444], "");
    site.start();
    let mut agent = hub.agent(BACK);
    let status = assert_uplink(&site, BACK, is_connected);
    let uplink = &status["uplink"];
    assert_eq!(uplink["hub"], format!("{}:7444", CLIENT[0]), "{uplink}");
    assert!(uplink["since"].is_string() && uplink["certificate_not_after"].is_string(), "{uplink}");
    assert_eq!((status["control"].is_null(), site.status().1), (true, 0), "{status:#}");
    let listening = site.host.run(|| {
        let ss = std::process::Command::new("ss").args(["-Hltn"]).output().unwrap();
        String::from_utf8(ss.stdout).unwrap()
    });
    let others: Vec<_> = listening.lines().filter(|line| !line.contains(":22 ")).collect();
    assert!(others.is_empty() && listening.contains(":22 "), "{listening}");
    // The hub sees the same as the local command.
    let seen = hub.run(agent.status()).unwrap();
    assert!(seen.uplink.is_some_and(|uplink| uplink.connected));
    let grant = site.envelope(&CLIENT, LONG);
    assert!(hub.run(agent.push(grant)).unwrap().accepted);
    site.assert_open_to_the_client_alone();
    let began = Instant::now();
    assert_eq!(hub.run(agent.revoke(all(true))).unwrap().revoked, 1);
    assert!(!site.client_opens(0, 22));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let text = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(text.contains(&format!("uplink {}:7444 connected", CLIENT[0])), "{text}");
}

#[test]
fn a_hub_may_do_no_more_than_its_section_says() {
    let mut site = site();
    let hub = hub(&site, 7444, "reader");
    configure(&site, &[7444], "");
    site.start();
    let mut agent = hub.agent(BACK);
    assert!(hub.run(agent.status()).is_ok());
    for denied in [
        hub.run(agent.revoke(all(true))).map(drop).unwrap_err(),
        hub.run(agent.push(site.envelope(&CLIENT, LONG))).map(drop).unwrap_err(),
    ] {
        assert!(denied.to_string().contains("not_permitted"), "{denied}");
    }
    site.assert_closed_to_all();
}

#[test]
fn a_hub_that_may_only_grant_delivers_what_a_key_revokes() {
    let mut site = site();
    let granter = "spiffe://example.org/granter";
    let issue = ["pki", "issue", "--dir", "pki", "--name", "granter", "--ip", CLIENT[0]];
    jitctl(&site, &[&issue[..], &["--uri", granter]].concat());
    let hubs = [hub(&site, 7444, "granter"), hub(&site, 7445, "reader")];
    let revoker = Revoker::new(&site);
    let section = format!("[[controller]]\nidentity = \"{granter}\"\nmay = [\"grant\"]\n");
    configure(&site, &[7444], &format!("{REVOKER}{section}"));
    site.start();
    let mut agent = hubs[0].agent(BACK);
    let [early, late] = [(); 2].map(|()| site.envelope(&CLIENT, LONG));
    assert!(hubs[0].run(agent.push(early)).unwrap().accepted);
    site.assert_open_to_the_client_alone();
    let unsigned = hubs[0].run(agent.revoke(all(true))).unwrap_err();
    assert!(unsigned.to_string().contains("not_permitted"), "{unsigned}");
    let everything = revoker.all();
    let began = Instant::now();
    let done = hubs[0].run(agent.revoke(delivery(everything.clone()))).unwrap();
    assert_eq!((done.revoked, done.reason.as_str(), done.warning.as_str()), (1, "ok", ""));
    let closed = loop {
        let asked = began.elapsed();
        if !site.client_opens(0, 22) {
            break asked;
        }
    };
    println!("closed {closed:?} after the call");
    assert!(closed < Duration::from_secs(1), "{closed:?}");
    site.assert_closed_to_all();
    let refused = hubs[0].run(agent.push(late)).unwrap_err();
    assert!(refused.to_string().contains("revoked"), "{refused}");
    assert!(hubs[0].run(agent.push(site.envelope(&CLIENT, LONG))).unwrap().accepted);
    site.assert_open_to_the_client_alone();
    // A hub that may only read delivers it again, and then another one.
    configure(&site, &[7445], &format!("{REVOKER}{section}"));
    site.signal(Signal::HUP);
    let mut agent = hubs[1].agent(BACK);
    let again = hubs[1].run(agent.revoke(delivery(everything))).unwrap();
    assert_eq!((again.revoked, again.reason.as_str()), (0, "known"));
    site.assert_open_to_the_client_alone();
    let more = hubs[1].run(agent.revoke(delivery(revoker.all()))).unwrap();
    assert_eq!((more.revoked, more.reason.as_str()), (1, "ok"));
    site.assert_closed_to_all();
}

#[test]
fn who_is_no_hub_of_this_host_is_named_and_not_called() {
    let mut site = site();
    let at = |port: u16| format!("{}:{port}", CLIENT[0]);
    let shows = |authority, name| Shows { authority, ..Shows::name(name) };
    let h2 = Shows { alpn: b"h2", ..Shows::name("hub") };
    let _quiet = [
        Hub::start(&site, &at(7501), &shows("foreign", "hub")),
        Hub::start(&site, &at(7502), &shows("pki", "other")),
        Hub::start(&site, &at(7503), &shows("pki", "unknown")),
        Hub::start(&site, &at(7504), &h2),
    ];
    stranger(&site, &at(7505), |mut stream| {
        let _gone = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        thread::sleep(LONG);
    });
    stranger(&site, &at(7506), |stream| {
        thread::sleep(LONG);
        drop(stream);
    });
    stranger(&site, &at(7507), flood);
    configure(&site, &[7500], "");
    site.start();
    for (port, says) in [
        (7500, "Connection refused"),
        (7501, "does not come from a CA of [uplink] ca"),
        (7502, "does not bear its name"),
        (7503, "no name of its certificate is a [[controller]]'s"),
        (7504, "does not speak the uplink's protocol (ALPN)"),
        (7505, "does not speak TLS 1.3"),
        (7506, "the TLS handshake was not done within 5 s"),
        (7507, "does not speak TLS 1.3"),
    ] {
        configure(&site, &[port], "");
        site.signal(Signal::HUP);
        let status = assert_uplink(&site, BACK, failed(says));
        println!("{port}: {}", status["uplink"]["last_error"]);
    }
}

/// Sends as much as the other side takes.
fn flood(mut stream: TcpStream) {
    while stream.write_all(&[b'x'; 64 * 1024]).is_ok() {}
}

#[test]
fn a_dead_hub_is_passed_over_and_one_that_ends_is_replaced() {
    let mut site = site();
    let first = hub(&site, 7444, "hub");
    configure(&site, &[7443, 7444, 7445], "");
    site.start();
    let agent = first.agent(BACK);
    let second = hub(&site, 7445, "hub");
    assert!(second.try_agent(Duration::from_secs(3)).is_none(), "one hub is enough");
    // A hub without the agent's trust any more: the configuration names another one.
    configure(&site, &[7445], "");
    site.signal(Signal::HUP);
    let mut other = second.agent(BACK);
    assert!(second.run(other.status()).is_ok());
    let mut agent = agent;
    let end = Instant::now() + BACK;
    while first.run(agent.status()).is_ok() {
        assert!(Instant::now() < end, "it may still call");
    }
    // The agent is killed and comes back by itself.
    site.end(Signal::KILL);
    site.start();
    let mut again = second.agent(BACK);
    assert!(second.run(again.push(site.envelope(&CLIENT, LONG))).unwrap().accepted);
    site.assert_open_to_the_client_alone();
    // As does its process for the network.
    let front = site.processes()[1];
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(front.try_into().unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    let mut again = second.agent(BACK);
    assert_eq!(second.run(again.revoke(all(true))).unwrap().revoked, 1);
}

#[test]
fn a_hub_that_closes_at_once_is_not_asked_without_a_pause() {
    let mut site = site();
    let count = stranger(&site, &format!("{}:7444", CLIENT[0]), drop);
    configure(&site, &[7444], "");
    site.start();
    thread::sleep(Duration::from_secs(20));
    let tries = count.load(std::sync::atomic::Ordering::SeqCst);
    println!("{tries} attempts in 20 s");
    // Pauses by chance, up to 0.5, 1, 2, 4, 8 and 16 s.
    assert!((3..=25).contains(&tries), "{tries} attempts in 20 s");
    assert_uplink(&site, BACK, |uplink| uplink["failures"].as_u64() >= Some(3));
}

#[test]
fn a_new_certificate_makes_a_new_connection_before_the_old_one_ends() {
    let mut site = site();
    let hub = hub(&site, 7444, "hub");
    configure(&site, &[7444], "");
    site.start();
    let mut old = hub.agent(BACK);
    renew(&site);
    site.signal(Signal::HUP);
    let mut new = hub.agent(BACK);
    assert!(hub.run(new.status()).is_ok());
    let end = Instant::now() + BACK;
    while hub.run(old.status()).is_ok() {
        assert!(Instant::now() < end, "the old one does not end");
        thread::sleep(Duration::from_millis(50));
    }
    let status = assert_uplink(&site, BACK, is_connected);
    assert_eq!(status["uplink"]["connects"], 2, "{status:#}");
    assert_eq!(hub.connections(), 2);
    // Files that do not fit leave the connection in use alone, and are named.
    write(&site, "pki/agent.key", "nothing");
    site.signal(Signal::HUP);
    let end = Instant::now() + BACK;
    loop {
        let (status, exit) = site.status();
        let named = status["problems"].to_string().contains("[uplink_files]");
        if named {
            assert_eq!((exit, &status["uplink"]["connected"]), (1, &true.into()), "{status:#}");
            break;
        }
        assert!(Instant::now() < end, "{status:#}");
    }
    assert!(hub.run(new.status()).is_ok());
}

#[test]
fn a_cut_link_is_seen_within_half_a_minute_and_mends_by_itself() {
    let mut site = site();
    let hub = hub(&site, 7444, "hub");
    configure(&site, &[7444], "");
    site.start();
    let _cut = hub.agent(BACK);
    assert_uplink(&site, BACK, is_connected);
    // Nothing comes back, and nobody says so.
    site.client.ip(&["link", "set", "p0", "down"]);
    let began = Instant::now();
    assert_uplink(&site, Duration::from_secs(35), |uplink| !is_connected(uplink));
    println!("seen after {:?}", began.elapsed());
    site.client.ip(&["link", "set", "p0", "up"]);
    let mut agent = hub.agent(2 * BACK);
    assert!(hub.run(agent.status()).is_ok());
}

#[test]
fn a_proxy_is_asked_for_the_hub_and_what_it_answers_is_said() {
    let mut site = site();
    let hub = hub(&site, 7444, "hub");
    let at = |port: u16| format!("{}:{port}", CLIENT[0]);
    let through = |port: u16| format!("proxy = \"http://{}\"\n", at(port));
    proxy(&site, &at(3128), "");
    // "ana:secret"
    proxy(&site, &at(3129), "YW5hOnNlY3JldA==");
    let answers: [(u16, &'static [u8]); 3] = [
        (3130, b"HTTP/1.1 403 Forbidden\x1b[31m\r\n\r\n"),
        (3131, b"220 mail.example.org ESMTP\r\n\r\n"),
        (3133, b""),
    ];
    for (port, answer) in answers {
        stranger(&site, &at(port), move |mut stream| {
            let _head = stream.read(&mut [0; 4096]);
            let _gone = stream.write_all(answer);
        });
    }
    stranger(&site, &at(3132), |mut stream| {
        let _gone = stream.write_all(b"HTTP/1.1 200 x\r\nX: ");
        flood(stream);
    });
    configure(&site, &[7444], &through(3128));
    site.start();
    let mut agent = hub.agent(BACK);
    let status = assert_uplink(&site, BACK, is_connected);
    assert_eq!(status["uplink"]["proxy"], at(3128));
    assert!(hub.run(agent.push(site.envelope(&CLIENT, LONG))).unwrap().accepted);
    site.assert_open_to_the_client_alone();
    // The hub by another name of itself is none of the present one: the old connection ends.
    for (port, says) in [
        (3129, "407 Proxy Authentication Required"),
        (3130, "does not allow it (403 Forbidden"),
        (3131, "is no HTTP"),
        (3132, "longer than 8192 bytes"),
        (3133, "closed the connection without an answer"),
        (3134, "Connection refused"),
    ] {
        configure(&site, &[7444], &through(port));
        site.signal(Signal::HUP);
        let said = |uplink: &serde_json::Value| {
            uplink["last_error"].as_str().is_some_and(|error| error.contains(says))
        };
        let status = assert_uplink(&site, BACK, said);
        // What works goes on meanwhile.
        assert_eq!(status["uplink"]["connected"], true, "{port}: {status:#}");
        assert!(!status.to_string().contains('\u{1b}'));
    }
    write(&site, "proxy.login", "ana:secret\n");
    configure(&site, &[7444], &format!("{}proxy_credentials = \"proxy.login\"\n", through(3129)));
    site.signal(Signal::HUP);
    let mut agent = hub.agent(BACK);
    assert!(hub.run(agent.status()).is_ok());
    assert!(!site.log().contains("secret"), "{}", site.log());
}

#[test]
fn a_hub_that_asks_for_a_new_connection_gets_it_before_the_old_one_ends() {
    let mut site = site();
    let hubs = [hub(&site, 7444, "hub"), hub(&site, 7445, "reader")];
    configure(&site, &[7444, 7445], "");
    site.start();
    let connected = |port: u16| {
        let at = format!("{}:{port}", CLIENT[0]);
        move |uplink: &serde_json::Value| is_connected(uplink) && uplink["hub"] == at
    };
    let status = assert_uplink(&site, BACK, is_connected);
    let mut now = usize::from(status["uplink"]["hub"] == format!("{}:7445", CLIENT[0]));
    let mut agent = hubs[now].agent(BACK);
    for turn in 1..=3 {
        hubs[now].run(agent.reconnect()).unwrap();
        let mut next = hubs[1 - now].agent(BACK);
        assert!(hubs[1 - now].run(next.status()).is_ok(), "{turn}");
        assert_uplink(&site, BACK, connected(7445 - u16::try_from(now).unwrap()));
        let end = Instant::now() + BACK;
        while hubs[now].run(agent.status()).is_ok() {
            assert!(Instant::now() < end, "{turn}: the old one does not end");
            thread::sleep(Duration::from_millis(50));
        }
        (now, agent) = (1 - now, next);
    }
    // Who asks without end gets one a second.
    let before = hubs.each_ref().map(Hub::connections).iter().sum::<usize>();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if hubs[now].run(agent.reconnect()).is_err()
            && let Some(next) = hubs[1 - now].try_agent(BACK)
        {
            (now, agent) = (1 - now, next);
        }
    }
    let made = hubs.each_ref().map(Hub::connections).iter().sum::<usize>() - before;
    assert!((1..=7).contains(&made), "{made} in 5 s");
    // Only an uplink can be asked for.
    let local = site.call(async |mut client| client.reconnect(v1::ReconnectRequest {}).await);
    assert_eq!(local.unwrap_err().code(), tonic::Code::FailedPrecondition);
}

#[test]
fn the_services_environment_names_a_proxy_and_who_needs_none() {
    let mut site = site();
    let hub = hub(&site, 7444, "hub");
    let at = format!("{}:3128", CLIENT[0]);
    let asked = proxy(&site, &at, "");
    configure(&site, &[7444], "proxy = \"environment\"\n");
    for (exempt, proxied) in [("192.0.2.0/24", true), ("198.51.100.0/24:7444,x", false)] {
        let mut command = site.command(&["run"]);
        command.env("HTTPS_PROXY", format!("http://{at}")).env("NO_PROXY", exempt);
        let log = fs::OpenOptions::new().create(true).append(true).open(site.path("log")).unwrap();
        command.stdout(std::process::Stdio::null()).stderr(log);
        let before = asked.load(std::sync::atomic::Ordering::SeqCst);
        let child = site.host.start(&mut command);
        site.adopt_process(child);
        let mut agent = hub.agent(BACK);
        assert!(hub.run(agent.status()).is_ok());
        let status = assert_uplink(&site, BACK, is_connected);
        assert_eq!(status["uplink"]["proxy"].is_string(), proxied, "{exempt}: {status:#}");
        let after = asked.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(after > before, proxied, "{exempt}");
        site.end(Signal::TERM);
    }
}

#[test]
fn check_and_doctor_judge_what_an_uplink_needs() {
    let site = site();
    let _hub = hub(&site, 7444, "hub");
    let says = |command: &str, words: &str| {
        let output = site.run(&[command]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = text + &String::from_utf8_lossy(&output.stderr);
        // Long sentences are folded.
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words), "{command}: {words:?} is not in {text}");
    };
    configure(&site, &[7444, 7445], "");
    assert!(site.run(&["check"]).status.success());
    says("doctor", &format!("the hub {}:7444 takes connections", CLIENT[0]));
    says("doctor", &format!("the hub {}:7445: {}:7445: Connection refused", CLIENT[0], CLIENT[0]));
    configure(&site, &[7444], "proxy = \"socks5://192.0.2.1:1080\"\n");
    says("check", "[uplink] proxy: \"socks5://192.0.2.1:1080\" is neither");
    configure(&site, &[7444, 7444], "");
    says("check", "is there twice");
    configure(&site, &[7444], "proxi = \"none\"\n");
    says("check", "did you mean `proxy`?");
    configure(&site, &[7444], "");
    fs::remove_file(site.path("pki/agent.key")).unwrap();
    assert_eq!(site.run(&["check"]).status.code(), Some(78));
    says("check", "[uplink] key: cannot read");
    says("doctor", "[uplink] key: cannot read");
}

#[test]
fn without_a_hub_for_a_minute_a_host_is_degraded_until_there_is_one() {
    let mut site = site();
    configure(&site, &[7444], "");
    site.start();
    let began = Instant::now();
    let (status, exit) = site.status();
    assert_eq!(exit, 0, "a hub may be starting: {status:#}");
    let is_named = |status: &serde_json::Value| {
        let problems = status["problems"].to_string();
        problems.contains("no connection to a hub for more than 60 s")
            && problems.contains("[uplink]")
    };
    loop {
        let (status, exit) = site.status();
        if exit == 1 {
            assert!(is_named(&status), "{status:#}");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{status:#}");
        thread::sleep(Duration::from_millis(500));
    }
    assert!(began.elapsed() > Duration::from_secs(55), "{:?}", began.elapsed());
    let hub = hub(&site, 7444, "hub");
    let _agent = hub.agent(2 * BACK);
    assert_uplink(&site, BACK, is_connected);
    let (status, exit) = site.status();
    assert!(exit == 0 && !is_named(&status), "{status:#}");
}
