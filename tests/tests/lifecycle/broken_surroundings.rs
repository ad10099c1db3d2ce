//! The gate needs nothing but itself: whatever is wrong with certificates, keys, the listening port,
//! the configuration, the audit or the local socket, the gate goes up, also where nothing is pinned.
//! The socket answers, `status` names the cause, a revocation works, and what is mended needs no
//! restart. A stranger tries all the time and never gets in.

use std::{
    any::Any,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jit_tests::agent::{CLIENT, Site, TO_STRANGER, address, opens};
use rustix::process::Signal;
use serde_json::Value;

use crate::controllers;

const LONG: Duration = Duration::from_secs(600);
/// Longest wait for a start or for a fault to end, on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);

/// A stranger who tries to get in again and again.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU32>,
    tried: Arc<AtomicU32>,
    thread: thread::JoinHandle<()>,
}

impl Prober {
    pub(crate) fn start(site: &Site) -> Self {
        let (stop, opened, tried) = <(Arc<AtomicBool>, Arc<AtomicU32>, Arc<AtomicU32>)>::default();
        let of_it = (Arc::clone(&stop), Arc::clone(&opened), Arc::clone(&tried));
        let thread = site.stranger.spawn(move || {
            let (stop, opened, tried) = of_it;
            let deadline = Instant::now() + 10 * LONGEST;
            while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                tried.fetch_add(1, Ordering::Relaxed);
                if opens(address(TO_STRANGER, 0, 22), Duration::from_millis(50)) {
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, opened, tried, thread }
    }

    /// Fails if the stranger ever got in.
    #[track_caller]
    pub(crate) fn assert_never_got_in(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let tried = self.tried.load(Ordering::Relaxed);
        assert_eq!(self.opened.load(Ordering::Relaxed), 0, "of {tried} connections");
        assert!(tried > 10, "{tried}");
    }
}

pub(crate) fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

fn wait_for(site: &Site, what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONGEST;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {LONGEST:?}\n{}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
}

/// The agent is killed, not before it has kept its configuration.
pub(crate) fn kill(site: &mut Site) {
    let kept = site.path("state/configuration.last-good");
    wait_for(site, "the copy of the configuration", || kept.exists());
    site.end(Signal::KILL);
}

/// As after a reboot: no agent, nothing pinned, and the stranger's link is down.
pub(crate) fn reboot(site: &mut Site) {
    kill(site);
    let output = site.run(&["detach", "--yes"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    site.host.ip(&["link", "set", "s0", "down"]);
}

/// What a cause breaks; what it holds is let go of to mend it.
type Break = fn(&Site) -> Box<dyn Any>;
type Mend = fn(&Site);

/// Cold and then warm: `breaks` is done while no agent runs, the agent starts, `status` has all of
/// `says`, root can revoke, and after `mend` the fault ends without a restart.
#[track_caller]
fn the_gate_goes_up_with(breaks: Break, says: &[&str], mend: Mend) {
    for cold in [true, false] {
        let mut site = controllers::site();
        if cold {
            reboot(&mut site);
        } else {
            kill(&mut site);
        }
        let broken = breaks(&site);
        let prober = Prober::start(&site);
        site.start();
        site.host.ip(&["link", "set", "s0", "up"]);
        let (status, code) = site.status();
        assert_eq!((code, status["state"].as_str()), (1, Some("degraded")), "{status:#}");
        for words in says {
            assert!(problems(&status).contains(words), "{words:?} is not in {status:#}");
        }
        assert!(!site.client_opens(0, 22));
        assert_eq!(site.revoke_all(), 0);
        mend(&site);
        drop(broken);
        wait_for(&site, "no fault", || site.status().1 == 0);
        // All of it works: a controller reaches the agent, and a grant opens.
        let listed = controllers::call(&site, "pki/ca.pem", "pki", "reader", &["list"]);
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        site.admit(&CLIENT, LONG);
        assert!(site.client_gets_in(0, 22));
        assert_eq!(site.revoke_all(), 1);
        assert!(!site.client_opens(0, 22));
        prober.assert_never_got_in();
        assert!(!site.log().contains("panicked"), "{}", site.log());
    }
}

fn nothing() -> Box<dyn Any> {
    Box::new(())
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn put_aside(path: &Path) {
    fs::rename(path, path.with_extension("aside")).unwrap();
}

fn put_back(path: &Path) {
    if path.is_dir() {
        fs::remove_dir(path).unwrap();
    }
    fs::rename(path.with_extension("aside"), path).unwrap();
}

#[test]
fn a_certificate_that_is_missing() {
    the_gate_goes_up_with(
        |site| {
            put_aside(&site.path("pki/agent.pem"));
            nothing()
        },
        &["not listening: line ", "[control] certificate: cannot read", "No such file"],
        |site| put_back(&site.path("pki/agent.pem")),
    );
}

#[test]
fn a_certificate_that_is_empty() {
    the_gate_goes_up_with(
        |site| {
            put_aside(&site.path("pki/agent.pem"));
            fs::write(site.path("pki/agent.pem"), "").unwrap();
            nothing()
        },
        &["not listening: line ", "[control] certificate"],
        |site| put_back(&site.path("pki/agent.pem")),
    );
}

#[test]
fn a_certificate_that_cannot_be_read() {
    the_gate_goes_up_with(
        |site| {
            put_aside(&site.path("pki/agent.pem"));
            fs::create_dir(site.path("pki/agent.pem")).unwrap();
            nothing()
        },
        &["not listening: line ", "[control] certificate: cannot read", "directory"],
        |site| put_back(&site.path("pki/agent.pem")),
    );
}

#[test]
fn a_key_that_does_not_fit_the_certificate() {
    the_gate_goes_up_with(
        |site| {
            put_aside(&site.path("pki/agent.key"));
            fs::copy(site.path("pki/reader.key"), site.path("pki/agent.key")).unwrap();
            nothing()
        },
        &["not listening: line ", "[control] key", "does not fit the certificate"],
        |site| put_back(&site.path("pki/agent.key")),
    );
}

#[test]
fn authorities_that_are_missing() {
    the_gate_goes_up_with(
        |site| {
            put_aside(&site.path("pki/ca.pem"));
            nothing()
        },
        &["not listening: line ", "[control] client_ca: cannot read"],
        |site| put_back(&site.path("pki/ca.pem")),
    );
}

#[test]
fn authorities_that_others_can_write() {
    the_gate_goes_up_with(
        |site| {
            mode(&site.path("pki/ca.pem"), 0o666);
            nothing()
        },
        &["not listening: line ", "[control] client_ca", "others could write"],
        |site| mode(&site.path("pki/ca.pem"), 0o644),
    );
}

#[test]
fn a_signers_key_that_is_missing() {
    the_gate_goes_up_with(
        |site| {
            put_aside(&site.path("signer.pem"));
            nothing()
        },
        &["[[signer]] \\\"test\\\": public_key: cannot read", "copy of the key that was kept"],
        |site| put_back(&site.path("signer.pem")),
    );
}

#[test]
fn a_signers_key_that_others_can_write() {
    the_gate_goes_up_with(
        |site| {
            mode(&site.path("signer.pem"), 0o666);
            nothing()
        },
        &["[[signer]] \\\"test\\\": public_key", "others could write", "was kept"],
        |site| mode(&site.path("signer.pem"), 0o644),
    );
}

#[test]
fn a_port_that_is_taken() {
    the_gate_goes_up_with(
        |site| Box::new(site.host.run(|| TcpListener::bind("0.0.0.0:7443")).unwrap()),
        &["not listening: line ", "0.0.0.0:7443", "Address already in use"],
        |_| {},
    );
}

#[test]
fn a_typo_in_the_configuration() {
    the_gate_goes_up_with(
        |site| {
            fs::copy(site.config(), site.path("config.aside")).unwrap();
            let text = fs::read_to_string(site.config()).unwrap();
            site.write_config(&text.replace("[gate]", "[gaet]"));
            nothing()
        },
        &["the file on disk is not in force: line ", "gaet", "the last good configuration, of "],
        |site| put_back(&site.config()),
    );
}

#[test]
fn a_configuration_that_is_no_toml_and_that_others_can_write() {
    the_gate_goes_up_with(
        |site| {
            fs::copy(site.config(), site.path("config.aside")).unwrap();
            let text = fs::read_to_string(site.config()).unwrap();
            site.write_config(&text.replace("[paths]", "[paths"));
            mode(&site.config(), 0o666);
            nothing()
        },
        &["the file on disk is not in force: ", "others could write"],
        |site| put_back(&site.config()),
    );
}

#[test]
fn limits_that_do_not_fit_what_is_pinned() {
    let mut site = controllers::site();
    kill(&mut site);
    fs::copy(site.config(), site.path("config.aside")).unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{text}\n[limits]\nhosts = 77\n"));
    site.start();
    let (status, code) = site.status();
    assert_eq!((code, status["configuration"]["last_good"].as_bool()), (1, Some(true)));
    assert!(problems(&status).contains("number of entries"), "{status:#}");
    put_back(&site.config());
    wait_for(&site, "no fault", || site.status().1 == 0);
    site.assert_closed_to_all();
}

/// Grants are refused meanwhile: accepted means recorded.
#[test]
fn a_key_of_the_audit_that_others_can_write() {
    let refused = |site: &Site| {
        let refused = site.push(site.envelope(&[CLIENT[0]], LONG)).unwrap_err();
        assert!(refused.message().starts_with("storage"), "{refused}");
        mode(&site.path("state/host.key"), 0o600);
    };
    the_gate_goes_up_with(
        |site| {
            mode(&site.path("state/host.key"), 0o666);
            nothing()
        },
        &["host.key", "others could write"],
        refused,
    );
}

#[test]
fn an_audit_directory_that_others_can_write() {
    the_gate_goes_up_with(
        |site| {
            mode(&site.path("state/audit"), 0o777);
            nothing()
        },
        &["state/audit", "others could write"],
        |site| mode(&site.path("state/audit"), 0o700),
    );
}

/// Database, audit and the copy of the configuration are in it.
#[test]
fn a_state_directory_that_others_can_write() {
    the_gate_goes_up_with(
        |site| {
            mode(&site.path("state"), 0o777);
            nothing()
        },
        &["state is owned by", "others could write", "stored grants stay closed"],
        |site| mode(&site.path("state"), 0o700),
    );
}

/// Without the socket `status` reads the pins.
#[test]
fn a_runtime_directory_that_others_can_write() {
    let mut site = controllers::site();
    reboot(&mut site);
    mode(&site.path("run"), 0o777);
    let prober = Prober::start(&site);
    site.spawn();
    let offline = || String::from_utf8(site.run(&["status"]).stdout).unwrap();
    wait_for(&site, "the gate", || offline().contains("DEGRADED"));
    site.host.ip(&["link", "set", "s0", "up"]);
    assert!(!site.client_opens(0, 22) && !site.path("run/agent.sock").exists());
    let listed = controllers::call(&site, "pki/ca.pem", "pki", "reader", &["status"]);
    let said = String::from_utf8_lossy(&listed.stdout);
    assert!(said.contains("cannot serve the command line on"), "{said}");
    mode(&site.path("run"), 0o750);
    wait_for(&site, "the socket", || site.path("run/agent.sock").exists());
    wait_for(&site, "no fault", || site.status().1 == 0);
    // Somebody who removes the socket does not shut root out for long.
    fs::remove_file(site.path("run/agent.sock")).unwrap();
    wait_for(&site, "the socket again", || site.path("run/agent.sock").exists());
    wait_for(&site, "no fault again", || site.status().1 == 0);
    prober.assert_never_got_in();
}

/// The very first start has nothing to fall back to, and says so.
#[test]
fn the_first_start_of_all_with_a_bad_file_says_that_nothing_is_protected() {
    let site = Site::new();
    let text = fs::read_to_string(site.config()).unwrap();
    site.write_config(&text.replace("[gate]", "[gaet]"));
    let output = site.run(&["run"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{errors}");
    for says in ["gaet", "line", "there is none in", "nothing is protected: every port is open"] {
        assert!(errors.contains(says), "{says:?} is not in {errors}");
    }
    // Without the key there is nobody who can open, and the gate is up.
    site.write_config(&text);
    let mut site = site;
    put_aside(&site.path("signer.pem"));
    site.start();
    let (status, code) = site.status();
    assert_eq!(code, 1, "{status:#}");
    assert!(problems(&status).contains("nothing that this key signs opens"), "{status:#}");
    let refused = site.push(site.envelope(&[CLIENT[0]], LONG)).unwrap_err();
    assert!(refused.message().starts_with("unknown_key"), "{refused}");
    site.assert_closed_to_all();
    put_back(&site.path("signer.pem"));
    wait_for(&site, "no fault", || site.status().1 == 0);
    site.admit(&CLIENT, LONG);
    site.assert_open_to_the_client_alone();
}

/// A grant that was accepted waits for its key, and is not lost.
#[test]
fn a_stored_grant_waits_for_a_key_that_cannot_be_read() {
    let mut site = Site::new();
    site.start();
    site.admit(&CLIENT, LONG);
    kill(&mut site);
    // No copy of the key: as after an upgrade from a version that kept none.
    fs::remove_file(site.path("state/configuration.last-good")).unwrap();
    put_aside(&site.path("signer.pem"));
    site.start();
    site.assert_closed_to_all();
    put_back(&site.path("signer.pem"));
    wait_for(&site, "the grant", || site.status().1 == 0);
    site.assert_open_to_the_client_alone();
}

#[test]
fn a_refused_reload_is_a_fault_until_it_is_mended() {
    let mut site = controllers::site();
    let good = fs::read_to_string(site.config()).unwrap();
    site.write_config(&good.replace("[gate]", "[gaet]"));
    site.signal(Signal::HUP);
    wait_for(&site, "the fault", || site.status().1 == 1);
    let (status, _) = site.status();
    for says in ["configuration on disk refused at ", "line ", "gaet", "the next start will use"] {
        assert!(problems(&status).contains(says), "{says:?} is not in {status:#}");
    }
    let of_it = &status["configuration"];
    assert_eq!(of_it["last_good"].as_bool(), Some(false), "{status:#}");
    assert!(of_it["refused"].as_str().unwrap().contains("gaet"), "{status:#}");
    assert!(of_it["refused_at"].is_string() && of_it["in_force_since"].is_string(), "{status:#}");
    // The promise holds: the next start uses the one that was in force.
    site.end(Signal::KILL);
    site.start();
    let (status, code) = site.status();
    assert_eq!((code, status["configuration"]["last_good"].as_bool()), (1, Some(true)));
    site.assert_closed_to_all();
    site.write_config(&good);
    wait_for(&site, "no fault", || site.status().1 == 0);
    let (status, _) = site.status();
    assert_eq!(status["configuration"]["last_good"].as_bool(), Some(false), "{status:#}");
    let shown = site.run(&["audit", "show", "--json"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("R002") && shown.contains("R004"), "{shown}");
}

#[test]
fn a_reload_records_what_it_opened_by_value() {
    let mut site = Site::new();
    site.start();
    let text = site.base("[\"c0\"]", "auto").replace("sources = [\"0.0.0.0/0\", \"::/0\"]", &format!(
        "sources = [\"0.0.0.0/0\", \"::/0\"]\nmax_duration = \"5h\"\nexempt = [{{ source = \"{}\", \
         reason = \"probe\", owner = \"netops\" }}]",
        CLIENT[0]
    ));
    site.write_config(&text);
    site.signal(Signal::HUP);
    wait_for(&site, "the exemption", || site.client_opens(0, 22));
    wait_for(&site, "the record", || {
        let shown = site.run(&["audit", "show", "--json", "--code", "R003"]);
        let shown = String::from_utf8_lossy(&shown.stdout);
        let says = [
            &format!("22/tcp: {} needs no grant, for ever (probe; owner netops)", CLIENT[0]),
            "22/tcp: max_duration 3h -> 5h",
            "interface s0 has no packet gate any more",
        ];
        says.iter().all(|says| shown.contains(says))
    });
    assert!(site.log().contains("the new configuration opened: "), "{}", site.log());
    // A start with another file is no way around the record.
    kill(&mut site);
    site.write_config(&text.replace("5h", "6h"));
    site.start();
    let shown = site.run(&["audit", "show", "--json", "--code", "R003"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("22/tcp: max_duration 5h -> 6h"), "{shown}");
}

#[test]
fn the_listening_address_changes_without_a_restart_and_must_be_the_hosts() {
    let site = controllers::site();
    let good = fs::read_to_string(site.config()).unwrap();
    site.write_config(&good.replace("0.0.0.0:7443", "192.0.2.1:7444"));
    site.signal(Signal::HUP);
    let missing = "not listening: no interface has 192.0.2.1";
    wait_for(&site, missing, || problems(&site.status().0).contains(missing));
    let (status, code) = site.status();
    let control = &status["control"];
    assert_eq!((code, control["listening"].as_bool()), (1, Some(false)), "{status:#}");
    assert!(control["problem"].as_str().unwrap().contains(missing), "{status:#}");
    let screen = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(screen.contains(&format!("control  {missing}")), "{screen}");
    site.host.address("c0", "192.0.2.1/32");
    wait_for(&site, "no fault", || site.status().1 == 0);
    assert!(site.host.run(|| std::net::TcpStream::connect("192.0.2.1:7444").is_ok()));
    assert!(site.host.run(|| std::net::TcpStream::connect("198.51.100.1:7443").is_err()));
    site.write_config(&good.replace("0.0.0.0:7443", "127.0.0.1:7443"));
    site.signal(Signal::HUP);
    let only = "only this host itself reaches 127.0.0.1";
    wait_for(&site, only, || problems(&site.status().0).contains(only));
}

/// A bad rotation does not shut the controllers out.
#[test]
fn a_reload_with_bad_certificates_keeps_those_in_use() {
    let site = controllers::site();
    put_aside(&site.path("pki/agent.key"));
    fs::copy(site.path("pki/reader.key"), site.path("pki/agent.key")).unwrap();
    site.signal(Signal::HUP);
    let kept = "before stay in use";
    wait_for(&site, kept, || problems(&site.status().0).contains(kept));
    let (status, _) = site.status();
    assert_eq!(status["control"]["listening"].as_bool(), Some(true), "{status:#}");
    let listed = controllers::call(&site, "pki/ca.pem", "pki", "reader", &["list"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    put_back(&site.path("pki/agent.key"));
    wait_for(&site, "no fault", || site.status().1 == 0);
}
