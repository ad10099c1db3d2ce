//! Disks that are full or read-only, and databases that are damaged, under a real agent.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, STRANGER, Site},
    disk::Disk,
    revoker::{REVOKER, Revoker, delivery},
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: it did not happen within 20 s");
        thread::sleep(Duration::from_millis(50));
    }
}

fn revoke_all(site: &Site) -> v1::RevokeResponse {
    let what = Some(v1::revoke_request::What::All(true));
    let request = v1::RevokeRequest { what, reason: "test".into(), cut: false };
    site.call(async |mut client| client.revoke(request).await).unwrap().into_inner()
}

/// Fails unless a new grant is refused with `storage`, and `status` has an alarm of the database.
#[track_caller]
fn assert_nothing_new_opens(site: &Site) {
    let refused = site.push(site.envelope(&[STRANGER[0]], LONG)).unwrap_err();
    assert!(refused.message().starts_with("storage"), "{refused}");
    assert!(!site.stranger_opens(0, 22));
    let (status, code) = site.status();
    let problems = status["problems"].to_string();
    assert!(code == 1 && problems.contains("database"), "{code}: {problems}");
    // The refused grant is taken out again: that small transaction may fit, and a grant still does not.
    thread::sleep(Duration::from_secs(4));
    let (status, code) = site.status();
    let problems = status["problems"].to_string();
    assert!(code == 1 && problems.contains("database"), "later {code}: {problems}");
}

/// Fails unless all is well again, and what was revoked stays so after a kill -9.
#[track_caller]
fn assert_well_again(site: &mut Site, revoked: v1::Envelope) {
    wait_for("no alarm", || site.status().1 == 0);
    site.end(Signal::KILL);
    site.start();
    site.assert_closed_to_all();
    let replay = site.push(revoked).unwrap_err();
    assert!(replay.message().starts_with("revoked"), "{replay}");
    site.admit(&CLIENT, LONG);
    site.assert_open_to_the_client_alone();
}

#[test]
fn a_full_disk_neither_delays_nor_loses_a_revocation() {
    let mut site = Site::new();
    let disk = Disk::mount(site.path("state"));
    site.start();
    let envelope = site.envelope(&CLIENT, LONG);
    site.push(envelope.clone()).unwrap();
    disk.fill();
    // The files use up their own free space soon.
    let pushes = |number| site.push(site.envelope(&[&format!("203.0.113.{number}")], LONG)).is_ok();
    let more = (1..255).take_while(|number| pushes(*number)).count();
    assert_nothing_new_opens(&site);
    site.assert_open_to_the_client_alone();
    // Killed on the full disk: the agent starts, what was open is open, and a revocation closes it.
    site.end(Signal::KILL);
    site.start();
    site.assert_open_to_the_client_alone();
    assert_nothing_new_opens(&site);
    let revoked = revoke_all(&site);
    let held = u32::try_from(1 + more).unwrap();
    assert_eq!((revoked.revoked, revoked.warning.as_str()), (held, ""));
    site.assert_closed_to_all();
    // The answer said durable: so it is, before there is room.
    for _ in 0..2 {
        site.end(Signal::KILL);
        site.start();
        site.assert_closed_to_all();
        assert_eq!(site.status().0["grants"].as_array().map(Vec::len), Some(0));
        let replay = site.push(envelope.clone()).unwrap_err();
        assert!(replay.message().starts_with("revoked"), "{replay}");
    }
    disk.make_room();
    assert_well_again(&mut site, envelope);
    drop(site);
    drop(disk);
}

#[test]
fn a_full_disk_without_the_reserve_is_an_alarm_until_there_is_room() {
    let mut site = Site::new();
    let disk = Disk::mount(site.path("state"));
    site.start();
    let envelope = site.envelope(&CLIENT, LONG);
    site.push(envelope.clone()).unwrap();
    site.end(Signal::KILL);
    fs::remove_file(site.path("state/grants.reserve")).unwrap();
    disk.fill();
    site.start();
    let problems = site.status().0["problems"].to_string();
    assert!(problems.contains("cannot make") && problems.contains("grants.reserve"), "{problems}");
    assert_nothing_new_opens(&site);
    let revoked = revoke_all(&site);
    assert_eq!(revoked.revoked, 1);
    site.assert_closed_to_all();
    println!("the answer without a reserve: {:?}", revoked.warning);
    disk.make_room();
    assert_well_again(&mut site, envelope);
    assert_eq!(fs::metadata(site.path("state/grants.reserve")).unwrap().len(), 256 * 1024);
    drop(site);
    drop(disk);
}

