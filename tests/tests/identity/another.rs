//! Another machine than before, such as one that was made of the first one's image.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use jit_tests::agent::Site;
use rustix::process::Signal;

use crate::service::{
    EC2_ID, LINK_LOCAL, OTHER_EC2_ID, Service, auto, ec2, gcp, grant, other_ec2, wait_for_id,
    wait_until_kept,
};

fn audit(site: &Site) -> String {
    String::from_utf8(site.run(&["audit", "show", "--json"]).stdout).unwrap()
}

/// An agent that found its id, has a grant, and has ended.
fn before() -> (Site, Service) {
    let mut site = auto();
    let service = Service::at(&site, LINK_LOCAL, ec2);
    site.start();
    wait_for_id(&site, EC2_ID);
    grant(&site, EC2_ID).unwrap();
    site.assert_open_to_the_client_alone();
    wait_until_kept(&site);
    site.end(Signal::TERM);
    (site, service)
}

#[test]
fn another_id_closes_what_the_first_one_held_and_says_so_until_a_restart() {
    let (mut site, service) = before();
    service.becomes(other_ec2);
    site.start();
    let status = wait_for_id(&site, OTHER_EC2_ID);
    assert!(status["grants"].as_array().unwrap().is_empty(), "{status:#}");
    site.assert_closed_to_all();
    let (status, code) = site.status();
    let problems = status["problems"].to_string();
    assert_eq!(code, 1, "{status:#}");
    for says in ["another machine than before", EC2_ID, OTHER_EC2_ID, "[host_id_changed]"] {
        assert!(problems.contains(says), "{problems}");
    }
    assert_eq!(grant(&site, EC2_ID).unwrap_err().code(), tonic::Code::FailedPrecondition);
    grant(&site, OTHER_EC2_ID).unwrap();
    site.assert_open_to_the_client_alone();
    let records = audit(&site);
    let mut changed = records.lines().filter(|line| line.contains("host_identified"));
    let changed = changed.next_back().unwrap();
    for says in [EC2_ID, OTHER_EC2_ID, "\"grants_closed\":1"] {
        assert!(changed.contains(says), "{changed}");
    }
    assert!(records.contains("grant_revoked"), "{records}");
    site.end(Signal::TERM);
    site.start();
    let (status, code) = site.status();
    assert_eq!((status["host"].as_str(), code), (Some(OTHER_EC2_ID), 0), "{status:#}");
    site.assert_open_to_the_client_alone();
    assert!(site.run(&["audit", "verify"]).status.success());
}

#[test]
fn another_cloud_counts_only_when_the_first_stays_silent() {
    let (mut site, service) = before();
    service.becomes(gcp);
    site.start();
    // The first tries: the kept id stays.
    thread::sleep(Duration::from_secs(1));
    let (status, code) = site.status();
    assert_eq!((status["host"].as_str(), code), (Some(EC2_ID), 0), "{status:#}");
    site.assert_open_to_the_client_alone();
    wait_for_id(&site, crate::service::GCP_ID);
    site.assert_closed_to_all();
}

#[test]
fn grants_wait_where_the_kept_id_is_gone_and_come_back_with_the_answer() {
    let (mut site, service) = before();
    fs::remove_file(site.path("state/host-id")).unwrap();
    service.becomes(|_| None);
    site.start();
    let (status, code) = site.status();
    assert_eq!((status["host"].as_str(), code), (Some(""), 1), "{status:#}");
    site.assert_closed_to_all();
    service.becomes(ec2);
    wait_for_id(&site, EC2_ID);
    site.assert_open_to_the_client_alone();
}

#[test]
fn a_kept_id_that_others_could_have_written_is_not_used() {
    let (mut site, service) = before();
    let kept = site.path("state/host-id");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o666)).unwrap();
    service.becomes(|_| None);
    site.start();
    let (status, code) = site.status();
    assert_eq!((status["host"].as_str(), code), (Some(""), 1), "{status:#}");
    site.assert_closed_to_all();
}
