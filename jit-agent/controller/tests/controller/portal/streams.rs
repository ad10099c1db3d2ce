//! A thousand open pages: each has a connection of its own, and learns of a change.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use jit_controller::api::RawSettings;
use reqwest::{Certificate, Client, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::timeout;

use super::{Browser, asked::asked};
use crate::{api::Site, databases::Database, open_page::Heard};

/// Pages that are open at the same time.
const OPEN: usize = 1000;
/// Files that it takes: both ends of each connection, and room.
const FILES: u64 = 4096;
/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

on_each_database! {
    a_thousand_open_pages_learn_of_a_decision,
}

async fn a_thousand_open_pages_learn_of_a_decision(database: Database) {
    more_files();
    let raw = RawSettings {
        account_burst: Some(100_000),
        address_burst: Some(100_000),
        streams: Some(OPEN),
        account_streams: Some(OPEN),
        ..RawSettings::default()
    };
    let site = Site::with(database, raw, |_| {}).await;
    let (ana, bo) = (Browser::of(&site, "ana").await, Browser::of(&site, "bo").await);
    let page = asked(&ana).await;
    let hash = bo.get(&page).await.ok().field("hash");
    let id = page.trim_start_matches("/requests/");
    let (tip, _) = site.store().audit_tip().await.unwrap();
    let paths = [format!("/live?after={tip}"), format!("/live?after={tip}&request={id}")];

    let ca = Certificate::from_pem(site.ca.as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([ca]).no_proxy().http1_only().build().unwrap();
    let open = async |number: usize| {
        let who = if number.is_multiple_of(3) { &ana } else { &bo };
        let url = format!("{}{}", site.base, paths[number % paths.len()]);
        client.get(url).header("cookie", who.cookie()).send().await.unwrap()
    };
    let began = Instant::now();
    let streams: Vec<Response> = stream::iter(0..OPEN)
        .map(|number| async move {
            let response = open(number).await;
            assert_eq!(response.status(), 200, "{number}");
            response
        })
        .buffer_unordered(32)
        .collect()
        .await;
    println!("{} pages open after {:?}", streams.len(), began.elapsed());
    assert_eq!(open(OPEN).await.status(), 429, "one more is refused");

    // Pages are still read, and decisions made.
    let began = Instant::now();
    bo.get("/requests?which=all").await.ok();
    println!("a list beside them took {:?}", began.elapsed());
    let fields = [("ruling", "approve"), ("hash", hash.as_str())];
    bo.post(&format!("{page}/decision"), &fields).await.goes_to();
    let began = Instant::now();
    let heard = stream::iter(streams).map(|mut stream| async move {
        let event = timeout(PATIENCE, event(&mut stream)).await.expect("no event comes");
        assert_eq!(event, "changed");
        (began.elapsed(), stream)
    });
    let heard: Vec<(Duration, Response)> = heard.buffer_unordered(OPEN).collect().await;
    let mut times: Vec<_> = heard.iter().map(|(time, _)| *time).collect();
    times.sort();
    println!(
        "after the click: half knew it in {:?}, all in {:?}",
        times[OPEN / 2],
        times[OPEN - 1]
    );
    drop(heard);

    // The places are free again.
    let began = Instant::now();
    while open(0).await.status() != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "closed pages keep their places");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The next event of a stream. On a machine that takes long heartbeats come before it.
async fn event(stream: &mut Response) -> String {
    let mut heard = Heard::default();
    loop {
        if let Some(name) = heard.take() {
            return name;
        }
        heard.add(&stream.chunk().await.unwrap().expect("the stream has ended"));
    }
}

/// A process may have 1024 open files, unless it asks for more.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < FILES) {
        let wanted = Rlimit { current: Some(FILES), maximum: limit.maximum };
        setrlimit(Resource::Nofile, wanted).unwrap();
    }
}
