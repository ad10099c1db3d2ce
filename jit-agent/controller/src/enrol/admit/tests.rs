use super::*;
use crate::enrol::proof::Facts;

const NOW_MS: i64 = 1_790_325_737_000;
const HOST: &str = "Web-1";
const MACHINE: &str = "azure:1";

fn proof(host: &str, method: Method, machine: &str) -> Proof {
    Proof::new(host.into(), method, machine.into(), Facts::new())
}

fn enrolment(id: &str, state: EnrolmentState) -> Enrolment {
    Enrolment {
        id: id.into(),
        host: HOST.into(),
        method: "azure".into(),
        machine: MACHINE.into(),
        facts: BTreeMap::new(),
        token: String::new(),
        csr: String::new(),
        csr_hash: "first".into(),
        state,
        why: String::new(),
        created_ms: NOW_MS - 1000,
        decided_by: String::new(),
        decided_ms: 0,
    }
}

fn nothing() -> Known<'static> {
    Known { labels: None, believed: &[], host: None, earlier: &[], current: None }
}

fn labels(value: &str) -> BTreeMap<String, String> {
    [("env".to_owned(), value.to_owned())].into()
}

#[test]
fn the_first_request_of_a_host_is_let_in() {
    for method in Method::ALL {
        let proof = proof(HOST, method, MACHINE);
        assert_eq!(decide(&proof, "first", &nothing(), NOW_MS), Decision::Issue);
    }
}

#[test]
fn a_second_request_waits_for_a_person_whoever_sends_it() {
    for state in [EnrolmentState::Issued, EnrolmentState::Refused, EnrolmentState::Waiting] {
        let first = enrolment("1", state);
        let earlier = [first.clone()];
        let known = Known { earlier: &earlier, current: Some(&first), ..nothing() };
        for (host, machine, words) in [
            (HOST, MACHINE, "from this machine"),
            (HOST, "azure:2", "from another machine"),
            ("WEB-1", "azure:2", "from another machine"),
            ("web-2", MACHINE, "as the host Web-1"),
        ] {
            let proof = proof(host, Method::Azure, machine);
            let decision = decide(&proof, "second", &known, NOW_MS);
            let waits = matches!(&decision, Decision::Wait(why) if why.contains(words));
            assert!(waits, "{state:?} {host} {machine}: {decision:?}");
        }
    }
}

#[test]
fn the_same_request_gets_the_same_answer_for_a_quarter_of_an_hour() {
    let proof = proof(HOST, Method::Azure, MACHINE);
    let of = |state| {
        let first = enrolment("1", state);
        let earlier = [first.clone()];
        let known = Known { earlier: &earlier, current: Some(&first), ..nothing() };
        let at = |now_ms| decide(&proof, "first", &known, now_ms);
        (at(NOW_MS), at(NOW_MS + AGAIN_MS))
    };
    let (now, later) = of(EnrolmentState::Issued);
    assert_eq!(now, Decision::Again("1".into()));
    assert!(matches!(later, Decision::Wait(_)), "{later:?}");
    let waiting = Decision::Waiting("1".into());
    assert_eq!(of(EnrolmentState::Waiting), (waiting.clone(), waiting));
    let (now, later) = of(EnrolmentState::Refused);
    assert!(matches!((&now, &later), (Decision::Refuse(_), Decision::Refuse(_))));
    // Another one has taken its place.
    let first = enrolment("1", EnrolmentState::Issued);
    let second = Enrolment { csr_hash: "second".into(), ..enrolment("2", EnrolmentState::Issued) };
    let earlier = [first, second.clone()];
    let known = Known { earlier: &earlier, current: Some(&second), ..nothing() };
    assert!(matches!(decide(&proof, "first", &known, NOW_MS), Decision::Wait(_)));
}

#[test]
fn few_requests_of_a_host_wait_at_once() {
    let proof = proof(HOST, Method::Azure, MACHINE);
    let earlier: Vec<_> = ["1", "2", "3", "4"]
        .map(|id| Enrolment { csr_hash: id.into(), ..enrolment(id, EnrolmentState::Waiting) })
        .into();
    let with = |count: usize| {
        let known = Known { earlier: &earlier[..count], ..nothing() };
        decide(&proof, "new", &known, NOW_MS)
    };
    assert!(matches!(with(3), Decision::Wait(_)));
    assert!(matches!(with(4), Decision::Refuse(_)));
}

