//! What surrounds the gate hangs or goes: the reader of the log, the disk of database and audit, the
//! reader of a command's output. The gate goes on, closes at once what is revoked, and ends when it
//! must.

use std::{
    fs::{self, File},
    io::{self, PipeReader, Read as _},
    os::unix::net::UnixDatagram,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, STRANGER, Site, TO_CLIENT, address, opens},
    disk::Freezable,
    programs::binary,
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);
/// A revocation closes in the kernel within this time, whatever hangs, also on a busy machine: the
/// hang itself has no end.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The agent ends within this time after SIGTERM, with room for a busy machine.
const END: Duration = Duration::from_secs(4);

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: it did not happen within 20 s");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Starts the agent with a pipe as its standard error, and the longest log that there is.
fn start_into_pipe(site: &mut Site, command: &mut Command) -> PipeReader {
    let (reader, writer) = io::pipe().unwrap();
    command.env("RUST_LOG", "debug");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let child = site.host.start(command);
    // The pipe's end of this process.
    command.stderr(Stdio::null());
    site.adopt_process(child);
    reader
}

/// Has the agent log the frames of many calls: several times a pipe's 64 KiB.
fn cause_lines(site: &Site) {
    let answered = site.call(async |mut client| {
        for _ in 0..300 {
            client.list(v1::ListRequest::default()).await?;
        }
        Ok(())
    });
    answered.unwrap();
}

fn revoke_all(site: &Site) -> (v1::RevokeResponse, Duration) {
    let what = Some(v1::revoke_request::What::All(true));
    let request = v1::RevokeRequest { what, reason: "test".into(), cut: false };
    let began = Instant::now();
    let answer = site.call(async |mut client| client.revoke(request).await).unwrap();
    (answer.into_inner(), began.elapsed())
}

/// What `status` says about the log.
fn log_problem(site: &Site) -> String {
    let (status, code) = site.status();
    let problem = status["log"]["problem"].as_str().unwrap_or_default().to_owned();
    let problems = status["problems"].to_string();
    assert!(problem.is_empty() || !problems.contains(&problem) || code == 1, "{problems}");
    if problems.contains(&problem) { problem } else { String::new() }
}

#[test]
fn without_a_reader_of_its_log_the_agent_lives_and_answers_truly() {
    let mut site = Site::new();
    let mut command = site.command(&["run"]);
    let reader = start_into_pipe(&mut site, &mut command);
    drop(reader);
    // Each of these writes a line.
    site.admit(&CLIENT, LONG);
    cause_lines(&site);
    site.assert_open_to_the_client_alone();
    wait_for("a problem", || log_problem(&site).contains("Broken pipe"));
    let (status, _) = site.status();
    assert!(status["log"]["dropped_lines"].as_u64().unwrap() > 1_000, "{}", status["log"]);
    assert_eq!(site.revoke_all(), 1);
    site.assert_closed_to_all();
    site.end(Signal::TERM);
}

#[test]
fn with_a_stopped_reader_of_its_log_a_revocation_closes_at_once() {
    let mut site = Site::new();
    let mut command = site.command(&["run"]);
    let mut reader = start_into_pipe(&mut site, &mut command);
    site.admit(&CLIENT, LONG);
    cause_lines(&site);
    let began = Instant::now();
    let revoked = Command::new(binary("jitctl"))
        .arg("--socket")
        .arg(site.path("run/agent.sock"))
        .args(["revoke", "--all", "--yes", "--reason", "test"])
        .output()
        .unwrap();
    let took = began.elapsed();
    assert!(revoked.status.success() && took < AT_ONCE, "{took:?}: {revoked:?}");
    site.assert_closed_to_all();
    wait_for("a problem", || log_problem(&site).contains("takes no line"));
    // More than the queue holds.
    wait_for("dropped lines", || {
        cause_lines(&site);
        site.status().0["log"]["dropped_lines"].as_u64().unwrap() > 0
    });
    let screen = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(screen.contains("lines dropped: nobody took them in time"), "{screen}");
    // The reader is back: it gets the number of lines that it missed.
    let reading = thread::spawn(move || {
        let (mut text, mut bytes) = (String::new(), [0; 65_536]);
        while !text.contains("lines of this log were dropped") {
            let read = reader.read(&mut bytes).unwrap();
            assert!(read > 0, "the agent has ended");
            text.push_str(&String::from_utf8_lossy(bytes.get(..read).unwrap()));
        }
        reader
    });
    wait_for("the number", || reading.is_finished());
    let _reader = reading.join().unwrap();
    wait_for("no problem", || site.status().1 == 0);
    // It stops again: the agent ends all the same.
    for _ in 0..3 {
        cause_lines(&site);
    }
    let began = Instant::now();
    site.end(Signal::TERM);
    assert!(began.elapsed() < END, "{:?}", began.elapsed());
}

