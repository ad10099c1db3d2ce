//! From a push to a connection, and from a revocation to its answer: beside the disk's own sync, and
//! beside fwknop.

use std::{
    fs::File,
    io::{Seek as _, SeekFrom, Write as _},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use jit_client::{
    CallError,
    agent::Agent,
    target::{Target, Tls, Way},
};
use jit_proto::v1::{self, revoke_request::What};
use jit_tests::{
    agent::{CLIENT, HOST, PATIENCE, TO_CLIENT, address, opens},
    figures::{GATE, Subject, in_turns, size},
    fwknop::{FWKNOP, Fwknop},
    programs::binary,
};

use crate::grants::{LONG, PORT, Signed, many, millis};

const TABLE: &str = "push to open";
const MILLIS: (&str, bool) = ("ms", false);
/// Bytes that a sync of the disk itself writes.
const WRITTEN: [u8; 4096] = [0x55; 4096];

/// What one push and the revocation after it took.
struct Times {
    answered: Duration,
    connected: Duration,
    revoked: Duration,
}

pub(crate) fn measure() {
    let signed = Signed::listening();
    let fwknop = Fwknop::start();
    if fwknop.is_none() {
        println!("fwknop or iptables is not installed: {TABLE} is measured without this peer");
    }
    for live in [0, size(10_000, 1_000)] {
        signed.fill(0..live, LONG);
        assert!(!signed.site.client_opens(0, 22), "the port is closed");
        answers(&signed, live);
        connections(&signed, fwknop.as_ref(), live);
    }
}

/// Until the answer of a push and of a revocation. An answered grant is open in the kernel.
fn answers(signed: &Signed, live: u32) {
    let rounds = size(30, 3);
    let live = many(live);
    let mut disk = disk(signed.site.path("state/disk-itself"));
    in_turns(
        (TABLE, &format!("one push answered, {live}")),
        MILLIS,
        rounds,
        &mut [
            (GATE, Box::new(|| median(signed, |times| times.answered))),
            ("a controller, over TLS", Box::new(|| millis(over_tls(signed)))),
            ("the disk itself: 4 KiB and fdatasync", Box::new(&mut disk)),
        ],
    );
    in_turns(
        ("revocation", &format!("one answered, {live}")),
        MILLIS,
        rounds,
        &mut [(GATE, Box::new(|| median(signed, |times| times.revoked)))],
    );
}

/// Until the first connection of a client.
fn connections(signed: &Signed, fwknop: Option<&Fwknop>, live: u32) {
    let mut subjects: Vec<Subject<'_>> = vec![
        (GATE, Box::new(|| median(signed, |times| times.connected))),
        ("jitctl, from its start, over TLS", Box::new(|| millis(by_process(signed)))),
    ];
    if let Some(fwknop) = fwknop {
        subjects.push((FWKNOP, Box::new(|| millis(fwknop.open()))));
    }
    let row = format!("first connection of a client, {}", many(live));
    in_turns((TABLE, &row), MILLIS, size(20, 2), &mut subjects);
}

/// The median of some pushes over one connection, milliseconds.
fn median(signed: &Signed, which: impl Fn(&Times) -> Duration) -> f64 {
    let mut times: Vec<_> = pushes(signed, size(10, 3)).iter().map(which).collect();
    times.sort_unstable();
    millis(times.get(times.len() / 2).copied().unwrap())
}

/// Opens the port for the client, connects, and closes it again.
fn pushes(signed: &Signed, number: usize) -> Vec<Times> {
    let [source, _] = CLIENT;
    let push = async |client: &mut jit_client::local::LocalClient| {
        let envelope = signed.for_source(source, LONG);
        let start = Instant::now();
        let answer = client.push(v1::PushRequest { envelope: Some(envelope) }).await?;
        let answered = start.elapsed();
        assert!(opens(address(TO_CLIENT, 0, 22), PATIENCE), "an answered grant is open");
        let connected = start.elapsed();
        let id = answer.into_inner().outcome.unwrap().grant_id;
        let what = Some(What::GrantId(id));
        let start = Instant::now();
        client.revoke(v1::RevokeRequest { what, reason: "bench".into(), cut: false }).await?;
        Ok::<_, tonic::Status>(Times { answered, connected, revoked: start.elapsed() })
    };
    let all = || {
        signed.site.call(async |mut client| {
            // The first call sets the connection up.
            push(&mut client).await?;
            let mut times = Vec::new();
            for _ in 0..number {
                times.push(push(&mut client).await?);
            }
            Ok(times)
        })
    };
    signed.site.client.run(all).unwrap()
}

/// The median of some pushes of a controller over one connection until their answers.
fn over_tls(signed: &Signed) -> Duration {
    let [server, _] = TO_CLIENT;
    let [source, _] = CLIENT;
    let tls = Tls {
        host: server.to_owned(),
        port: PORT,
        name: server.to_owned().try_into().unwrap(),
        ca: signed.site.path("pki/ca.pem"),
        cert: signed.site.path("pki/controller.pem"),
        key: signed.site.path("pki/controller.key"),
    };
    let target = Target { way: Way::Tls(Box::new(tls)), timeout: PATIENCE };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let all = async || {
        let mut agent = Agent::connect(&target).await?;
        let mut times = Vec::new();
        // The first call sets the connection up.
        for _ in 0..=size(10, 3) {
            let envelope = signed.for_source(source, LONG);
            let start = Instant::now();
            let outcome = agent.push(envelope).await?;
            times.push(start.elapsed());
            let what = What::GrantId(outcome.grant_id);
            let reason = "bench".into();
            agent.revoke(v1::RevokeRequest { what: Some(what), reason, cut: false }).await?;
        }
        Ok::<_, CallError>(times.split_off(1))
    };
    let mut times = signed.site.client.run(|| runtime.block_on(all())).unwrap();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap()
}

/// The same by the command line, as fwknop's client: from the start of its process.
fn by_process(signed: &Signed) -> Duration {
    let [server, _] = TO_CLIENT;
    let [source, _] = CLIENT;
    let agent = format!("{server}:{PORT}");
    let took = signed.site.client.run(|| {
        let start = Instant::now();
        let output = Command::new(binary("jitctl"))
            .args(["--agent", &agent, "--ca", "pki/ca.pem", "--cert", "pki/controller.pem"])
            .args(["--key", "pki/controller.key", "grant", "--signing-key", "ed25519.key"])
            .args(["--host", HOST, "--source", source, "--port", "22", "--for", "10m"])
            .args(["--requester", "bench", "--why", "bench"])
            .current_dir(signed.site.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(opens(address(TO_CLIENT, 0, 22), PATIENCE), "an answered grant is open");
        start.elapsed()
    });
    assert_eq!(signed.site.revoke(What::Requester("bench".into()), false).revoked, 1);
    took
}

/// Writes and syncs a block, again and again at the same place: the least that one push can take.
/// Returns milliseconds.
fn disk(path: PathBuf) -> impl FnMut() -> f64 {
    let mut file = File::create(path).unwrap();
    move || {
        let mut times: Vec<_> = (0..size(10, 3))
            .map(|_| {
                let start = Instant::now();
                file.seek(SeekFrom::Start(0)).unwrap();
                file.write_all(&WRITTEN).unwrap();
                file.sync_data().unwrap();
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        millis(times.get(times.len() / 2).copied().unwrap())
    }
}