#[test]
fn a_full_disk_under_the_audit_alone_is_an_alarm_until_there_is_room() {
    let mut site = Site::new();
    fs::DirBuilder::new().mode(0o700).create(site.path("state")).unwrap();
    let disk = Disk::mount(site.path("state/audit"));
    site.start();
    site.admit(&CLIENT, LONG);
    disk.fill();
    // The last page of the file is used up soon.
    let pushes = |number| site.push(site.envelope(&[&format!("203.0.113.{number}")], LONG));
    let refused = (10..255).find_map(|number| pushes(number).err()).unwrap();
    assert!(refused.message().starts_with("storage"), "{refused}");
    // What was refused is not written again: nothing fails from now on, and no grant would fit.
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(2));
        let (status, code) = site.status();
        let problems = status["problems"].to_string();
        assert!(code == 1 && problems.contains("audit"), "{code}: {problems}");
    }
    site.assert_open_to_the_client_alone();
    disk.make_room();
    wait_for("no alarm", || site.status().1 == 0);
    site.admit(&[STRANGER[0]], LONG);
    drop(site);
    drop(disk);
}

#[test]
fn on_a_read_only_disk_the_agent_starts_and_closes() {
    let mut site = Site::new();
    let disk = Disk::mount(site.path("state"));
    site.start();
    let envelope = site.envelope(&CLIENT, LONG);
    site.push(envelope.clone()).unwrap();
    site.end(Signal::KILL);
    disk.read_only(true);
    site.start();
    site.assert_open_to_the_client_alone();
    assert_nothing_new_opens(&site);
    let revoked = revoke_all(&site);
    assert_eq!(revoked.revoked, 1);
    assert!(revoked.warning.contains("not durable"), "{}", revoked.warning);
    site.assert_closed_to_all();
    disk.read_only(false);
    assert_well_again(&mut site, envelope);
    drop(site);
    drop(disk);
}

/// Everybody who has it delivers it again. No answer says more than the disk holds.
#[test]
fn on_a_read_only_disk_a_signed_revocation_closes_and_says_each_time_that_it_is_not_durable() {
    let mut site = Site::new();
    let revoker = Revoker::new(&site);
    site.configure(REVOKER);
    let disk = Disk::mount(site.path("state"));
    site.start();
    let envelope = site.envelope(&CLIENT, LONG);
    site.push(envelope.clone()).unwrap();
    site.end(Signal::KILL);
    disk.read_only(true);
    site.start();
    site.assert_open_to_the_client_alone();
    let everything = revoker.all();
    let deliver = |site: &Site| {
        let request = delivery(everything.clone());
        site.call(async |mut client| client.revoke(request).await).unwrap().into_inner()
    };
    for ended in [1, 0] {
        let revoked = deliver(&site);
        assert_eq!(revoked.revoked, ended);
        assert!(revoked.warning.contains("not durable"), "{}", revoked.warning);
        site.assert_closed_to_all();
    }
    disk.read_only(false);
    wait_for("no warning", || deliver(&site).warning.is_empty());
    assert_well_again(&mut site, envelope);
    assert_eq!(deliver(&site).reason, "known");
    site.assert_open_to_the_client_alone();
    drop(site);
    drop(disk);
}

#[test]
fn a_damaged_database_is_moved_away_and_reported_and_no_earlier_grant_opens() {
    let mut site = Site::new();
    site.start();
    let envelope = site.envelope(&CLIENT, LONG);
    site.push(envelope.clone()).unwrap();
    assert_eq!(site.revoke_all(), 1);
    site.end(Signal::KILL);
    let database = site.path("state/grants.redb");
    let mut bytes = fs::read(&database).unwrap();
    let pages = bytes.len() / 4096;
    bytes[..2 * 4096].fill(0xff);
    fs::write(&database, &bytes).unwrap();
    assert!(pages > 2);
    site.start();
    site.assert_closed_to_all();
    let replay = site.push(envelope).unwrap_err();
    assert!(replay.message().starts_with("revoked"), "{replay}");
    assert!(replay.message().contains("damaged"), "{replay}");
    let (status, code) = site.status();
    assert_eq!(code, 1);
    assert!(status["problems"].to_string().contains("grants.redb.damaged-"), "{status:#}");
    let kept = fs::read_dir(site.path("state")).unwrap().flatten();
    let kept: Vec<_> =
        kept.filter(|file| file.file_name().to_string_lossy().contains(".damaged-")).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read(kept[0].path()).unwrap(), bytes);
}