/// The time until the client cannot open a connection any more.
fn time_to_closed(site: &Site) -> Duration {
    let began = Instant::now();
    loop {
        let tried = began.elapsed();
        assert!(tried < AT_ONCE, "it is still open");
        let within = Duration::from_millis(300);
        if !site.client.run(|| opens(address(TO_CLIENT, 0, 22), within)) {
            return tried;
        }
    }
}

/// The state of a process: `S`, `D`, `Z` (man 5 proc, `stat`).
fn state(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
    rest.split_whitespace().next().unwrap_or("gone").to_owned()
}

/// Log, database and audit hang together.
#[test]
fn with_log_and_disk_stalled_nothing_opens_and_a_revocation_closes_at_once() {
    let mut site = Site::new();
    let disk = Freezable::mount(site.path("state"));
    let manager = UnixDatagram::bind(site.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command = site.command(&["run"]);
    command.env("NOTIFY_SOCKET", site.path("notify"));
    let reader = start_into_pipe(&mut site, &mut command);
    let envelope = site.envelope(&CLIENT, LONG);
    site.push(envelope.clone()).unwrap();
    cause_lines(&site);
    disk.freeze();
    let began = Instant::now();
    let refused = site.push(site.envelope(&STRANGER, LONG)).unwrap_err();
    println!("a push that meets the stall: {:?}", began.elapsed());
    assert!(refused.message().starts_with("storage"), "{refused}");
    let (revoked, took, closed) = thread::scope(|scope| {
        let answer = scope.spawn(|| revoke_all(&site));
        let closed = time_to_closed(&site);
        let (revoked, took) = answer.join().unwrap();
        (revoked, took, closed)
    });
    println!("a revocation during the stall: closed after {closed:?}, answered after {took:?}");
    assert_eq!(revoked.revoked, 1, "{revoked:?}");
    assert!(took < END, "{took:?}");
    assert!(revoked.warning.contains("not durable"), "{}", revoked.warning);
    site.assert_closed_to_all();
    let (status, code) = site.status();
    let problems = status["problems"].to_string();
    assert!(code == 1 && problems.contains("the disk does not answer"), "{problems}");
    // The gate's task is alive and says so: all but the last datagram are of before.
    let mut bytes = [0; 256];
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut bytes).is_ok() {}
    manager.set_nonblocking(false).unwrap();
    let read = manager.recv(&mut bytes).unwrap();
    assert_eq!(bytes.get(..read).unwrap().trim_ascii(), b"WATCHDOG=1");
    // Everything that waited is written.
    disk.thaw();
    wait_for("no problem of the disk", || {
        !site.status().0["problems"].to_string().contains("the disk does not answer")
    });
    site.end(Signal::KILL);
    drop(reader);
    site.start();
    site.assert_closed_to_all();
    let replay = site.push(envelope).unwrap_err();
    assert!(replay.message().starts_with("revoked"), "{replay}");
    site.admit(&CLIENT, LONG);
    // SIGTERM ends it. The kernel keeps a thread that hangs in it, until the disk answers.
    disk.freeze();
    let refused = site.push(site.envelope(&STRANGER, LONG)).unwrap_err();
    assert!(refused.message().starts_with("storage"), "{refused}");
    let (pid, began) = (site.pid(), Instant::now());
    site.signal(Signal::TERM);
    wait_for("its end", || ["Z", "X", "gone"].contains(&state(pid).as_str()));
    assert!(began.elapsed() < END, "{:?}", began.elapsed());
    disk.thaw();
    site.end(Signal::TERM);
    site.start();
    site.assert_open_to_the_client_alone();
    site.end(Signal::TERM);
    drop(disk);
}

/// Runs a command whose standard output is a pipe that nobody reads any more.
fn into_closed_pipe(site: &Site, command: &mut Command) -> Output {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    command.stdin(Stdio::null()).stdout(writer).current_dir(site.path(""));
    site.host.run(|| command.output().unwrap())
}

