//! The metrics of a real agent: what a scrape shows, what promtool says about it and about the shipped
//! rules, and who cannot hold it up.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1::revoke_request::What;
use jit_tests::{
    agent::{CLIENT, STRANGER, Site},
    revoker::{REVOKER, Revoker},
};
use rustix::process::Signal;

use crate::controllers;

const PATIENCE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(600);
const ADDRESS: &str = "127.0.0.1:9477";
pub(crate) const TCP: &str = "\n[metrics]\nlisten = \"127.0.0.1:9477\"\n";
const PAGE: &str = include_str!("../../../jit-agent/docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../jit-agent/docs/dashboard.json");
const ALERTS: &str = include_str!("../../../jit-agent/docs/alerts.yml");

/// What a GET gets: the head and the body.
fn get(mut stream: impl std::io::Read + std::io::Write, path: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.to_owned(), body.to_owned())
}

fn connect(site: &Site) -> Option<TcpStream> {
    let stream = site.host.run(|| TcpStream::connect(ADDRESS)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

/// A scrape of the agent, as soon as it has this in it.
#[track_caller]
pub(crate) fn scrape_with(site: &Site, says: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = connect(site).map(|stream| get(stream, "/metrics")).unwrap_or_default();
        if page.0.starts_with("HTTP/1.1 200 OK") && page.1.contains(says) {
            return page.1;
        }
        assert!(Instant::now() < deadline, "no {says:?} in {page:?}\n{}", site.log());
        thread::sleep(Duration::from_millis(100));
    }
}

/// The names of a scrape's families, as `# TYPE` has them.
fn names(scrape: &str) -> BTreeSet<String> {
    let lines = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The `promtool` that JIT_PROMTOOL names, or that `cargo xtask setup` has unpacked.
fn promtool() -> PathBuf {
    let named = env::var_os("JIT_PROMTOOL").map(PathBuf::from);
    named.unwrap_or_else(|| {
        // target/<profile>/deps/<test>
        let target = env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        target.join("setup/promtool")
    })
}

/// Runs promtool, which must be content and have nothing to remark.
#[track_caller]
fn check(arguments: &[&str], input: &str) {
    let program = promtool();
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo xtask setup` unpacks it", program.display())
    });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

fn docs(name: &str) -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jit-agent/docs");
    docs.join(name).to_str().unwrap().to_owned()
}

/// Names of metrics in expressions of PromQL.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("jit_agent_"));
    words.map(str::to_owned).collect()
}

/// A family's name, without what a histogram's numbers add to it.
fn family<'a>(name: &'a str, known: &BTreeSet<String>) -> &'a str {
    let ends = ["_bucket", "_count", "_sum"];
    let cut = ends.iter().find_map(|end| name.strip_suffix(end));
    cut.filter(|cut| known.contains(*cut)).unwrap_or(name)
}

#[test]
fn a_scrape_has_every_metric_that_page_dashboard_and_alerts_name_and_no_other() {
    let site = controllers::site();
    let text = fs::read_to_string(site.config()).unwrap();
    // Nobody listens there: some metrics are only there with an uplink.
    let uplink = format!(
        "[uplink]\nhubs = [\"{}:7444\"]\ncertificate = \"pki/agent.pem\"\nkey = \"pki/agent.key\"\n\
         ca = \"pki/ca.pem\"\n",
        CLIENT[0]
    );
    // And some with checkpoints: of the key only the public half is needed.
    let _key = Revoker::new(&site);
    let checkpoints = REVOKER.replace("revocation\"", "checkpoint\"") + "[freshness]\n";
    site.write_config(&(text + TCP + &uplink + &checkpoints));
    site.signal(Signal::HUP);
    scrape_with(&site, "jit_agent_state{state=\"enforcing\"} 1");
    scrape_with(&site, "jit_agent_uplink_connected 0");
    site.admit(&[CLIENT[0]], LONG);
    assert!(site.client_gets_in(0, 22) && !site.stranger_opens(0, 22));
    site.admit(&["192.0.2.77"], LONG);
    assert_eq!(site.revoke(What::Source(source("192.0.2.77")), false).revoked, 1);
    let other = site.grant(&[STRANGER[0]], LONG);
    let elsewhere = jit_proto::v1::Grant { hosts: vec!["another".into()], ..other };
    site.push(site.sign(&elsewhere)).unwrap_err();
    let scrape = scrape_with(&site, "jit_agent_grants_refused_total{reason=\"wrong_host\"} 1");
    for line in [
        "jit_agent_observe 0",
        "jit_agent_interfaces{hook=\"xdp_native\"} 2",
        "jit_agent_interface_gated{interface=\"c0\",hook=\"xdp_native\"} 1",
        "jit_agent_socket_guard_attached 1",
        "jit_agent_grants{state=\"active\"} 1",
        "jit_agent_grants_accepted_total{result=\"ok\"} 2",
        "jit_agent_grants_revoked_total 1",
        "jit_agent_capacity_used_entries{table=\"hosts\"} 1",
        "jit_agent_push_duration_seconds_count 3",
        "jit_agent_opening_duration_seconds_count 2",
        "jit_agent_signers{state=\"usable\"} 3",
        "jit_agent_checkpoint_frozen 0",
        "jit_agent_controllers 2",
        "jit_agent_listening 1",
        "jit_agent_clock_trusted 1",
        "jit_agent_configuration_file_in_force 1",
        "jit_agent_break_glass_open 0",
    ] {
        assert!(scrape.lines().any(|found| found == line), "no {line:?} in {scrape}");
    }
    let dropped = "jit_agent_port_dropped_packets_total{port=\"22/tcp\",reason=\"denied\"} ";
    let dropped = scrape.lines().find_map(|line| line.strip_prefix(dropped)).unwrap();
    assert!(dropped.parse::<u64>().unwrap() > 0);
    for secret in [CLIENT[0], STRANGER[0], "ana", "192.0.2.77"] {
        assert!(!scrape.contains(secret), "{secret} in {scrape}");
    }
    check(&["check", "metrics"], &scrape);
    assert_named_are_there(&names(&scrape));
}

fn source(address: &str) -> jit_proto::v1::Source {
    (&address.parse::<jit_proto::SourcePrefix>().unwrap()).into()
}

/// The page lists exactly these names. Dashboard and alerts use no other.
#[track_caller]
fn assert_named_are_there(names: &BTreeSet<String>) {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `jit_agent_"));
    let listed: BTreeSet<_> =
        rows.map(|row| format!("jit_agent_{}", row.split('`').next().unwrap())).collect();
    assert_eq!(listed, *names, "the page (left) and the scrape (right)");
    for (file, text) in [("dashboard.json", DASHBOARD), ("alerts.yml", ALERTS)] {
        let used = named(text);
        assert!(used.len() > 10, "{file}: {used:?}");
        for name in &used {
            assert!(names.contains(family(name, names)), "{file}: {name} is in no scrape");
        }
    }
}

#[test]
fn promtool_accepts_the_shipped_alerts_and_they_fire_when_they_should() {
    check(&["check", "rules", &docs("alerts.yml")], "");
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("promtool/alerts.test.yml");
    check(&["test", "rules", cases.to_str().unwrap()], "");
    // Each alert is met.
    let alerts = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let tests = fs::read_to_string(cases).unwrap();
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
}

/// Each expression of the dashboard as a recording rule, with variables as Grafana fills them in.
#[test]
fn promtool_accepts_every_expression_of_the_dashboard() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 20, "{}", expressions.len());
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        let filled = expression.replace("$__rate_interval", "5m").replace("$instance", "web-1");
        let quoted = serde_json::Value::from(filled);
        rules.push_str(&format!("  - record: panel:{number}\n    expr: {quoted}\n"));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    fs::write(&file, rules).unwrap();
    check(&["check", "rules", file.to_str().unwrap()], "");
}

