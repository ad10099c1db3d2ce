//! Each service as documented, and what is kept for the next start.

use std::time::Duration;

use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;

use crate::service::{
    ARC, ARC_ID, AZURE_ID, Answers, EC2_ID, EC2_V6, GCP_ID, LINK_LOCAL, Service, arc, auto, azure,
    ec2, fault, gcp, grant, identity, wait_for_id, wait_until_kept,
};

/// The service gives the id, and a grant for it opens.
#[track_caller]
fn names_the_host(address: &str, answers: Answers, source: &str, id: &str) {
    let mut site = auto();
    let _service = Service::at(&site, address, answers);
    let (said, code) = identity(&site, &[]);
    assert_eq!(
        (said["id"].as_str(), said["source"].as_str()),
        (Some(id), Some(source)),
        "{said:#}"
    );
    assert_eq!((said["verdict"].as_str(), code), (Some("found"), 0));
    site.start();
    let status = wait_for_id(&site, id);
    assert_eq!(status["host_id_source"], source);
    assert_eq!(site.status().1, 0, "{:#}", site.status().0);
    site.assert_closed_to_all();
    grant(&site, id).unwrap();
    site.assert_open_to_the_client_alone();
    assert_eq!(grant(&site, "auto").unwrap_err().code(), tonic::Code::FailedPrecondition);
    // A reload keeps it.
    site.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(site.status().0["host"], id);
    assert_eq!(site.status().1, 0, "{:#}", site.status().0);
    site.assert_open_to_the_client_alone();
}

#[test]
fn azure_arc_names_the_host() {
    names_the_host(ARC, arc, "arc", ARC_ID);
}

#[test]
fn azure_names_the_host() {
    names_the_host(LINK_LOCAL, azure, "azure", AZURE_ID);
}

#[test]
fn ec2_names_the_host_by_imdsv2() {
    names_the_host(LINK_LOCAL, ec2, "ec2", EC2_ID);
}

#[test]
fn ec2_names_the_host_over_ipv6_where_there_is_no_route_to_the_other() {
    names_the_host(EC2_V6, ec2, "ec2", EC2_ID);
}

#[test]
fn gcp_names_the_host() {
    names_the_host(LINK_LOCAL, gcp, "gcp", GCP_ID);
}

#[test]
fn arc_comes_before_the_cloud_that_it_runs_in() {
    let site = auto();
    let _arc = Service::at(&site, ARC, arc);
    let _cloud = Service::at(&site, LINK_LOCAL, ec2);
    let (said, code) = identity(&site, &[]);
    assert_eq!((said["id"].as_str(), code), (Some(ARC_ID), 0), "{said:#}");
    assert_eq!(fault(&said, "ec2"), "");
}

#[test]
fn the_kept_id_is_in_force_at_once_at_a_start_without_a_service_and_before_the_network() {
    let mut site = auto();
    let service = Service::at(&site, LINK_LOCAL, ec2);
    site.start();
    wait_for_id(&site, EC2_ID);
    grant(&site, EC2_ID).unwrap();
    wait_until_kept(&site);
    service.becomes(|_| None);
    site.end(Signal::TERM);
    site.start();
    let (status, code) = site.status();
    assert_eq!((status["host"].as_str(), code), (Some(EC2_ID), 0), "{status:#}");
    site.assert_open_to_the_client_alone();
    site.end(Signal::TERM);
    // The command line knows it without an agent.
    assert_eq!(site.status().0["host"], EC2_ID);
    assert!(site.run(&["detach", "--yes"]).status.success());
    let asked = service.asked().len();
    let early = site.run(&["early"]);
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(early.status.success() && said.contains(EC2_ID), "{said}");
    assert_eq!(service.asked().len(), asked, "before the network nobody is asked");
    site.assert_open_to_the_client_alone();
}

#[test]
fn doctor_and_check_know_a_host_without_an_id_of_its_own() {
    let mut site = auto();
    assert!(site.run(&["check"]).status.success());
    site.start();
    let finding = |site: &Site| {
        let output = site.run(&["doctor", "--json"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = report["findings"].as_array().unwrap();
        all.iter().find(|one| one["check"] == "host-id").unwrap().clone()
    };
    let none = finding(&site);
    assert_eq!(none["level"], "failure", "{none:#}");
    assert!(none["seen"].as_str().unwrap().contains("GCP: absent"), "{none:#}");
    let _service = Service::at(&site, LINK_LOCAL, azure);
    wait_for_id(&site, AZURE_ID);
    let good = finding(&site);
    assert_eq!(good["level"], "ok", "{good:#}");
}

#[test]
fn root_lets_somebody_in_while_the_id_is_not_known_and_it_stays_when_it_is() {
    let mut site = auto();
    site.start();
    let opened = site.run(&[
        "break-glass",
        "--source",
        CLIENT[0],
        "--port",
        "22/tcp",
        "--for",
        "5m",
        "--reason",
        "no id",
    ]);
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    assert!(site.client_gets_in(0, 22));
    let _service = Service::at(&site, LINK_LOCAL, ec2);
    wait_for_id(&site, EC2_ID);
    assert!(site.client_gets_in(0, 22));
    site.end(Signal::TERM);
    site.start();
    assert!(site.client_gets_in(0, 22), "{}", site.log());
    assert!(!site.stranger_opens(0, 22));
}
