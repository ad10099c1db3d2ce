//! The process: what it refuses, what it survives, what it cannot do.

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jit_controller::{
    model::{Outcome, Proposal},
    signer::{SignRequest, SignerError},
};
use jit_proto::{payload_type::POLICY_TYPE, v1};
use prost::Message as _;

use crate::world::{
    PROGRAM, World, agreed, eventually, now_ms, process, proposal, remade, signs, verify, word,
};

#[tokio::test]
async fn what_was_agreed_to_is_signed_and_what_was_forged_is_refused_by_name() {
    let world = World::new();
    let signer = world.start().await;
    signs(&signer).await;
    type Forgery = fn(&mut SignRequest);
    let forgeries: [(&str, Forgery); 8] = [
        ("payload_differs", |r| {
            let mut grant = v1::Grant::decode(r.payload.as_slice()).unwrap();
            grant.ports[0].last = 65_535;
            r.payload = grant.encode_to_vec();
        }),
        ("hash_differs", |r| {
            r.proposal.hosts.push("web-2".into());
            remade(r);
        }),
        ("other_request", |r| {
            r.proposal = Proposal { id: ulid::Ulid::generate().to_string(), ..r.proposal.clone() };
            remade(r);
        }),
        ("self_approval", |r| {
            r.decisions[0].subject = r.proposal.requester.clone();
            r.decisions[0].account = "ana-admin".into();
        }),
        ("approval_missing", |r| r.decisions.clear()),
        ("not_covered", |r| r.verdict.outcome = Outcome::Manual),
        ("clock_off", |r| {
            r.approved_ms += 3_600_000;
            remade(r);
        }),
        ("ended", |r| {
            r.proposal.start_ms = Some(now_ms() - 3_700_000);
            r.decisions[0].hash = r.proposal.hash();
        }),
    ];
    for (expected, forge) in forgeries {
        let mut request = agreed(proposal());
        if expected == "not_covered" {
            request.verdict.rules.clear();
        }
        forge(&mut request);
        assert_eq!(word(signer.sign(&request).await), expected);
    }
    signs(&signer).await;
}

#[tokio::test]
async fn the_same_bytes_are_signed_again_and_other_bytes_never() {
    let world = World::new();
    let signer = world.start().await;
    let request = agreed(proposal());
    let first = signer.sign(&request).await.unwrap();
    assert_eq!(signer.sign(&request).await.unwrap(), first);
    let mut later = request.clone();
    later.approved_ms += 1;
    remade(&mut later);
    assert_eq!(word(signer.sign(&later).await), "signed_otherwise");
    drop(signer);
    let signer = world.start().await;
    assert_eq!(word(signer.sign(&later).await), "signed_otherwise");
    assert_eq!(signer.sign(&request).await.unwrap(), first);
}

/// Each request is asked for in two forms again and again, while the process is killed at any moment.
/// One form is signed in the end, and the other one never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_forms_one_is_signed_wherever_the_process_is_killed() {
    let world = World::new();
    let signer = world.start().await;
    let over = Arc::new(Mutex::new(false));
    let killer = tokio::spawn({
        let (signer, over) = (signer.clone(), Arc::clone(&over));
        async move {
            let mut kills = 0_u64;
            while kills < 40 && !*over.lock().unwrap() {
                // From right after the start to some signatures later.
                tokio::time::sleep(Duration::from_micros(kills * 4_999 % 40_000)).await;
                if let Some(pid) = process(&signer) {
                    kill(pid);
                    kills += 1;
                    while process(&signer) == Some(pid) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            kills
        }
    });
    let signed: Arc<Mutex<HashMap<String, Vec<i64>>>> = Arc::default();
    let mut asking = Vec::new();
    for number in 0..40 {
        let one = agreed(proposal());
        let mut other = one.clone();
        other.approved_ms += 1;
        remade(&mut other);
        for request in [one, other] {
            let (signer, signed) = (signer.clone(), Arc::clone(&signed));
            asking.push(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number * 30)).await;
                loop {
                    match signer.sign(&request).await {
                        Ok(_) => {
                            let id = request.proposal.id.clone();
                            signed.lock().unwrap().entry(id).or_default().push(request.approved_ms);
                            return;
                        }
                        Err(SignerError::Refused { word, .. }) => {
                            return assert_eq!(word, "signed_otherwise");
                        }
                        Err(SignerError::Unavailable(_)) => {}
                    }
                }
            }));
        }
    }
    for one in asking {
        one.await.unwrap();
    }
    *over.lock().unwrap() = true;
    let kills = killer.await.unwrap();
    assert!(kills >= 10, "killed {kills} times");
    let signed = signed.lock().unwrap();
    assert_eq!(signed.len(), 40);
    assert!(signed.values().all(|forms| forms.len() == 1), "{signed:?}");
    // Also afterwards, from the file alone.
    drop(signer);
    let journal = fs::read_to_string(&world.settings.journal).unwrap();
    let ids: Vec<_> = journal.lines().filter_map(|line| line.strip_prefix("g ")).collect();
    assert_eq!(ids.len(), 40, "{journal}");
}

