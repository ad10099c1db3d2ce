//! The connection to the servers.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectOptions, Event,
    jetstream::{self, context::ContextBuilder},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{sync::watch, time::timeout};
use zeroize::Zeroizing;

use super::{BusError, Settings, inbox::Inboxes};

/// The oldest server that will do.
const LEAST: &str = "2.12.7";
const LEAST_PARTS: (i64, i64, i64) = (2, 12, 7);
/// The inboxes of a hub: the only ones that its nkey may read.
const HUB_INBOX: &str = "_INBOX_hub";
/// Those of the side with the store.
const API_INBOX: &str = "_INBOX_api";
/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Messages that wait here for the servers.
const OUTGOING: usize = 4096;
/// Messages that wait at a hub for whoever listens. More: a gap.
const INCOMING: usize = 65_536;
/// Reports that wait at the side with the store. More: they come out of the stream alone.
const REPORTS: usize = 1024;

/// A connection to the bus. It is made again whenever it ends. Clones are of the same.
#[derive(Clone)]
pub struct Bus {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    pub(super) settings: Arc<Settings>,
    pub(super) inboxes: Arc<Inboxes>,
    /// Counts the moments at which messages may have passed unseen.
    pub(super) gaps: watch::Receiver<u64>,
    /// Counts connections: what was under way on the one before may be lost.
    pub(super) renewed: watch::Receiver<u64>,
}

impl Bus {
    /// Connects as the side with the store, and sees to it that the streams are there.
    ///
    /// # Errors
    /// A file that cannot be used, no server, an old one, or a stream with other settings.
    pub async fn of_store(settings: Settings) -> Result<Self, BusError> {
        let bus = Self::connect(settings, API_INBOX, REPORTS).await?;
        bus.ensure_streams().await?;
        Ok(bus)
    }

    /// Connects as a hub, which may read mailboxes and report.
    ///
    /// # Errors
    /// A file that cannot be used, no server, or an old one.
    pub async fn of_hub(settings: Settings) -> Result<Self, BusError> {
        Self::connect(settings, HUB_INBOX, INCOMING).await
    }

    /// Whether its files can be used.
    ///
    /// # Errors
    /// One cannot.
    pub fn check_files(settings: &Settings) -> Result<(), BusError> {
        seed(&settings.nkey)?;
        check_tls(settings)
    }

    async fn connect(settings: Settings, inbox: &str, waiting: usize) -> Result<Self, BusError> {
        let seed = seed(&settings.nkey)?;
        check_tls(&settings)?;
        let (missed, gaps) = watch::channel(0_u64);
        let (made, renewed) = watch::channel(0_u64);
        let options = ConnectOptions::with_nkey(seed.to_string())
            .name("jit-controller")
            .require_tls(true)
            .add_root_certificates(settings.ca.clone())
            .add_client_certificate(settings.certificate.clone(), settings.key.clone())
            .ignore_discovered_servers()
            .custom_inbox_prefix(inbox)
            .connection_timeout(settings.timeout.saturating_mul(2))
            .request_timeout(Some(settings.timeout))
            .ping_interval(Duration::from_secs(5))
            .client_capacity(OUTGOING)
            .subscription_capacity(waiting)
            .reconnect_delay_callback(pause)
            .event_callback(move |event| {
                let gap = matches!(
                    event,
                    Event::Connected | Event::Disconnected | Event::SlowConsumer(_) | Event::Closed
                );
                if gap {
                    missed.send_modify(|number| *number = number.wrapping_add(1));
                }
                if matches!(event, Event::Connected) {
                    made.send_modify(|number| *number = number.wrapping_add(1));
                }
                tracing::info!(%event, "bus");
                std::future::ready(())
            });
        let client = options.connect(&settings.servers).await.map_err(|error| {
            BusError::Connect { servers: settings.servers.join(", "), why: causes(&error) }
        })?;
        let server = client.server_info();
        if !is_enough(&server.version) {
            let (server, version) = (server.server_name, server.version);
            return Err(BusError::Version { server, version, least: LEAST });
        }
        // This connection is no gap. Its event may come after the connection itself.
        let mut first = gaps.clone();
        drop(timeout(settings.timeout, first.wait_for(|number| *number > 0)).await);
        let inboxes = Inboxes::open(&client).await;
        let inboxes = inboxes.map_err(|error| BusError::api("listen for answers", error))?;
        let context = ContextBuilder::new()
            .timeout(settings.timeout)
            .ack_timeout(settings.timeout)
            .max_ack_inflight(OUTGOING)
            .build(client.clone());
        let (settings, inboxes) = (Arc::new(settings), Arc::new(inboxes));
        Ok(Self { client, context, settings, inboxes, gaps, renewed })
    }

