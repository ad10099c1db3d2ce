//! From a request to open ports, and from a revocation to closed ones.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jit_client::{
    CallError,
    agent::Agent,
    controller::{call::Call, types::RequestView},
    signing::{SigningKey, seal},
    target::{Target, Tls, Way},
};
use jit_proto::{SourcePrefix, payload_type::GRANT_TYPE, v1};
use jit_tests::{
    controller::{
        CLIENT, Stage,
        hosts::CERTIFICATE_NAME,
        people::{Person, access, revocation},
    },
    figures::{GATE, in_turns, size},
    process::proportional,
};
use prost::Message as _;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{at_99, millis, report, stage};

const TABLE: &str = "controller";
const MILLIS: (&str, bool) = ("ms", false);
/// Longest wait for a host's answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// One host. Requests for its port from some addresses in turn.
pub(crate) fn one_host() {
    let (stage, ana, ids) = stage(1);
    resident(&stage, "one host is followed");
    let requests = size(200, 5);
    let row = format!("request to open, one host, p99 of {requests}");
    let straight = "a push straight to the agent, over TLS";
    in_turns(
        (TABLE, &row),
        MILLIS,
        size(5, 1),
        &mut [
            (GATE, Box::new(|| at_99(asks(&ana, &ids, requests)))),
            (straight, Box::new(|| at_99(pushes(&stage, requests)))),
        ],
    );
    assert!(!stage.stranger_opens(0, 22), "the port is closed to others");
    resident(&stage, "one host, after these requests");
}

/// Many hosts of one request, from the request to the last answer.
pub(crate) fn many_hosts() {
    let count = size(200, 4);
    let (stage, ana, ids) = stage(count);
    resident(&stage, &format!("{count} hosts are followed"));
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    let hosts: Vec<_> = ids.iter().map(String::as_str).collect();
    let answers = u64::try_from(count).unwrap();
    for _ in 0..size(5, 1) {
        let began = Instant::now();
        let view: RequestView = ana.get(&ask(&hosts, CLIENT));
        opened.push(millis(began.elapsed()));
        assert_eq!((view.state.as_str(), view.counts.open), ("open", answers), "{view:#?}");
        assert!(stage.client_gets_in(count - 1, 22), "an open port is open");
        let began = Instant::now();
        let mut view: RequestView = ana.get(&revocation(&view.id));
        while view.counts.closed < answers {
            assert!(began.elapsed() < PATIENCE, "{view:#?}");
            view = ana.request(&view.id);
        }
        closed.push(millis(began.elapsed()));
    }
    report(TABLE, &format!("request to open, {count} hosts, the last"), MILLIS, opened);
    report(TABLE, &format!("revocation to closed, {count} hosts, the last"), MILLIS, closed);
}

/// A request that is answered when it is open.
fn ask(hosts: &[&str], source: &str) -> Call {
    let call = Call::post(["requests"]).query("wait", "open").query("timeout", "30s");
    call.json(&access(hosts, source, "10m"))
}

/// What requests took, but the first: it sets the connection up.
fn asks(ana: &Person, ids: &[String], number: usize) -> Vec<Duration> {
    let hosts: Vec<_> = ids.iter().map(String::as_str).collect();
    ana.calls(async |controller| {
        let mut times = Vec::new();
        for number in 0..=number {
            let began = Instant::now();
            let view: RequestView =
                controller.fetch(&ask(&hosts, &source(19, number))).await.unwrap();
            times.push(began.elapsed());
            assert_eq!((view.state.as_str(), view.counts.open), ("open", 1), "{view:#?}");
        }
        times.split_off(1)
    })
}

/// What pushes took, but the first, with the controller's own key and certificate.
fn pushes(stage: &Stage, number: usize) -> Vec<Duration> {
    let key = SigningKey::from_pem(&fs::read_to_string(stage.own("signer.key")).unwrap()).unwrap();
    let address: SocketAddr = stage.host(0).address().parse().unwrap();
    let tls = Tls {
        host: address.ip().to_string(),
        port: address.port(),
        name: CERTIFICATE_NAME.to_owned().try_into().unwrap(),
        ca: stage.own("pki/ca.pem"),
        cert: stage.own("controller.pem"),
        key: stage.own("controller.key"),
    };
    let target = Target { way: Way::Tls(Box::new(tls)), timeout: PATIENCE };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all = async || {
        let mut agent = Agent::connect(&target).await?;
        let mut times = Vec::new();
        for number in 0..=number {
            let envelope = signed(&key, stage.host(0).id(), &source(20, number));
            let began = Instant::now();
            agent.push(envelope).await?;
            times.push(began.elapsed());
        }
        Ok::<_, CallError>(times.split_off(1))
    };
    stage.hub.run(|| runtime.block_on(all())).unwrap()
}

fn signed(key: &SigningKey, host: &str, source: &str) -> v1::Envelope {
    let now_ms =
        i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let source: SourcePrefix = source.parse().unwrap();
    let mut id = vec![0; 16];
    getrandom(&mut id, GetRandomFlags::empty()).unwrap();
    let grant = v1::Grant {
        id: id.into(),
        hosts: vec![host.into()],
        sources: vec![v1::Source::from(&source)],
        ports: vec![v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 }],
        issued_at_ms: now_ms,
        not_before_ms: now_ms,
        not_after_ms: now_ms + 600_000,
        requester: "bench@example.org".into(),
        justification: "bench".into(),
        ..v1::Grant::default()
    };
    seal(GRANT_TYPE, grant.encode_to_vec(), std::slice::from_ref(key))
}

/// One of 250 addresses: the host's table stays small.
fn source(third: u8, number: usize) -> String {
    format!("198.{third}.0.{}", 1 + number % 250)
}

/// Memory of the controller with its signer, MiB; what they share is counted once.
pub(crate) fn resident(stage: &Stage, row: &str) {
    let all = stage.processes();
    let mebibytes = f64::from(u32::try_from(proportional(&all)).unwrap()) / 1024.0;
    report("controller memory", row, ("MiB", false), vec![mebibytes]);
}