#[test]
fn a_token_makes_no_host_of_other_labels_and_takes_none_that_was_seen() {
    let wanted = labels("test");
    let with = |method, own: &BTreeMap<String, String>, seen_ms| {
        let host = InInventory { id: HOST.into(), labels: own.clone(), seen_ms };
        let known = Known { labels: Some(&wanted), host: Some(&host), ..nothing() };
        decide(&proof(HOST, method, MACHINE), "first", &known, NOW_MS)
    };
    let (never, seen) = (0, 1);
    for other in [labels("prod"), BTreeMap::new()] {
        let decision = with(Method::Token, &other, never);
        assert!(matches!(&decision, Decision::Refuse(why) if why.contains("env = test")));
    }
    assert_eq!(with(Method::Token, &labels("test"), never), Decision::Issue);
    assert!(matches!(with(Method::Token, &labels("test"), seen), Decision::Wait(_)));
    // Its cloud says which machine it is.
    assert_eq!(with(Method::Azure, &labels("test"), seen), Decision::Issue);
}

#[test]
fn a_host_is_not_another_one_in_capital_letters() {
    let host = InInventory { id: "web-1".into(), ..InInventory::default() };
    let known = Known { host: Some(&host), ..nothing() };
    let decision = decide(&proof(HOST, Method::Azure, MACHINE), "first", &known, NOW_MS);
    assert!(matches!(&decision, Decision::Refuse(why) if why.contains("called web-1")));
}

#[test]
fn a_certificate_is_renewed_by_its_own_host_while_it_counts() {
    let current = enrolment("1", EnrolmentState::Issued);
    let presented = HostCertificate {
        serial: "01".into(),
        host: HOST.into(),
        enrolment: "1".into(),
        csr_hash: "first".into(),
        issued_ms: NOW_MS - 1000,
        not_after_ms: NOW_MS + 1,
        pem: String::new(),
    };
    let with = |host, presented, current, now_ms| renews(host, presented, current, now_ms);
    assert_eq!(with(HOST, Some(&presented), Some(&current), NOW_MS), Ok(()));
    let ended = with(HOST, Some(&presented), Some(&current), NOW_MS + 1);
    assert_eq!(ended, Err(NotRenewed::Ended));
    for (host, presented) in [("web-2", Some(&presented)), (HOST, None)] {
        let unknown = with(host, presented, Some(&current), NOW_MS);
        assert_eq!(unknown, Err(NotRenewed::Unknown));
    }
    let other = enrolment("2", EnrolmentState::Issued);
    for current in [None, Some(&other)] {
        let replaced = with(HOST, Some(&presented), current, NOW_MS);
        assert_eq!(replaced, Err(NotRenewed::Replaced));
    }
}

#[test]
fn a_token_gives_no_certificate_of_a_machine_that_can_prove_itself() {
    let vm = InInventory {
        id: HOST.into(),
        labels: [(azure::LABEL.to_owned(), "1".to_owned())].into(),
        seen_ms: 0,
    };
    let arc = "/Subscriptions/s/resourceGroups/g/providers/Microsoft.HybridCompute/machines/n";
    let ec2 = "arn:aws-cn:ec2:cn-north-1:123456789012:instance/i-1";
    let gcp = "//Compute.googleapis.com/projects/p/zones/z/instances/1";
    for (cloud, id, host) in [
        (Method::Arc, arc, None),
        (Method::Azure, HOST, Some(&vm)),
        (Method::Ec2, ec2, None),
        (Method::Gcp, gcp, None),
    ] {
        let decided = |believed: &[Method], method| {
            let known = Known { believed, host, ..nothing() };
            decide(&proof(id, method, MACHINE), "first", &known, NOW_MS)
        };
        let waits = decided(&[cloud], Method::Token);
        assert!(matches!(&waits, Decision::Wait(why) if why.contains(cloud.word())), "{waits:?}");
        // Where nobody can prove it, a token is all that there is; and the cloud's own proof counts.
        let others: Vec<_> = Method::ALL.into_iter().filter(|other| *other != cloud).collect();
        assert_eq!(decided(&others, Method::Token), Decision::Issue);
        assert_eq!(decided(&[cloud], cloud), Decision::Issue);
    }
}
