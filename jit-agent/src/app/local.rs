//! Keeps the unix socket for the command line: `status` and `revoke` of root's. It is made again if
//! the directory could not be used, or if somebody removed the file.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::{
    net::UnixListener,
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    app::{CHECK, RETRY, SELDOM},
    control::server::{self, Service},
    gate::faults::Faults,
    rules::problem::ProblemKind,
    system::{directory_watch::DirectoryWatch, sys},
};

/// Name of the fault.
const FAULT: ProblemKind = ProblemKind::LocalSocket;

/// Keeps the socket for as long as the agent runs. `first` is sent when it was tried once.
pub(super) async fn keep(
    socket: PathBuf,
    service: Service,
    faults: Faults,
    first: oneshot::Sender<()>,
) {
    let mut first = Some(first);
    loop {
        let opened = open(&socket);
        let problem = opened.as_ref().err().cloned();
        report(&faults, &socket, problem);
        if let Ok(listener) = opened {
            let service = service.clone();
            let mut serving = tokio::spawn(server::serve_unix(listener, service));
            if let Some(first) = first.take() {
                let _gone = first.send(());
            }
            // Before the place is read: every later change is then seen.
            let watch = socket.parent().and_then(|directory| DirectoryWatch::open(directory).ok());
            let ours = place(&socket);
            let why = loop {
                tokio::select! {
                    ended = &mut serving => break format!("the server for it ended: {ended:?}"),
                    () = may_have_changed(watch.as_ref()) => {
                        if place(&socket) != ours {
                            break "somebody removed or replaced it".to_owned();
                        }
                    }
                }
            };
            serving.abort();
            report(&faults, &socket, Some(why));
        } else {
            if let Some(first) = first.take() {
                let _gone = first.send(());
            }
            sleep(RETRY).await;
        }
    }
}

/// Waits until the socket's file has to be looked at again. The kernel reports what happens in its
/// directory, but not what happens above that.
pub(super) async fn may_have_changed(watch: Option<&DirectoryWatch>) {
    match watch {
        Some(watch) => match timeout(SELDOM, watch.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => sleep(CHECK).await,
        },
        None => sleep(CHECK).await,
    }
}

fn open(socket: &Path) -> Result<UnixListener, String> {
    if let Some(directory) = socket.parent() {
        sys::private_directory(directory, 0o750).map_err(|error| error.to_string())?;
    }
    server::bind_unix(socket).map_err(|error| error.to_string())
}

fn report(faults: &Faults, socket: &Path, why: Option<String>) {
    let text = why.map(|why| {
        let socket = socket.display();
        format!("cannot serve the command line on {socket}: {why}; it is tried again every 2 s")
    });
    if faults.set(FAULT, text.clone()) {
        match text {
            Some(text) => tracing::error!("{text}"),
            None => tracing::info!("serving the command line on {}", socket.display()),
        }
    }
}

/// Which file a path leads to.
pub(super) fn place(path: &Path) -> Result<(u64, u64), io::ErrorKind> {
    let metadata = fs::symlink_metadata(path).map_err(|error| error.kind())?;
    Ok((metadata.dev(), metadata.ino()))
}