/// Fails unless the command ends quietly with this exit code.
#[track_caller]
fn assert_quiet(site: &Site, command: &mut Command, exit: i32) {
    let Output { status, stderr, .. } = into_closed_pipe(site, command);
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!((status.code(), said.as_ref()), (Some(exit), ""), "{command:?}");
    // With standard error closed as well, there is nowhere to report it.
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let both = into_closed_pipe(site, command.stderr(writer));
    let again = [Some(exit), Some(78)].contains(&both.status.code());
    assert!(again, "{command:?}: {both:?}");
}

fn agent(site: &Site, arguments: &str) -> Command {
    site.command(&arguments.split_whitespace().collect::<Vec<_>>())
}

fn jitctl(site: &Site, arguments: &str) -> Command {
    let mut command = Command::new(binary("jitctl"));
    command.arg("--socket").arg(site.path("run/agent.sock"));
    command.args(arguments.split_whitespace()).env("USER", "ana");
    command
}

#[test]
fn no_command_panics_when_nobody_reads_its_output() {
    let mut site = Site::new();
    site.start();
    for arguments in [
        "status",
        "status --json",
        "grants --all",
        "grants --all --json",
        "check",
        "audit verify",
        "audit verify --json",
        "audit show",
        "audit show --json",
        "audit follow",
        "--help",
        "--version",
    ] {
        assert_quiet(&site, &mut agent(&site, arguments), 0);
    }
    let grant = "grant --signing-key own.key --host test-host --source 198.51.100.2 --port 22 \
                 --why test --for 60s";
    for (arguments, exit) in [
        ("keygen --algorithm ed25519 --out own", 0),
        ("pki init --dir pki --name ours", 0),
        ("pki issue --dir pki --name agent --dns web-1.example.org", 0),
        (&format!("{grant} --out own.grant"), 0),
        ("list --all", 0),
        ("list --json", 0),
        ("status", 0),
        ("status --json", 0),
        ("policy show", 0),
        ("policy show --json", 0),
        // The host does not know the key.
        ("push own.grant", 77),
        ("push own.grant --json", 77),
        // There is nothing to revoke.
        ("revoke --all --yes --reason test", 1),
        ("revoke --all --yes --reason test --json", 1),
        ("--help", 0),
    ] {
        let command = &mut jitctl(&site, arguments);
        let Output { status, stderr, .. } = into_closed_pipe(&site, command);
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(exit), "{arguments}: {said}");
        assert!(!said.contains("panicked"), "{arguments}: {said}");
    }
    // A command that goes on for ever ends with its reader.
    let (_, writer) = io::pipe().unwrap();
    let mut command = jitctl(&site, "watch");
    let mut watching = site.host.start(command.stdin(Stdio::null()).stdout(writer));
    drop(command);
    wait_for("the end of `watch`", || {
        drop(site.push(site.envelope(&CLIENT, LONG)));
        watching.try_wait().unwrap().is_some()
    });
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    site.end(Signal::TERM);
    assert_quiet(&site, &mut agent(&site, "status"), 1);
    assert_quiet(&site, &mut agent(&site, "detach --yes"), 0);
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let mut site = Site::new();
    site.start();
    let full = |mut command: Command| {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let Output { status, stderr, .. } =
            site.host.run(|| command.stdout(file).output().unwrap());
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let of_agent = [
        "status",
        "status --json",
        "grants",
        "grants --json",
        "why 198.51.100.2 22",
        "why 198.51.100.2 22 --json",
        "denials",
        "denials --json",
        "check",
        "audit show",
        "audit show --json",
        "audit verify",
        "audit verify --json",
        "audit follow",
        "--help",
        "status --help",
        "--version",
    ];
    let of_jitctl = ["status", "status --json", "list", "list --json", "policy show", "--help"];
    let agents = of_agent.map(|arguments| (arguments, agent(&site, arguments), 69));
    let jitctls = of_jitctl.map(|arguments| (arguments, jitctl(&site, arguments), 78));
    for (arguments, command, exit) in agents.into_iter().chain(jitctls) {
        let (code, said) = full(command);
        assert_eq!(code, Some(exit), "{arguments}: {said}");
        let says = said.contains("cannot write to standard output: No space left");
        assert!(says, "{arguments}: {said}");
    }
}
