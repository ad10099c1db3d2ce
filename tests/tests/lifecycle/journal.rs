//! The log of a real agent: records for the journal, and one line for a peer that fails again and
//! again.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, STRANGER, Site};
use rustix::process::Signal;

use crate::controllers;

const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the agent as systemd does: JOURNAL_STREAM names its standard error. `directory` is in the
/// place of the journal's.
fn start_under_a_journal(site: &mut Site, directory: &Path) {
    let log = fs::File::create(site.path("log")).unwrap();
    let found = log.metadata().unwrap();
    let mut agent = site.command(&["run"]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-euc"]);
    command.arg(
        "mount -t tmpfs none /run && mkdir -p /run/systemd/journal\n\
         mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"",
    );
    command.arg("sh").arg(directory).arg(agent.get_program()).args(agent.get_args());
    command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    agent.stderr(Stdio::null());
    let child = site.host.start(&mut command);
    site.adopt_process(child);
}

fn listen(directory: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(directory.join("socket")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The next record that has this in its message. Every field has its length: `NAME\n`, 8 bytes, the
/// value, `\n`.
#[track_caller]
fn receive(socket: &UnixDatagram, says: &str) -> BTreeMap<String, String> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{says}: {error}"));
        let mut rest = &buffer[..length];
        let mut fields = BTreeMap::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(rest[..end].to_vec()).unwrap();
            let size = u64::from_le_bytes(rest[end + 1..end + 9].try_into().unwrap());
            let value = end + 9..end + 9 + usize::try_from(size).unwrap();
            fields.insert(name, String::from_utf8(rest[value.clone()].to_vec()).unwrap());
            assert_eq!(rest[value.end], b'\n');
            rest = &rest[value.end + 1..];
        }
        if fields.get("MESSAGE").is_some_and(|message| message.contains(says)) {
            return fields;
        }
    }
}

#[test]
fn under_systemd_the_journal_gets_records_with_fields_and_standard_error_nothing() {
    let mut site = Site::new();
    let directory = tempfile::tempdir().unwrap();
    let socket = listen(directory.path());
    start_under_a_journal(&mut site, directory.path());
    let record = receive(&socket, "gate attached");
    assert!(["c0", "s0"].contains(&record["JIT_INTERFACE"].as_str()), "{record:?}");
    site.admit(&[CLIENT[0]], LONG);
    let record = receive(&socket, "grant activated");
    assert_eq!(record["PRIORITY"], "6");
    assert_eq!(record["SYSLOG_IDENTIFIER"], "jit-agent");
    assert_eq!(record["JIT_REQUESTER"], "ana@example.org");
    assert_eq!(record["JIT_CODE"], "G001");
    assert_eq!(record["JIT_GRANT"].len(), 26);
    assert!(record["MESSAGE"].contains(&record["JIT_GRANT"]), "{record:?}");
    let mut elsewhere = site.grant(&[STRANGER[0]], LONG);
    elsewhere.hosts = vec!["another".into()];
    site.push(site.sign(&elsewhere)).unwrap_err();
    let record = receive(&socket, "grant refused");
    assert_eq!((record["PRIORITY"].as_str(), record["JIT_REASON"].as_str()), ("4", "wrong_host"));
    assert_eq!(record["JIT_SOURCE"], STRANGER[0]);
    assert_eq!(record["JIT_PORT"], "22/tcp");
    // A journal that was restarted gets what is logged from then on.
    drop(socket);
    fs::remove_file(directory.path().join("socket")).unwrap();
    assert_eq!(site.revoke_all(), 1);
    let (status, _) = site.status();
    assert!(status["log"]["dropped_lines"].as_u64().unwrap() > 0, "{}", status["log"]);
    let socket = listen(directory.path());
    site.admit(&[CLIENT[0]], LONG);
    receive(&socket, "grant activated");
    receive(&socket, "lines of this log were dropped");
    site.end(Signal::TERM);
    receive(&socket, "ending; the gate stays in force");
    assert_eq!(fs::read_to_string(site.path("log")).unwrap(), "");
}

