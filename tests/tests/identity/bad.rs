//! Services that are absent, slow, lying, redirecting or too large, and processes that only look like one:
//! each is a fault of its own within three seconds, and the gate is in force.

use jit_tests::agent::Site;
use tonic::Code;

use crate::service::{
    ARC, ARC_ID, Answers, EC2_ID, LINK_LOCAL, Service, arc, auto, ec2, fault, gcp, grant, http,
    identity, wait_for_id,
};

/// A user that is neither root nor `himds`.
const SOMEBODY: u32 = 64_998;

/// What the service does, and the fault of Azure VM, EC2 and GCP.
const FAULTS: [(&str, Answers, [&str; 3]); 9] = [
    ("never answers", |_| None, ["slow", "hop_limit", "slow"]),
    (
        "stops in the middle of its answer",
        |_| Some(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()),
        ["broken"; 3],
    ),
    ("other JSON", |_| http("200 OK", "", "{\"id\": 7}"), ["malformed", "malformed", "malformed"]),
    (
        "other types",
        |_| http("200 OK", "Metadata-Flavor: Google\r\n", "{\"compute\": [1], \"accountId\": {}}"),
        ["malformed", "malformed", "malformed"],
    ),
    (
        "a redirect to a server that would answer",
        |_| http("302 Found", "location: http://127.0.0.1:8080/\r\n", ""),
        ["redirect"; 3],
    ),
    ("a proxy's refusal", |_| http("502 Bad Gateway", "", "<html>"), ["refused"; 3]),
    ("10 MiB with their length", |_| http("200 OK", "", &"x".repeat(10 << 20)), ["too_large"; 3]),
    (
        "10 MiB without a length",
        |_| Some([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'x'; 10 << 20]].concat()),
        ["too_large"; 3],
    ),
    ("no HTTP", |_| Some(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), ["malformed"; 3]),
];

/// The gate is in force, nothing opens, and it is said why.
#[track_caller]
fn closed_and_loud(site: &Site, what: &str) {
    let (status, code) = site.status();
    assert_eq!((status["host"].as_str(), code), (Some(""), 1), "{what}: {status:#}");
    assert_eq!(status["host_id_source"], "");
    let problems = status["problems"].to_string();
    assert!(
        problems.contains("[host_id]") && problems.contains("jit-agent identity"),
        "{problems}"
    );
    for id in ["auto", "", EC2_ID] {
        let refused = grant(site, id).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{what}: {refused:?}");
        let known = refused.message().contains("id is not known yet");
        assert!(known, "{what}: {refused:?}");
    }
    site.assert_closed_to_all();
}

#[test]
fn whatever_a_service_does_it_is_a_fault_within_three_seconds_and_the_gate_is_in_force() {
    let mut site = auto();
    let service = Service::at(&site, LINK_LOCAL, |_| None);
    let elsewhere = Service::at(&site, "127.0.0.1:8080", ec2);
    site.start();
    for (what, answers, faults) in FAULTS {
        service.becomes(answers);
        let (said, code) = identity(&site, &[]);
        let found = ["azure", "ec2", "gcp"].map(|source| fault(&said, source));
        assert_eq!(found, faults, "{what}: {said:#}");
        assert_eq!((said["verdict"].as_str(), code), (Some("none"), 69), "{what}");
        closed_and_loud(&site, what);
    }
    assert_eq!(elsewhere.asked(), [""; 0], "a redirect was followed");
    // IMDSv1 was never tried: each question to EC2 has a token or asks for one.
    for asked in service.asked().iter().filter(|one| one.contains("/latest/")) {
        let lower = asked.to_ascii_lowercase();
        assert!(
            asked.starts_with("PUT ") || lower.contains("x-aws-ec2-metadata-token: "),
            "{asked}"
        );
    }
}

