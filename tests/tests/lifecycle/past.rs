//! `jit-agent break-glass` past an agent that is dead or hangs: what root opens is open at once, ends in
//! the kernel, and is the agent's own from its next start on. What root did not make opens nothing.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use jit_tests::{
    agent::{CLIENT, STRANGER, Site},
    disk::Disk,
    programs::{binary, copy},
};
use rustix::process::Signal;
use serde_json::Value;

use crate::audit::shown;

const LONG: Duration = Duration::from_secs(600);
/// Longer than the agent takes to review its tables and to give up on an opening.
const REVIEWED: Duration = Duration::from_secs(9);

fn killed(extra: &str) -> Site {
    let mut site = Site::new();
    site.configure(extra);
    site.start();
    wait_until(&site, "the configuration is kept", || {
        site.path("state/configuration.last-good").exists()
    });
    site.end(Signal::KILL);
    site
}

/// Exit code, and what was printed.
fn said(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn arguments<'a>(source: &'a str, port: &'a str, lasts: &'a str) -> [&'a str; 9] {
    ["break-glass", "--source", source, "--port", port, "--for", lasts, "--reason", "disk full"]
}

fn break_glass(site: &Site, source: &str, port: &str, lasts: &str) -> (i32, String) {
    said(&site.run(&arguments(source, port, lasts)))
}

/// Opens port 22, and returns the id.
#[track_caller]
fn open(site: &Site, source: &str, lasts: &str) -> String {
    let (code, text) = break_glass(site, source, "22/tcp", lasts);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with(&format!("BREAK GLASS: 22/tcp is open to {source} until ")), "{text}");
    assert!(text.contains("which end it by themselves"), "{text}");
    let (_, id) = text.split_once("close --grant ").unwrap();
    id.lines().next().unwrap().to_owned()
}

#[track_caller]
fn assert_refused(site: &Site, [source, port, lasts]: [&str; 3], exit: i32, says: &str) {
    let (code, text) = break_glass(site, source, port, lasts);
    assert!(code == exit && text.contains(says), "{says}: {code} {text}");
}

fn with_code(site: &Site, code: &str) -> Vec<Value> {
    shown(site, &[]).into_iter().filter(|record| record["code"] == code).collect()
}

/// The files of openings, in both places.
fn files(site: &Site) -> Vec<PathBuf> {
    let in_place = |place| {
        let files = fs::read_dir(site.path(place).join("openings")).into_iter().flatten();
        files.map(|file| file.unwrap().path())
    };
    in_place("state").chain(in_place("run")).collect()
}

#[track_caller]
fn wait_until(site: &Site, what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: {}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
}

