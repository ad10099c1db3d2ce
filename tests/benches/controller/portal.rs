//! The portal of a site with 20,000 requests and 5,000 hosts, whose people signed in with
//! passwords: how long each page takes and how much it weighs, and when a thousand open pages know
//! of a change.

mod browser;
mod crowd;
#[path = "../../../jit-agent/controller/tests/controller/open_page.rs"]
mod open_page;
mod pages;
mod streams;

use std::{
    thread,
    time::{Duration, Instant},
};

use jit_controller::store::Store;
use jit_tests::{controller::Stage, figures::size};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::runtime::Runtime;

/// Where people reach the pages: only with a name are there passkeys, whose script weighs too.
const URL: &str = "https://jit.example.org:8443";
/// Longest wait until the controller has seen that no host answers.
const SETTLING: Duration = Duration::from_secs(60);

/// 20,000 requests and 5,000 hosts, which nothing answers for.
pub(crate) fn measure() {
    more_files();
    let mut stage = Stage::new(None);
    stage.end_controller(Signal::TERM);
    stage.set_public_url(URL);
    let (requests, hosts) = size((20_000, 5_000), (200, 50));
    let url = Store::sqlite_url(&stage.own("controller.db"));
    let crowd = runtime().block_on(async {
        let store = Store::open(&url).await.unwrap();
        let crowd = crowd::fill(&store, hosts, requests).await;
        store.close().await;
        crowd
    });
    stage.start_controller(&[]);
    settle(&url);
    pages::measure(&stage, &crowd);
    streams::measure(&stage, &crowd);
}

/// Waits until the audit stands still: at first there is a record for each host that does not
/// answer.
fn settle(url: &str) {
    runtime().block_on(async {
        let store = Store::connect(url).await.unwrap();
        let began = Instant::now();
        let mut last = None;
        loop {
            let tip = store.audit_tip().await.unwrap();
            if last.as_ref() == Some(&tip) || began.elapsed() > SETTLING {
                break;
            }
            last = Some(tip);
            thread::sleep(size(Duration::from_secs(5), Duration::from_secs(1)));
        }
        store.close().await;
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A process may have 1024 open files, unless it asks for more: each open page is one.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}
