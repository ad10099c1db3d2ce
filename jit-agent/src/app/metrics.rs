//! Keeps the address that metrics are served on. An address that is taken or gone is a fault on the
//! board, and is tried again.

use std::{fs, path::Path};

use tokio::{sync::watch, time::timeout};

use crate::{
    app::{
        RETRY,
        local::{may_have_changed, place},
    },
    config::MetricsAddress,
    control::{
        metrics::{Listener, serve},
        server::Service,
    },
    gate::faults::Faults,
    rules::problem::ProblemKind,
    system::directory_watch::DirectoryWatch,
};

/// Name of the fault.
const FAULT: ProblemKind = ProblemKind::Metrics;

/// Keeps the address for as long as the agent runs.
pub(super) async fn keep(
    mut wanted: watch::Receiver<Option<MetricsAddress>>,
    service: Service,
    faults: Faults,
) {
    loop {
        let Some(address) = wanted.borrow_and_update().clone() else {
            faults.set(FAULT, None);
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        let listener = Listener::bind(&address);
        report(&faults, &address, listener.as_ref().err().map(ToString::to_string));
        let Ok(listener) = listener else {
            let _sooner = timeout(RETRY, wanted.changed()).await;
            continue;
        };
        let path = match &address {
            MetricsAddress::Loopback(_) => None,
            MetricsAddress::Unix(path) => Some(path.as_path()),
        };
        tokio::select! {
            () = serve(&listener, service.clone()) => {}
            () = gone(path) => {
                report(&faults, &address, Some("somebody removed or replaced it".into()));
            }
            changed = wanted.changed() => {
                if let Some(path) = path {
                    drop(fs::remove_file(path));
                }
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Waits until the socket's file is another one or none. A TCP port is never gone.
async fn gone(path: Option<&Path>) {
    let Some(path) = path else { return std::future::pending().await };
    // Before the place is read: every later change is then seen.
    let watch = path.parent().and_then(|directory| DirectoryWatch::open(directory).ok());
    let ours = place(path);
    while place(path) == ours {
        may_have_changed(watch.as_ref()).await;
    }
}

fn report(faults: &Faults, address: &MetricsAddress, why: Option<String>) {
    let text = why.map(|why| {
        format!(
            "cannot serve metrics on [metrics] listen = \"{address}\": {why}; it is tried again \
             every 2 s"
        )
    });
    let news = faults.set(FAULT, text.clone());
    match text {
        Some(text) if news => tracing::error!("{text}"),
        Some(_) => {}
        None => tracing::info!("serving metrics on {address}"),
    }
}
