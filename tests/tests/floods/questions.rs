//! Questions without end: each answer to `why` runs the loaded programs, in the gate's own task.

use std::{
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use prost::Message as _;

use crate::{
    bytes::repeated,
    http2::{self, message},
    scene::{Flood, Scene, size},
};

/// `status` answers within this time, whatever else the agent does.
const STATUS: Duration = Duration::from_secs(2);

fn question() -> v1::WhyRequest {
    v1::WhyRequest {
        source: vec![203, 0, 113, 9].into(),
        protocol: v1::Protocol::Tcp.into(),
        port: 22,
        requester: "ana@example.org".into(),
    }
}

/// Somebody on the host asks, many times at once.
fn asks_locally(scene: &Scene, flood: &Flood) {
    while flood.goes_on() {
        let answered = scene.site().call(async |client| {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..32 {
                let mut client = client.clone();
                calls.spawn(async move { client.why(question()).await });
            }
            while let Some(answer) = calls.join_next().await {
                answer.unwrap()?;
            }
            Ok(())
        });
        // The agent may refuse what is too much.
        drop(answered);
        flood.is_up();
    }
}

#[test]
fn questions_without_end_keep_nobody_out() {
    let scene = Scene::new();
    let (head, body) = (http2::call("Why", &[]), message(&question().encode_to_vec()));
    let worst = scene.under(|flood| {
        thread::scope(|scope| {
            for _ in 0..size(4, 14) {
                scope.spawn(|| repeated(&scene, flood, &head, &body));
                scope.spawn(|| asks_locally(&scene, flood));
            }
            let mut worst = Duration::ZERO;
            while flood.goes_on() {
                let began = Instant::now();
                let status =
                    scene.site().call(async |mut client| client.status(v1::StatusRequest {}).await);
                status.unwrap();
                worst = worst.max(began.elapsed());
            }
            worst
        })
    });
    println!("the status within {worst:?}");
    assert!(worst < STATUS, "the status took {worst:?}");
}