#[test]
fn without_any_service_the_gate_is_in_force_and_the_first_answer_is_taken() {
    let mut site = auto();
    site.start();
    let (said, code) = identity(&site, &[]);
    for source in ["arc", "azure", "ec2", "gcp"] {
        assert_eq!(fault(&said, source), "absent", "{said:#}");
    }
    assert_eq!(code, 69);
    closed_and_loud(&site, "absent");
    let _service = Service::at(&site, LINK_LOCAL, ec2);
    wait_for_id(&site, EC2_ID);
    assert_eq!(site.status().1, 0, "{:#}", site.status().0);
    grant(&site, EC2_ID).unwrap();
    site.assert_open_to_the_client_alone();
}

#[test]
fn packets_that_nobody_answers_are_waited_for_no_longer() {
    let site = auto();
    // The client's side has no such address: what is sent there is lost.
    let client = jit_tests::agent::CLIENT[0];
    site.host.ip(&["route", "add", "169.254.169.254/32", "via", client]);
    site.client.ip(&["route", "add", "blackhole", "169.254.169.254/32"]);
    site.client.sysctl("ipv4/ip_forward", "1");
    let (said, code) = identity(&site, &[]);
    assert_eq!((fault(&said, "azure"), code), ("absent", 69), "{said:#}");
}

#[test]
fn no_variable_of_the_environment_leads_to_a_proxy() {
    let site = auto();
    let proxy = Service::at(&site, "127.0.0.1:3128", |_| http("200 OK", "", "{}"));
    let _service = Service::at(&site, LINK_LOCAL, ec2);
    let names =
        ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let environment = names.map(|name| (name, "http://127.0.0.1:3128"));
    let (said, code) = identity(&site, &environment);
    assert_eq!((said["id"].as_str(), code), (Some(EC2_ID), 0), "{said:#}");
    assert_eq!(proxy.asked(), [""; 0]);
}

#[test]
fn a_process_of_somebody_on_the_port_of_arc_is_not_even_asked() {
    let site = auto();
    let somebody = Service::of_user(&site, ARC, arc, SOMEBODY);
    let (said, code) = identity(&site, &[]);
    assert_eq!((fault(&said, "arc"), code), ("untrusted", 69), "{said:#}");
    let detail = said["sources"][0]["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("belongs to uid {SOMEBODY}")), "{detail}");
    assert_eq!(somebody.asked(), [""; 0]);
    // The cloud's own answer counts all the same.
    let _service = Service::at(&site, LINK_LOCAL, ec2);
    assert_eq!(identity(&site, &[]).0["id"], EC2_ID);
}

#[test]
fn somebody_on_the_port_of_another_address_changes_nothing() {
    let site = auto();
    let _arc = Service::at(&site, ARC, arc);
    assert_eq!(identity(&site, &[]).0["id"], ARC_ID);
    let beside = Service::of_user(&site, "[::1]:40342", arc, SOMEBODY);
    // On another address only, it takes nothing of the service's.
    assert_eq!(identity(&site, &[]).0["id"], ARC_ID);
    assert_eq!(beside.asked(), [""; 0]);
}

#[test]
fn two_clouds_that_answer_are_ambiguous_and_nothing_opens() {
    let mut site = auto();
    let _both = Service::at(&site, LINK_LOCAL, |request| {
        if request.contains("computeMetadata") { gcp(request) } else { ec2(request) }
    });
    let (said, code) = identity(&site, &[]);
    assert_eq!((said["verdict"].as_str(), code), (Some("ambiguous"), 69), "{said:#}");
    site.start();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !site.status().0["problems"].to_string().contains("two clouds") {
        assert!(std::time::Instant::now() < end, "{:#}", site.status().0);
    }
    closed_and_loud_of_two(&site);
}

#[track_caller]
fn closed_and_loud_of_two(site: &Site) {
    let (status, code) = site.status();
    assert_eq!((status["host"].as_str(), code), (Some(""), 1), "{status:#}");
    let refused = grant(site, EC2_ID).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    site.assert_closed_to_all();
}
