//! Bytes: requests that do not end, that are too large, or that grow when they are decoded, and
//! answers that nobody takes.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jit_client::agent::Agent;
use jit_proto::v1;

use crate::{
    http2::{self, Raw, message},
    scene::{Flood, LONG, Scene, granted, numbered, size},
};

const MIB: usize = 1024 * 1024;
/// Calls at once on one connection.
const CALLS: u32 = 8;

/// A connection of the bad controller. It offers this window for answers.
fn connect(scene: &Scene, window: Option<u32>) -> Option<Raw> {
    let config = scene.credentials("bad");
    let mut raw = http2::connect(&config, Scene::source(), Scene::for_strangers(0)).ok()?;
    match window {
        Some(window) => raw.greet(window).ok()?,
        None => raw.greet_well().ok()?,
    }
    Some(raw)
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// Calls with this body, of which none is ended.
fn unfinished(scene: &Scene, head: &[u8], body: &[u8], calls: u32, within: u64) -> Option<Raw> {
    let mut raw = connect(scene, None)?;
    streams(calls).try_for_each(|stream| raw.begin(stream, head)).ok()?;
    let mut bodies: Vec<_> = streams(calls).map(|stream| (stream, body)).collect();
    raw.send(&mut bodies, Duration::from_secs(within)).ok()?;
    Some(raw)
}

#[test]
fn bodies_without_an_end_take_a_bounded_memory() {
    let scene = Scene::new();
    let mut body = message(&vec![0; 4 * MIB - 64]);
    body.truncate(4 * MIB - 128);
    scene.under(|flood| {
        let head = http2::call("PushBatch", &[]);
        scene.stranger(|| {
            let held: Vec<_> = (0..size(24, 40))
                .filter_map(|_| unfinished(&scene, &head, &body, CALLS, 1))
                .collect();
            assert!(!held.is_empty());
            // A good controller's large batch does not wait for them.
            let began = Instant::now();
            assert_eq!(push(&scene, 4_000), 4_000);
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            drop(flood.hold(held));
        });
    });
}

/// A large batch of the good controller; returns the number of outcomes. None is a grant.
fn push(scene: &Scene, count: usize) -> usize {
    let envelope = v1::Envelope { payload: vec![7; 200].into(), ..v1::Envelope::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    scene.site().client.run(|| {
        runtime.block_on(async {
            let mut agent = Agent::connect(&scene.target("good")).await.unwrap();
            agent.push_batch(vec![envelope; count]).await.unwrap().len()
        })
    })
}

/// Sends the same call again and again, to its end.
pub(crate) fn repeated(scene: &Scene, flood: &Flood, head: &[u8], body: &[u8]) {
    scene.stranger(|| {
        while flood.goes_on() {
            let Some(mut raw) = unfinished(scene, head, body, 2, 10) else { continue };
            let open: Vec<_> = streams(2).filter(|stream| !raw.ended.contains(stream)).collect();
            let ended = open.iter().try_for_each(|stream| raw.finish(*stream));
            let deadline = Instant::now() + Duration::from_secs(10);
            while ended.is_ok()
                && !raw.gone
                && streams(2).any(|stream| !raw.ended.contains(&stream))
                && flood.goes_on()
            {
                assert!(Instant::now() < deadline, "no answer: {:?}", raw.ended);
                if raw.listen(Duration::from_millis(50)).is_err() {
                    break;
                }
            }
            flood.is_up();
        }
    });
}

#[test]
fn messages_of_five_mebibytes_keep_nobody_out() {
    let scene = Scene::new();
    let mut body = message(&vec![0; 5 * MIB]);
    let head = http2::call("PushBatch", &[]);
    scene.under(|flood| repeated(&scene, flood, &head, &body));
    // What is longer than it says is not read to its end.
    body[1..5].copy_from_slice(&20_000_u32.to_be_bytes());
    scene.stranger(|| {
        let raw = unfinished(&scene, &head, &body, 1, 5).unwrap();
        assert!(raw.ended.contains(&1), "{:?}", raw.ended);
    });
}

#[test]
fn empty_envelopes_are_counted_before_they_are_decoded() {
    let scene = Scene::new();
    let body = message(&[10, 0].repeat(2 * MIB - 64));
    scene.under(|flood| repeated(&scene, flood, &http2::call("PushBatch", &[]), &body));
}

#[test]
fn a_gzip_bomb_is_not_unpacked() {
    let scene = Scene::new();
    let size = size(256, 2_048);
    let output = Command::new("sh")
        .args(["-c", &format!("head -c {size}M /dev/zero | gzip")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut body = message(&output.stdout);
    body[0] = 1;
    let head = http2::call("PushBatch", &[("grpc-encoding", "gzip")]);
    scene.under(|flood| repeated(&scene, flood, &head, &body));
}

/// A connection with as many calls as it may have, and no window for their answers.
fn asks_without_reading(scene: &Scene, head: &[u8]) -> Option<Raw> {
    let mut raw = connect(scene, Some(0))?;
    for stream in streams(CALLS) {
        raw.begin(stream, head).ok()?;
        raw.send(&mut [(stream, &message(&[]))], Duration::from_secs(1)).ok()?;
        raw.finish(stream).ok()?;
    }
    Some(raw)
}

/// Long answers, and no window for them.
#[test]
fn lists_that_nobody_takes_are_few() {
    let scene = Scene::new();
    scene.under(|flood| {
        granted(scene.site(), u32::try_from(size(3_000, 50_000)).unwrap());
        let head = http2::call("List", &[]);
        scene.stranger(|| {
            let asks = (0..size(32, 125)).filter_map(|_| asks_without_reading(&scene, &head));
            let held: Vec<_> = asks.collect();
            drop(flood.hold(held));
        });
    });
}

#[test]
fn watchers_that_do_not_read_keep_nobody_out() {
    let scene = Scene::new();
    scene.under(|flood| {
        let head = http2::call("Watch", &[]);
        scene.stranger(|| {
            let watchers = (0..125).filter_map(|_| asks_without_reading(&scene, &head));
            let held: Vec<_> = watchers.collect();
            assert!(held.len() > 100, "{}", held.len());
            // They get something to read.
            granted(scene.site(), u32::try_from(size(200, 5_000)).unwrap());
            drop(flood.hold(held));
        });
    });
}

/// A controller that has a signing key pushes as much as it can.
#[test]
fn good_grants_without_number_keep_nobody_out() {
    let scene = Scene::new();
    let [count, batch] = [size(6_000, 100_000), size(100, 500)].map(|n| u32::try_from(n).unwrap());
    let pushed = scene.under(|flood| {
        // It ends with the flood, and its connections with it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut pushed = 0;
        while flood.goes_on() && pushed < count {
            let envelopes: Vec<_> = (pushed..pushed + batch)
                .map(|number| scene.site().envelope(&[&numbered(number)], LONG))
                .collect();
            let outcomes = scene.site().client.run(|| {
                runtime.block_on(async {
                    let mut agent = Agent::connect(&scene.target("bad")).await.unwrap();
                    agent.push_batch(envelopes).await.unwrap()
                })
            });
            // Root revokes everything meanwhile, and with it what was signed until then.
            let good = |one: &v1::Outcome| one.accepted || one.reason == "revoked";
            assert!(outcomes.iter().all(good), "{:?}", outcomes[0]);
            pushed += u32::try_from(outcomes.len()).unwrap();
            flood.is_up();
        }
        pushed
    });
    println!("{pushed} grants");
}