fn requesters(site: &Site) -> Vec<String> {
    let (status, _) = site.status();
    let grants = status["grants"].as_array().unwrap();
    let mut names: Vec<_> =
        grants.iter().map(|one| one["requester"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_root_opens_past_a_dead_agent_is_the_agents_from_its_next_start_on() {
    let mut site = Site::new();
    site.start();
    site.admit(&[STRANGER[0]], LONG);
    site.end(Signal::KILL);
    let id = open(&site, CLIENT[0], "30m");
    assert!(
        site.client_gets_in(0, 22) && !site.client_opens(1, 22) && site.stranger_gets_in(0, 22)
    );
    let (status, _) = site.status();
    let loud = status["soon"].to_string();
    assert!(loud.contains("BREAK GLASS: root opened 22/tcp to 198.51.100.2, 30 min"), "{loud}");
    assert_eq!(requesters(&site), ["ana@example.org", "root (break-glass)"]);
    site.start();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert_eq!(requesters(&site), ["ana@example.org", "root (break-glass)"]);
    wait_until(&site, "all is well", || site.status().1 == 0);
    let (status, _) = site.status();
    assert!(status["soon"].to_string().contains("BREAK GLASS"), "{status:#}");
    assert!(site.log().contains("BREAK GLASS"), "{}", site.log());
    let opened = with_code(&site, "B001");
    assert_eq!((opened.len(), &opened[0]["grant"]), (1, &id.as_str().into()));
    assert_eq!((&opened[0]["why"], &opened[0]["by"]), (&"disk full".into(), &"local uid 0".into()));
    assert!(opened[0]["detail"].as_str().unwrap().contains("while the agent did not answer"));
    for unexplained in ["K001", "K002", "K004", "S014"] {
        assert_eq!(with_code(&site, unexplained), Vec::<Value>::new());
    }
    let of_it = |record: &Value| record["grant"] == id.as_str();
    wait_until(&site, "its connection is recorded", || with_code(&site, "C001").iter().any(of_it));
    wait_until(&site, "its files go", || files(&site).is_empty());
    site.end(Signal::KILL);
    site.start();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert_eq!(said(&site.run(&["close", "--grant", &id])).0, 0);
    assert!(!site.client_opens(0, 22) && site.stranger_gets_in(0, 22));
    assert_eq!(with_code(&site, "B002").len(), 1);
    site.end(Signal::KILL);
    site.start();
    assert!(!site.client_opens(0, 22) && site.stranger_gets_in(0, 22));
    assert_eq!(with_code(&site, "B001").len(), 1);
}

#[test]
fn an_agent_that_hung_takes_it_over_and_gives_its_slot_to_nobody() {
    let mut site = Site::new();
    site.start();
    site.signal(Signal::STOP);
    let id = open(&site, CLIENT[0], "30m");
    assert!(site.client_gets_in(0, 22));
    site.signal(Signal::CONT);
    for _ in 0..3 {
        site.admit(&[STRANGER[0]], LONG);
    }
    let deadline = Instant::now() + REVIEWED;
    while Instant::now() < deadline {
        assert!(site.client_gets_in(0, 22), "{}", site.log());
    }
    wait_until(&site, "all is well", || site.status().1 == 0);
    let (status, _) = site.status();
    let grants = status["grants"].as_array().unwrap();
    assert_eq!(grants.len(), 4, "{status:#}");
    let hits = |root: bool| {
        let of = grants.iter().filter(|one| (one["requester"] == "root (break-glass)") == root);
        of.map(|one| one["hits"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(hits(false), [0, 0, 0], "{status:#}");
    assert!(hits(true)[0] > 5, "{status:#}");
    assert_eq!(with_code(&site, "B001").len(), 1);
    for unexplained in ["K001", "K002", "K004"] {
        assert_eq!(with_code(&site, unexplained), Vec::<Value>::new());
    }
    site.end(Signal::KILL);
    site.start();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert_eq!(said(&site.run(&["close", "--grant", &id[..8]])).0, 0);
    assert!(!site.client_opens(0, 22) && site.stranger_gets_in(0, 22));
}

#[test]
fn the_kernel_ends_it_and_an_audit_that_was_not_there_has_it_afterwards() {
    let mut site = killed("");
    open(&site, CLIENT[0], "4s");
    let closed = open(&site, STRANGER[0], "30m");
    assert!(site.client_gets_in(0, 22) && site.stranger_gets_in(0, 22));
    assert_eq!(said(&site.run(&["close", "--grant", &closed[..10]])).0, 0);
    assert!(!site.stranger_opens(0, 22));
    wait_until(&site, "it ends", || !site.client_opens(0, 22));
    site.start();
    site.assert_closed_to_all();
    wait_until(&site, "the audit has both", || {
        [with_code(&site, "B001").len(), with_code(&site, "B002").len()] == [2, 2]
    });
    assert_eq!(with_code(&site, "S014"), Vec::<Value>::new());
    wait_until(&site, "its files go", || files(&site).is_empty());
    site.end(Signal::KILL);
    site.start();
    assert_eq!(with_code(&site, "B001").len(), 2);
}

/// Whoever is the service's user may write to its directories, but can make no file of root's.
#[test]
fn a_file_that_root_did_not_make_opens_nothing() {
    let mut site = killed("");
    open(&site, CLIENT[0], "30m");
    for file in files(&site) {
        chown(file, Some(65_534), None).unwrap();
    }
    site.start();
    site.assert_closed_to_all();
    let (status, code) = site.status();
    let problems = status["problems"].to_string();
    assert!(code == 1 && problems.contains("root did not make it (uid 65534"), "{problems}");
    assert!(!with_code(&site, "B003").is_empty());
    assert_eq!(with_code(&site, "B001"), Vec::<Value>::new());
    // Under an agent that runs, too.
    for file in files(&site) {
        fs::remove_file(file).unwrap();
    }
    let name = "01J9W7K3AAAAAAAAAAAAAAAAAA.json";
    fs::write(site.path("run/openings").join(name), "{\"id\": \"\\u001b[2J").unwrap();
    wait_until(&site, "it is refused", || {
        site.status().0["problems"].to_string().contains("01J9W7K3AAAAAAAAAAAAAAAAAA.json: EOF")
    });
    site.assert_closed_to_all();
    fs::remove_file(site.path("run/openings").join(name)).unwrap();
}

/// The kernel's tables must hold what a file says.
#[test]
fn a_file_alone_opens_nothing() {
    let mut site = killed("");
    open(&site, CLIENT[0], "30m");
    let kept: Vec<_> =
        files(&site).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
    assert_eq!(kept.len(), 2);
    assert_eq!(said(&site.run(&["close", "--all"])).0, 0);
    site.start();
    site.assert_closed_to_all();
    wait_until(&site, "its files go", || files(&site).is_empty());
    // As somebody who had hidden it puts it back.
    for (text, file) in kept {
        fs::write(file, text).unwrap();
    }
    let deadline = Instant::now() + REVIEWED;
    while Instant::now() < deadline {
        assert!(!site.client_opens(0, 22), "{}", site.log());
    }
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
}

#[test]
fn past_the_agent_it_opens_no_more_than_the_host_allows() {
    let mut site =
        killed("[break_glass]\nmax_duration = \"10m\"\n[limits]\nhosts = 2\nprefixes = 2\n");
    for (asked, exit, says) in [
        ([CLIENT[0], "23/tcp", "5m"], 69, "port_not_protected"),
        ([CLIENT[0], "22/tcp", "11m"], 69, "[break_glass] max_duration"),
        (["0.0.0.0/0", "22/tcp", "5m"], 69, "source_too_wide"),
        (["::/0", "22/tcp", "5m"], 69, "source_too_wide"),
    ] {
        assert_refused(&site, asked, exit, says);
    }
    // With a file that cannot be used: the limits of the last good one.
    let good = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), good.replace("10m", "tomorrow")).unwrap();
    assert_refused(&site, [CLIENT[0], "22/tcp", "11m"], 69, "allows at most 600s");
    assert!(files(&site).is_empty());
    site.assert_closed_to_all();
    let (code, text) = break_glass(&site, CLIENT[0], "22/tcp", "10m");
    assert!(code == 0 && text.contains("last good configuration"), "{text}");
    assert!(site.client_gets_in(0, 22));
    assert_eq!(break_glass(&site, CLIENT[1], "22/tcp", "10m").0, 0);
    assert_refused(&site, [STRANGER[0], "22/tcp", "1m"], 69, "capacity");
    assert_eq!(files(&site).len(), 4);
    fs::write(site.config(), good.replace("10m", "off")).unwrap();
    assert_refused(&site, [CLIENT[0], "22/tcp", "1m"], 77, "\"off\"");
    // The agent does not take over what its configuration does not allow.
    site.start();
    site.assert_closed_to_all();
    assert_eq!(with_code(&site, "B002").len(), 2);
}

#[test]
fn past_the_agent_nobody_but_root_opens() {
    let site = killed("");
    // As a user that may reach everything: the service's, whose directories these are.
    let program = site.path("jit-agent");
    copy(&binary("jit-agent"), &program);
    for directory in ["", "state", "run"] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(site.path(directory), open).unwrap();
    }
    let world = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(site.config(), world).unwrap();
    for owned in [site.path("state"), site.path("run"), site.pins().to_owned()] {
        chown(owned, Some(65_534), Some(65_534)).unwrap();
    }
    for uid in [65_534, 64_999] {
        let mut command = Command::new(&program);
        command.args(arguments(CLIENT[0], "22/tcp", "1m")).arg("--config").arg(site.config());
        command.uid(uid).gid(uid);
        let (code, text) = said(&site.host.run(|| command.output().unwrap()));
        assert!(code == 77 && text.contains("use sudo"), "{uid}: {code} {text}");
    }
    site.assert_closed_to_all();
    assert!(files(&site).is_empty());
    chown(site.pins(), Some(0), Some(0)).unwrap();
    // Root opens in directories that are the service's user's.
    open(&site, CLIENT[0], "1m");
    assert!(site.client_gets_in(0, 22) && files(&site).len() == 2);
}

#[test]
fn two_at_once_both_open_past_a_dead_agent_and_past_one_that_hangs() {
    let mut site = Site::new();
    site.start();
    let both = |site: &Site| {
        let run = |source| move || said(&site.run(&arguments(source, "22/tcp", "10m")));
        thread::scope(|scope| {
            let at_once = [CLIENT[0], CLIENT[1]].map(|source| scope.spawn(run(source)));
            for (code, text) in at_once.map(|one| one.join().unwrap()) {
                assert_eq!(code, 0, "{text}");
            }
        });
        assert!(site.client_gets_in(0, 22) && site.client_gets_in(1, 22));
    };
    site.signal(Signal::STOP);
    both(&site);
    site.signal(Signal::CONT);
    let two = ["root (break-glass)", "root (break-glass)"];
    wait_until(&site, "both are taken over", || requesters(&site) == two);
    assert_eq!(said(&site.run(&["close", "--all"])).0, 0);
    site.end(Signal::KILL);
    both(&site);
    site.start();
    assert_eq!(requesters(&site), two, "{}", site.log());
    assert!(site.client_gets_in(0, 22) && site.client_gets_in(1, 22));
}

#[test]
fn on_a_full_disk_an_opening_stays_open_and_is_stored_when_there_is_room() {
    let mut site = Site::new();
    let disk = Disk::mount(site.path("state"));
    site.start();
    site.end(Signal::KILL);
    disk.fill();
    let (code, text) = break_glass(&site, CLIENT[0], "22/tcp", "30m");
    assert!(code == 0 && text.contains("it is kept in"), "{code} {text}");
    assert!(site.client_gets_in(0, 22));
    for _ in 0..2 {
        site.start();
        assert!(site.client_gets_in(0, 22), "{}", site.log());
        assert_eq!(requesters(&site), ["root (break-glass)"]);
        assert_eq!(files(&site).len(), 1, "the next start needs it");
        site.end(Signal::KILL);
    }
    site.start();
    disk.make_room();
    wait_until(&site, "its file goes", || files(&site).is_empty());
    site.end(Signal::KILL);
    site.start();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert_eq!(requesters(&site), ["root (break-glass)"]);
    drop(site);
    drop(disk);
}

/// Root closes everything, and then lets itself in.
#[test]
fn a_closing_ends_what_was_opened_before_it_and_not_what_was_opened_after_it() {
    let mut site = Site::new();
    site.start();
    let close_all = |site: &Site| assert_eq!(said(&site.run(&["close", "--all"])).0, 0);
    let in_this_order = |site: &Site| {
        open(site, STRANGER[0], "30m");
        close_all(site);
        open(site, CLIENT[0], "30m");
        assert!(site.client_gets_in(0, 22) && !site.stranger_opens(0, 22));
    };
    let stays = |site: &Site| {
        wait_until(site, "both are carried", || files(site).is_empty());
        assert!(site.client_gets_in(0, 22) && !site.stranger_opens(0, 22), "{}", site.log());
        assert_eq!(requesters(site), ["root (break-glass)"]);
    };
    site.signal(Signal::STOP);
    in_this_order(&site);
    site.signal(Signal::CONT);
    stays(&site);
    close_all(&site);
    site.end(Signal::KILL);
    in_this_order(&site);
    site.start();
    stays(&site);
    site.end(Signal::KILL);
    site.start();
    stays(&site);
}

#[test]
fn with_a_live_agent_nothing_is_written_past_it() {
    let mut site = Site::new();
    site.start();
    let (code, text) = break_glass(&site, CLIENT[0], "22/tcp", "10m");
    assert!(code == 0 && !text.contains("by themselves"), "{text}");
    assert!(files(&site).is_empty());
}