#[tokio::test]
async fn a_process_that_crashes_is_started_again() {
    let world = World::new();
    let signer = world.start().await;
    let first = process(&signer).unwrap();
    kill(first);
    // What was not asked yet waits for the new process.
    eventually("the end is seen", async || process(&signer) != Some(first)).await;
    signs(&signer).await;
    assert_ne!(process(&signer), Some(first));
}

#[tokio::test]
async fn while_it_does_not_start_whoever_asks_hears_why_at_once() {
    let world = World::new();
    let signer = world.start().await;
    let (file, aside) = (world.path("signer.key"), world.path("aside.key"));
    fs::rename(&file, &aside).unwrap();
    kill(process(&signer).unwrap());
    eventually("the reason", async || {
        let asked = Instant::now();
        let answer = signer.sign(&agreed(proposal())).await;
        assert!(asked.elapsed() < Duration::from_secs(20), "{answer:?}");
        matches!(answer, Err(SignerError::Unavailable(why)) if why.contains("signer.key"))
    })
    .await;
    fs::rename(&aside, &file).unwrap();
    eventually("it signs again", async || signer.sign(&agreed(proposal())).await.is_ok()).await;
}

#[tokio::test]
async fn the_last_signer_that_is_dropped_ends_the_process() {
    let world = World::new();
    let signer = world.start().await;
    let pid = process(&signer).unwrap();
    let other = signer.clone();
    drop(signer);
    signs(&other).await;
    drop(other);
    eventually("the process ends", async || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn the_process_has_a_filter_no_new_privileges_and_no_core_dump() {
    let world = World::new();
    let signer = world.start().await;
    let pid = process(&signer).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.lines().any(|one| one == line), "{line}: {status}");
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    // Nothing is open but the socket, the error output, and the journal.
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open = open.map(|one| fs::read_link(one.unwrap().path()).unwrap());
    let files: Vec<_> = open.filter(|path| path.starts_with(world.directory.path())).collect();
    assert_eq!(files, [world.settings.journal.as_path()]);
}

#[tokio::test]
async fn signatures_are_limited_in_a_minute_also_after_a_crash() {
    let mut world = World::new();
    world.settings.limits.signatures_a_minute = 3;
    let signer = world.start().await;
    for _ in 0..3 {
        signs(&signer).await;
    }
    let too_fast = |result: Result<_, SignerError>| match result {
        Err(SignerError::Unavailable(why)) => assert!(why.starts_with("too_fast: "), "{why}"),
        other => panic!("{other:?}"),
    };
    too_fast(signer.sign(&agreed(proposal())).await);
    let pid = process(&signer).unwrap();
    kill(pid);
    eventually("the end is seen", async || process(&signer) != Some(pid)).await;
    too_fast(signer.sign(&agreed(proposal())).await);
}

#[tokio::test]
async fn big_inputs_are_bounded_and_the_biggest_request_fits() {
    let mut world = World::new();
    world.settings.limits.hosts_a_request = 10_000;
    let signer = world.start().await;
    let host = |number: usize| format!("{number:05}-{}", "x".repeat(250));
    let hosts = (0..10_000).map(host).collect();
    let mut request = agreed(Proposal { hosts, ..proposal() });
    request.number = 39;
    remade(&mut request);
    signer.sign(&request).await.unwrap();
    // More than a message may have.
    request.payload = vec![0; 8 * 1024 * 1024];
    assert_eq!(word(signer.sign(&request).await), "malformed");
    let mut many = agreed(proposal());
    many.decisions = vec![many.decisions[0].clone(); 20_000];
    assert_eq!(word(signer.sign(&many).await), "malformed");
    signs(&signer).await;
}

#[tokio::test]
async fn a_grant_is_shortened_only_if_it_was_signed_here() {
    let world = World::new();
    let signer = world.start().await;
    let old = agreed(proposal());
    let mut shorter = agreed(Proposal {
        id: ulid::Ulid::generate().to_string(),
        duration_ms: 60_000,
        replaces: Some(old.proposal.id.clone()),
        ..proposal()
    });
    shorter.verdict.outcome = Outcome::Automatic;
    shorter.verdict.rules.clear();
    shorter.decisions.clear();
    shorter.approvers.clear();
    shorter.replaces = vec![old.proposal.id.clone()];
    shorter.shortens = Some(old.payload.clone());
    remade(&mut shorter);
    assert_eq!(word(signer.sign(&shorter).await), "unknown_grant");
    signer.sign(&old).await.unwrap();
    signer.sign(&shorter).await.unwrap();
    let mut longer = shorter.clone();
    longer.proposal.id = ulid::Ulid::generate().to_string();
    longer.proposal.duration_ms = 7_200_000;
    remade(&mut longer);
    assert_eq!(word(signer.sign(&longer).await), "widens");
}

#[tokio::test]
async fn policies_are_signed_if_the_settings_say_so() {
    let mut world = World::new();
    let policy = v1::Policy {
        hosts: vec!["web-1".into()],
        version: 7,
        issued_at_ms: now_ms(),
        author: "ana".into(),
        justification: "new port".into(),
        ..v1::Policy::default()
    };
    let signer = world.start().await;
    assert_eq!(word(signer.sign_policy(policy.encode_to_vec()).await), "policies_off");
    drop(signer);
    world.settings.limits.policies = true;
    let signer = world.start().await;
    let signatures = signer.sign_policy(policy.encode_to_vec()).await.unwrap();
    verify(&signer, &policy.encode_to_vec(), POLICY_TYPE, &signatures);
    // A host that refused it gets the next one under the same version.
    let other = v1::Policy { justification: "another".into(), ..policy };
    signer.sign_policy(other.encode_to_vec()).await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let why = async |change: fn(&mut World)| {
        let mut world = World::new();
        change(&mut world);
        match world.try_start().await {
            Err(SignerError::Unavailable(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let missing = why(|world| fs::remove_file(world.path("signer.key")).unwrap()).await;
    assert!(missing.contains("signer.key"), "{missing}");
    let none = why(|world| world.settings.keys.clear()).await;
    assert!(none.contains("signer.keys"), "{none}");
    let strange = why(|world| fs::write(&world.settings.journal, "x".repeat(999)).unwrap()).await;
    assert!(strange.contains("damaged"), "{strange}");
    let nowhere = why(|world| world.settings.journal = "/nonexistent/j".into()).await;
    assert!(nowhere.contains("/nonexistent/j"), "{nowhere}");
    let world = World::new();
    let _first = world.start().await;
    let error = world.try_start().await.unwrap_err().to_string();
    assert!(error.contains("another signer"), "{error}");
}

#[test]
fn garbage_on_the_socket_ends_the_process() {
    let world = World::new();
    let settings = serde_json::to_string(&world.settings).unwrap();
    let open = message(&format!("{{\"open\":{settings}}}"));
    let after = |bytes: &[u8]| [&open[..], bytes].concat();
    for bad in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 64],
        message("{}"),
        message("{\"ask\":{\"number\":1,\"ask\":{\"policy\":{\"payload\":\"\"}}}}"),
        after(&[0xff; 4]),
        after(&message("{\"ask\":{\"number\":1,\"ask\":{\"grant\":{}}}}")),
        after(&message("[]")),
        after(&open),
        after(&open[..open.len() / 2]),
    ] {
        let (status, said, _) = spoken(&bad);
        assert!(!status.success(), "{:?}", String::from_utf8_lossy(&bad));
        assert!(said.starts_with("jit-controller signer: "), "{said}");
    }
    // And a good conversation ends well.
    assert!(spoken(&open).0.success());
    assert!(spoken(b"").0.success());
}

#[test]
fn it_is_not_started_by_hand() {
    let output = Command::new(PROGRAM).arg("signer").stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("jit-controller serve"), "{said}");
}

#[test]
fn a_process_that_closes_signs_nothing_that_opens() {
    let mut world = World::new();
    world.settings.limits.policies = true;
    world.settings.revocation_keys = std::mem::take(&mut world.settings.keys);
    let settings = serde_json::to_string(&world.settings).unwrap();
    let grant = serde_json::to_string(&agreed(proposal())).unwrap();
    let asks = [format!("{{\"grant\":{grant}}}"), "{\"policy\":{\"payload\":\"\"}}".into()];
    for (ask, word) in asks.iter().zip(["no_keys", "malformed"]) {
        let ask = format!("{{\"ask\":{{\"number\":1,\"ask\":{ask}}}}}");
        let bytes = [format!("{{\"open\":{settings}}}"), ask].map(|json| message(&json)).concat();
        let (status, said, answered) = spoken(&bytes);
        assert!(status.success(), "{said}");
        assert!(answered.contains(&format!("\"refused\":{{\"word\":\"{word}\"")), "{answered}");
    }
}

fn message(json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap().to_be_bytes();
    [&length[..], json.as_bytes()].concat()
}

/// Sends these bytes to a new process, then closes the connection. Returns how it ended, what it said on
/// standard error, and what it has answered.
fn spoken(bytes: &[u8]) -> (ExitStatus, String, String) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Command::new(PROGRAM)
        .arg("signer")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it has read everything.
    let _gone = ours.write_all(bytes);
    let _gone = ours.shutdown(std::net::Shutdown::Write);
    let mut answered = Vec::new();
    let _gone = ours.read_to_end(&mut answered);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap(), said, String::from_utf8_lossy(&answered).into_owned())
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ended_before = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}