#[test]
fn a_journal_that_is_stopped_holds_up_nothing() {
    let mut site = Site::new();
    let directory = tempfile::tempdir().unwrap();
    // It listens, and takes nothing.
    let _stopped = listen(directory.path());
    start_under_a_journal(&mut site, directory.path());
    for _ in 0..40 {
        site.admit(&[CLIENT[0]], LONG);
        let began = Instant::now();
        assert!(site.revoke_all() >= 1);
        assert!(began.elapsed() < Duration::from_secs(3));
    }
    let deadline = Instant::now() + PATIENCE;
    while !site.status().0["problems"].to_string().contains("takes no line") {
        assert!(Instant::now() < deadline, "{}", site.status().0["log"]);
        site.admit(&[CLIENT[0]], LONG);
    }
    site.end(Signal::TERM);
}

#[test]
fn two_hundred_garbage_connections_of_one_source_are_one_line_and_a_count() {
    let site = controllers::site();
    let failed = || site.log().matches("TLS handshake failed").count();
    site.stranger.run(|| {
        for number in 0..200 {
            let mut stream = TcpStream::connect("203.0.113.1:7443").unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let garbage: &[u8] =
                if number % 2 == 0 { b"GET / HTTP/1.1\r\n\r\n" } else { &[0; 600] };
            stream.write_all(garbage).unwrap_or_default();
            let _closed = stream.read_to_end(&mut Vec::new());
        }
    });
    let deadline = Instant::now() + Duration::from_secs(100);
    while !site.log().contains("more connections failed or were closed within a minute") {
        assert!(Instant::now() < deadline, "{}", site.log());
        thread::sleep(Duration::from_millis(500));
    }
    let log = site.log();
    assert_eq!(failed(), 1, "{log}");
    let sums: Vec<_> =
        log.lines().filter(|line| line.contains("more connections failed or")).collect();
    assert!(sums.len() == 1 && sums[0].contains("more=199"), "{sums:?}");
    assert!(sums[0].contains("203.0.113.0/24"), "{sums:?}");
}

#[test]
fn refused_pushes_of_one_controller_for_one_reason_are_one_line_and_a_count() {
    let mut site = Site::new();
    site.start();
    for _ in 0..200 {
        let mut elsewhere = site.grant(&[CLIENT[0]], LONG);
        elsewhere.hosts = vec!["another".into()];
        site.push(site.sign(&elsewhere)).unwrap_err();
    }
    site.push(jit_proto::v1::Envelope::default()).unwrap_err();
    let refused = |of: &str| {
        let log = site.log();
        log.lines().filter(|line| line.contains("grant refused") && line.contains(of)).count()
    };
    let deadline = Instant::now() + Duration::from_secs(100);
    // The log's thread writes after the answer.
    while refused("") < 2 {
        assert!(Instant::now() < deadline, "{}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((refused("wrong_host"), refused("")), (1, 2), "{}", site.log());
    while !site.log().contains("more grants were refused within a minute") {
        assert!(Instant::now() < deadline, "{}", site.log());
        thread::sleep(Duration::from_millis(500));
    }
    assert!(site.log().contains("more=199"), "{}", site.log());
}

#[test]
fn a_reload_says_what_changed_and_names_all_that_needs_a_restart() {
    let mut site = Site::new();
    site.start();
    let reload = |says: &[&str]| {
        site.signal(Signal::HUP);
        let deadline = Instant::now() + PATIENCE;
        while !says.iter().all(|says| site.log().contains(says)) {
            assert!(Instant::now() < deadline, "{says:?}: {}", site.log());
            thread::sleep(Duration::from_millis(50));
        }
    };
    reload(&["reload: the file says the same as before"]);
    site.configure("[limits]\nmax_duration = \"2h\"\n[metrics]\nlisten = \"127.0.0.1:9477\"\n");
    reload(&[
        "reload: [limits] max_duration 86400s -> 7200s",
        "reload: [metrics] listen nowhere -> 127.0.0.1:9477",
    ]);
    site.configure("[limits]\nhosts = 77\nprefixes = 88\n");
    let text = "[limits] hosts 131072 -> 77, [limits] prefixes 16384 -> 88 cannot change without a \
                restart: nothing changed";
    reload(&[text]);
    assert!(site.status().0["configuration"]["refused"].as_str().unwrap().contains(text));
}