    /// Sends what waits here, and ends the connection.
    ///
    /// # Errors
    /// It had ended already.
    pub async fn close(&self) -> Result<(), BusError> {
        self.client.drain().await.map_err(|error| BusError::api("close the connection", error))
    }

    /// The stream of hubs' reports.
    pub(super) fn reports_stream(&self) -> String {
        format!("{}UP", self.settings.stream)
    }
}

/// The pause before an attempt: any time up to twice that of the one before, so that not all come
/// back at the same moment. The first one is short: the other servers are there.
fn pause(attempts: usize) -> Duration {
    let doubled = Duration::from_millis(10) * (1 << attempts.min(9));
    doubled.min(LONGEST_PAUSE).mul_f64(0.1 + 0.9 * share())
}

/// A random number from 0 to 1.
pub(super) fn share() -> f64 {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0_u8; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}

/// Reads the seed of an nkey: a file that others may not read.
fn seed(file: &Path) -> Result<Zeroizing<String>, BusError> {
    let wrong = |why: String| BusError::File { file: file.to_owned(), why };
    let mode = fs::metadata(file).map_err(|error| wrong(error.to_string()))?.mode();
    if mode & 0o027 != 0 {
        let why = format!(
            "it is the seed of an nkey and others may read it or the group may write it (mode {:04o}): \
             `chmod 0600` or `0640`",
            mode & 0o7777
        );
        return Err(wrong(why));
    }
    let text = fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| wrong(error.to_string()))?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(seed), None) if nkeys::KeyPair::from_seed(seed).is_ok() && seed.starts_with("SU") => {
            Ok(Zeroizing::new(seed.to_owned()))
        }
        _ => Err(wrong("it is not one line with the seed of a user's nkey (SU...)".into())),
    }
}

/// Whether these files are what they should be. They are read again for each connection, so that
/// new certificates need no new start.
fn check_tls(settings: &Settings) -> Result<(), BusError> {
    let wrong = |file: &Path, why: String| BusError::File { file: file.to_owned(), why };
    for file in [&settings.ca, &settings.certificate] {
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        let all: Vec<_> = read.map_err(|error| wrong(file, error.to_string()))?;
        if all.is_empty() {
            return Err(wrong(file, "there is no certificate in it".into()));
        }
    }
    let key = PrivateKeyDer::from_pem_file(&settings.key);
    key.map(drop).map_err(|error| wrong(&settings.key, error.to_string()))
}

/// Whether a server of this version will do: `2.15.1`, `2.15.0-RC.1`.
fn is_enough(version: &str) -> bool {
    let release = version.split('-').next().unwrap_or_default();
    let mut parts = release.split('.').map(|part| part.parse::<i64>().ok());
    let mut next = || parts.next().flatten();
    match (next(), next(), next()) {
        (Some(major), Some(minor), Some(patch)) => {
            let found = (major, minor, patch);
            // What comes before the release may lack its corrections.
            found > LEAST_PARTS || (found == LEAST_PARTS && release == version)
        }
        _ => false,
    }
}

/// An error with all its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for good in ["2.12.7", "2.12.10", "2.15.1", "3.0.0", "2.14.0-RC.1"] {
            assert!(is_enough(good), "{good}");
        }
        for bad in ["2.12.6", "2.10.29", "2.12.7-RC.1", "1.99.99", "2.12", "", "x"] {
            assert!(!is_enough(bad), "{bad}");
        }
    }

    #[test]
    fn pauses_differ_and_stay_short() {
        let pauses: Vec<_> = (0..100).map(|_| pause(50)).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
    }

    #[test]
    fn a_seed_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bus.nk");
        let pair = nkeys::KeyPair::new_user();
        for (text, mode, good) in [
            (format!("{}\n", pair.seed().unwrap()), 0o600, true),
            (format!("{}\n", pair.seed().unwrap()), 0o640, true),
            (format!("{}\n", pair.seed().unwrap()), 0o644, false),
            (format!("{}\n", pair.seed().unwrap()), 0o660, false),
            (pair.public_key(), 0o600, false),
            (nkeys::KeyPair::new_account().seed().unwrap(), 0o600, false),
            (String::new(), 0o600, false),
        ] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(seed(&file).is_ok(), good, "{mode:o}");
        }
    }
}
