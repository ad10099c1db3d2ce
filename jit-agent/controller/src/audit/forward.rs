//! Sends the audit to a receiver of syslog over TLS (RFC 5425), each record at least once.
//!
//! Syslog has no acknowledgement: what was written to a connection that breaks may be lost. So the
//! cursor moves only when the receiver has closed the connection after the sender's own closing alert
//! (RFC 5425, section 4.4), and so has read everything before it. A connection therefore carries the
//! records of a few seconds. If it breaks, all of them are sent again: doubles are possible, gaps are not.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{export::Format, syslog};
use crate::store::{Store, StoreError};

/// Longest wait for a connection, and for the receiver to take what is written.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for new records.
const LOOK: Duration = Duration::from_millis(500);
/// The most records of a connection.
const MOST: usize = 5000;
/// Records that are read at once.
const PAGE: u32 = 500;

/// A receiver.
#[derive(Clone)]
pub struct Receiver {
    /// The name of its cursor: `HOST:PORT`.
    pub name: String,
    /// Where it listens: `HOST:PORT`.
    pub server: String,
    /// The name that its certificate must bear.
    pub server_name: ServerName<'static>,
    /// Authority, and certificate of the controller.
    pub tls: Arc<ClientConfig>,
    /// The form of the records.
    pub format: Format,
    /// How long connections last, and what is waited after a failure.
    pub pace: Pace,
}

/// How long connections last, and what is waited after a failure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a connection is kept for further records.
    pub linger: Duration,
    /// The first wait after a failure; each is twice the one before.
    pub first_wait: Duration,
    /// The longest.
    pub longest_wait: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(5),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
        }
    }
}

/// The task that sends. It ends with the value's [`Forward::end`].
#[derive(Debug)]
pub struct Forward {
    stop: watch::Sender<bool>,
    trouble: watch::Receiver<String>,
    task: JoinHandle<()>,
}

/// Why records were not sent.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it closed the connection before everything was sent")]
    ClosedEarly,
    #[error("it did not answer within {PATIENCE:?}")]
    Silent,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Forward {
    /// Starts it.
    pub fn start(store: Store, receiver: Receiver) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (say, trouble) = watch::channel(String::new());
        let task = tokio::spawn(run(store, receiver, stopped, say));
        Self { stop, trouble, task }
    }

    /// Why the receiver gets nothing now; empty: it does.
    pub fn trouble(&self) -> String {
        self.trouble.borrow().clone()
    }

    /// Sends what can be sent at once, and ends.
    pub async fn end(self) {
        let _gone = self.stop.send(true);
        let _panicked = self.task.await;
    }
}

async fn run(
    store: Store,
    receiver: Receiver,
    mut stopped: watch::Receiver<bool>,
    trouble: watch::Sender<String>,
) {
    let Pace { first_wait, longest_wait, .. } = receiver.pace;
    let mut wait = first_wait;
    let host = syslog::host_name();
    loop {
        let stopping = *stopped.borrow();
        let pause = match round(&store, &receiver, &host, &stopped).await {
            Ok(()) => {
                if !trouble.borrow().is_empty() {
                    tracing::info!("syslog {}: it takes the audit again", receiver.server);
                    trouble.send_replace(String::new());
                }
                wait = first_wait;
                LOOK
            }
            Err(error) => {
                let why = error.to_string();
                if *trouble.borrow() != why {
                    tracing::warn!(
                        "syslog {}: the audit cannot be sent, and is tried again: {why}",
                        receiver.server
                    );
                    trouble.send_replace(why);
                }
                let pause = jittered(wait);
                wait = (wait * 2).min(longest_wait);
                pause
            }
        };
        if stopping {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = stopped.changed() => {}
        }
    }
}

/// Between a half and the whole: many controllers do not come back at once.
fn jittered(wait: Duration) -> Duration {
    let nanos = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs();
    wait / 2 + wait.mul_f64(f64::from(nanos % 1000) / 2000.0)
}

/// Sends what there is over one connection, and keeps how far the receiver got. Without records it does
/// nothing.
async fn round(
    store: &Store,
    receiver: &Receiver,
    host: &str,
    stopped: &watch::Receiver<bool>,
) -> Result<(), Failure> {
    let mut last = store.audit_cursor(&receiver.name).await?;
    let mut page = store.audit_after(last, PAGE).await?;
    if page.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let mut stream = patient(connect(receiver)).await?;
    let distance = begun.elapsed();
    let mut sent = 0;
    loop {
        let mut bytes = Vec::new();
        for line in &page {
            bytes.extend(syslog::frame(line, host, &receiver.format.line(line)));
            last = line.seq;
        }
        sent += page.len();
        patient(async { Ok(stream.write_all(&bytes).await?) }).await?;
        patient(async { Ok(stream.flush().await?) }).await?;
        let linger = receiver.pace.linger;
        loop {
            if sent >= MOST || begun.elapsed() >= linger || *stopped.borrow() {
                close(stream, distance).await?;
                store.set_audit_cursor(&receiver.name, last, now_ms()).await?;
                return Ok(());
            }
            page = store.audit_after(last, PAGE).await?;
            if !page.is_empty() {
                break;
            }
            // A receiver says nothing: what comes is its end.
            match timeout(LOOK.min(linger), stream.read(&mut [0; 64])).await {
                Err(_) => {}
                Ok(Ok(0)) => return Err(Failure::ClosedEarly),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
        }
    }
}

async fn patient<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, what).await.unwrap_or(Err(Failure::Silent))
}

async fn connect(receiver: &Receiver) -> Result<TlsStream<TcpStream>, Failure> {
    let tcp = TcpStream::connect(receiver.server.as_str()).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::clone(&receiver.tls));
    Ok(connector.connect(receiver.server_name.clone(), tcp).await?)
}

/// Closes, and waits until the receiver has closed too. `distance`: how long the handshake took.
async fn close(mut stream: TlsStream<TcpStream>, distance: Duration) -> Result<(), Failure> {
    patient(async { Ok(stream.shutdown().await?) }).await?;
    patient(async {
        let mut bytes = [0; 64];
        // A connection that ends without the closing alert is an error here: it was cut.
        while stream.read(&mut bytes).await? > 0 {}
        Ok(())
    })
    .await?;
    // A receiver that closed on its own, at the same moment, answers the last records with a reset.
    sleep(distance.clamp(Duration::from_millis(50), Duration::from_secs(2))).await;
    match stream.get_ref().0.take_error()? {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