#[test]
fn scrapers_that_hang_hold_up_neither_the_agent_nor_a_scrape() {
    let mut site = Site::new();
    site.configure(TCP);
    site.start();
    scrape_with(&site, "jit_agent_build_info");
    let hanging: Vec<_> = (0..40)
        .map(|number| {
            let mut stream = connect(&site).unwrap();
            match number % 4 {
                0 => {}
                1 => stream.write_all(b"GET /met").unwrap(),
                2 => stream.write_all(&vec![b'x'; 100_000]).unwrap_or_default(),
                _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap(),
            }
            stream
        })
        .collect();
    site.admit(&[CLIENT[0]], LONG);
    assert!(site.client_gets_in(0, 22));
    // Those before it have had their time by then.
    scrape_with(&site, "jit_agent_grants{state=\"active\"} 1");
    for mut stream in hanging {
        let _ended = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        // All of them are closed, none is left.
        let _reset = stream.read_to_end(&mut rest);
    }
    let (head, _) = get(connect(&site).unwrap(), "/");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[test]
fn an_address_that_is_taken_is_a_fault_that_ends_by_itself() {
    let mut site = Site::new();
    let taken = site.host.run(|| TcpListener::bind(ADDRESS)).unwrap();
    site.configure(TCP);
    site.start();
    let (status, code) = site.status();
    let problems = status["problems"].to_string();
    assert!(code == 1 && problems.contains("cannot serve metrics on"), "{problems}");
    site.admit(&[CLIENT[0]], LONG);
    assert!(site.client_gets_in(0, 22));
    drop(taken);
    scrape_with(&site, "jit_agent_state{state=\"enforcing\"} 1");
    assert_eq!(site.status().1, 0);
}

#[test]
fn a_unix_socket_serves_while_degraded_moves_with_a_reload_and_comes_back_if_it_is_removed() {
    let mut site = Site::new();
    let (first, second) = (site.path("run/metrics.sock"), site.path("run/other.sock"));
    let of = |path: &Path| {
        format!("mode = \"observe\"\n[metrics]\nlisten = \"unix:{}\"\n", path.display())
    };
    // A port in observe mode degrades the state.
    let configure = |site: &Site, path: &Path| {
        site.configure(&format!(
            "[[port]]\nport = 23\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n{}",
            of(path)
        ));
    };
    configure(&site, &first);
    site.start();
    let scrape = |path: &Path| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = UnixStream::connect(path) {
                break get(stream, "/metrics").1;
            }
            assert!(Instant::now() < deadline, "nobody listens on {}", path.display());
            thread::sleep(Duration::from_millis(50));
        }
    };
    assert!(scrape(&first).contains("jit_agent_state{state=\"degraded\"} 1"));
    fs::remove_file(&first).unwrap();
    scrape(&first);
    configure(&site, &second);
    site.signal(Signal::HUP);
    assert!(scrape(&second).contains("jit_agent_build_info"));
    assert!(!first.exists(), "the socket before is removed");
    configure(&site, Path::new("/nowhere/metrics.sock"));
    site.signal(Signal::HUP);
    let deadline = Instant::now() + PATIENCE;
    while !site.status().0["problems"].to_string().contains("/nowhere/metrics.sock") {
        assert!(Instant::now() < deadline, "{}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
}
