//! A thousand open pages: when the last of them knows what somebody decided, after the click.

use std::time::{Duration, Instant};

use jit_tests::{
    controller::{Stage, people::access},
    figures::{rounds, size},
};
use reqwest::{Client, Response};
use tokio::{task::JoinSet, time::timeout};

use super::{
    browser::{Browser, client, url},
    crowd::Crowd,
    open_page::Heard,
};
use crate::{millis, report, requests::resident};

/// One account has at most 50 open pages.
const OF_ONE: usize = 40;
/// Connections that are made at the same time.
const AT_ONCE: usize = 32;
/// Longest wait for an event, or for a place that was left.
const PATIENCE: Duration = Duration::from_secs(60);

/// Half of the pages show lists, half the request that somebody decides.
pub(super) fn measure(stage: &Stage, crowd: &Crowd) {
    let open: usize = size(1000, 20);
    let asks = stage.person("ana", "ana@example.org", &["sre"], &["read", "request"]);
    let mut signing_in = Vec::new();
    let browsers: Vec<_> = (0..open.div_ceil(OF_ONE))
        .map(|number| {
            let name = format!("viewer-{number:02}");
            let _token = stage.person(&name, &format!("{name}@example.org"), &["sre"], &["read"]);
            let (browser, took) = Browser::sign_in(stage, &name);
            signing_in.push(millis(took));
            browser
        })
        .collect();
    report("pages", "sign-in with a password", ("ms", false), signing_in);
    // Each page has a connection of its own, as of many browsers.
    let client = client(stage, |builder| builder.http1_only());
    let (mut half, mut last) = (Vec::new(), Vec::new());
    for round in 0..rounds(size(5, 1)) {
        // Over a new connection: who does nothing for a round answers no pings, and is cut off.
        let asks = asks.at(&stage.hub);
        let asked = asks.ask(&access(&[&crowd.host], &format!("203.0.113.{}", 1 + round), "1h"));
        let decides = browsers.first().unwrap();
        let mut times = decides.calls(async |decides| {
            let page = decides.get(&format!("/requests/{}", asked.id)).await;
            let list = decides.get("/requests?which=all").await;
            let live = [&page, &list].map(|page| page.between("data-live=\"").unwrap());
            let streams = open_all(&client, &browsers, &live, open).await;
            if round == 0 {
                resident(stage, &format!("{open} pages are open"));
            }
            let (key, hash) = (page.field("form_key"), page.field("hash"));
            let fields = [("form_key", &*key), ("ruling", "approve"), ("hash", &*hash)];
            let mut readers = JoinSet::new();
            for stream in streams {
                readers.spawn(changed(stream));
            }
            let clicked = Instant::now();
            let came = decides.post(&format!("/requests/{}/decision", asked.id), &fields).await;
            assert_eq!(came.status, 303, "{}", came.text);
            let heard = readers.join_all().await.into_iter();
            let after = |at: Instant| at.checked_duration_since(clicked).expect("not before it");
            heard.map(after).collect::<Vec<_>>()
        });
        times.sort_unstable();
        assert_eq!(times.len(), open);
        half.push(millis(*times.get(open / 2).unwrap()));
        last.push(millis(*times.last().unwrap()));
    }
    let row = |which: &str| format!("a decision, until {which} of {open} open pages knows it");
    report("streams", &row("the middle one"), ("ms", false), half);
    report("streams", &row("the last one"), ("ms", false), last);
}

/// Opens the streams of these pages, in turn by each browser.
async fn open_all(
    client: &Client,
    browsers: &[Browser],
    live: &[String; 2],
    number: usize,
) -> Vec<Response> {
    let mut streams = Vec::new();
    while streams.len() < number {
        let mut some = JoinSet::new();
        for place in (streams.len()..number).take(AT_ONCE) {
            let browser = browsers.get(place % browsers.len()).unwrap();
            let path = live.get(place % live.len()).unwrap();
            let call = client.get(url(path)).header("cookie", &browser.cookie);
            some.spawn(async move {
                let began = Instant::now();
                loop {
                    let response = call.try_clone().unwrap().send().await.unwrap();
                    // The controller may not have seen yet that the pages of the round before are
                    // closed.
                    if response.status() != 429 || began.elapsed() > PATIENCE {
                        assert_eq!(response.status(), 200);
                        return response;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        streams.extend(some.join_all().await);
    }
    streams
}

/// Reads a stream until it says that its page is old. Returns when that was.
async fn changed(mut stream: Response) -> Instant {
    let mut heard = Heard::default();
    let name = timeout(PATIENCE, async {
        loop {
            if let Some(name) = heard.take() {
                return name;
            }
            heard.add(&stream.chunk().await.unwrap().expect("the stream has ended"));
        }
    });
    assert_eq!(name.await.expect("no event comes"), "changed");
    Instant::now()
}
