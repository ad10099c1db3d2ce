//! The database: SQLite in a file of its own, or Postgres. The same statements run on both.
//!
//! A change and its audit record are one transaction ([`Store::begin`]); what was committed is on
//! disk. Nothing here decides.

pub mod accounts;
pub mod chains;
pub mod closings;
pub mod defender;
pub mod deliveries;
pub mod dump;
pub mod enrolments;
mod error;
pub mod grants;
pub mod heads;
pub mod hosts;
pub mod keys;
mod mail;
pub mod messages;
pub mod migrations;
pub mod oidc;
pub mod passkeys;
pub mod people;
pub mod requests;
pub mod rollouts;
pub mod rules;
pub mod settings;
pub mod uses;
pub mod webhooks;
mod whole;

use std::{
    collections::BTreeSet,
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
    time::Duration,
};

pub use accounts::Token;
pub use closings::{Closing, ClosingAnswer, ClosingCounts, ClosingLoad};
pub use defender::{DefenderHost, DefenderMachine, DefenderPolicy};
pub use deliveries::{Delivery, Wanted};
pub use enrolments::{
    CertificateWanted, Enrolment, EnrolmentState, EnrolmentToken, HostCertificate,
};
pub use error::{OfStore, StoreError, again};
pub use grants::StoredGrant;
pub use heads::AuditHead;
pub use hosts::StoredHost;
pub use keys::AccountKey;
pub use mail::Mail;
pub use messages::Message;
pub use oidc::{Arrival, ProviderSession};
pub use passkeys::{OwnedPasskey, Passkey};
pub use people::Session;
pub use requests::{Page, Request};
pub use rollouts::{Policy, Rollout, RolloutHost};
pub use rules::RulesVersion;
use sqlx::{
    Any, AnyConnection, AnyPool, Executor as _, Row as _, Transaction,
    any::{AnyArguments, AnyPoolOptions, install_default_drivers},
    query,
    query::Query,
};
use tokio::sync::{Mutex, OwnedMutexGuard};
pub use uses::Opened;
pub use webhooks::Webhook;
pub use whole::Whole;

/// A transaction. Dropped without a commit, it changes nothing.
#[derive(Debug)]
pub struct Tx {
    transaction: Transaction<'static, Any>,
    /// On SQLite: nobody else writes.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Tx {
    /// Makes it lasting.
    ///
    /// # Errors
    /// The database does not answer: it may have happened or not.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.transaction.commit().await?)
    }
}

impl Deref for Tx {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.transaction
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }
}

/// Longest wait for a connection of the pool or for another writer.
const WAIT: Duration = Duration::from_secs(10);
/// Connections to SQLite that read, and the one that writes.
const SQLITE_CONNECTIONS: [u32; 2] = [7, 1];
/// Connections to Postgres that read, and those for changes.
const POSTGRES_CONNECTIONS: [u32; 2] = [8, 8];

/// A statement with its values.
type Statement<'s> = Query<'s, Any, AnyArguments>;

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A server.
    Postgres,
    /// A file.
    Sqlite,
}

/// The database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
    /// For changes only: whoever waits for one of these waits for other changes, and not for the
    /// thousands that read when a fleet has come back.
    changes: AnyPool,
    kind: Kind,
    /// On SQLite writers wait here in the order in which they came: its own waiting sleeps longer
    /// and longer, and lets anybody through (sqlite3_busy_timeout).
    turn: Arc<Mutex<()>>,
}

impl Store {
    /// The URL of a file of SQLite.
    pub fn sqlite_url(file: &Path) -> String {
        format!("sqlite://{}", file.display())
    }

    /// Opens the database, makes it if it is a file that does not exist, and brings its tables up
    /// to date.
    ///
    /// # Errors
    /// It cannot be reached or opened, or a newer version has changed its tables.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let store = Self::reach(url, "rwc", None).await?;
        migrations::run(&store, None).await?;
        Ok(store)
    }

    /// The same with at most this number of connections. With one, whoever asks for another inside
    /// of a change waits for himself.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(url: &str, connections: u32) -> Result<Self, StoreError> {
        let store = Self::reach(url, "rwc", Some(connections)).await?;
        migrations::run(&store, None).await?;
        Ok(store)
    }

    /// The same with the tables of these versions only, to put rows into them that a copy holds.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_at(url: &str, versions: &BTreeSet<i64>) -> Result<Self, StoreError> {
        let store = Self::reach(url, "rwc", None).await?;
        migrations::run(&store, Some(versions)).await?;
        Ok(store)
    }

    /// Opens the database as it is, to look at it. A file that does not exist is not made.
    ///
    /// # Errors
    /// It cannot be reached or opened.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::reach(url, "rw", None).await
    }

    async fn reach(url: &str, mode: &str, most: Option<u32>) -> Result<Self, StoreError> {
        install_default_drivers();
        let kind = if url.starts_with("sqlite:") { Kind::Sqlite } else { Kind::Postgres };
        let url = match kind {
            Kind::Sqlite if !url.contains('?') => format!("{url}?mode={mode}"),
            Kind::Sqlite | Kind::Postgres => url.to_owned(),
        };
        let [reading, changing] = match (most, kind) {
            (Some(most), _) => [most, 0],
            (None, Kind::Sqlite) => SQLITE_CONNECTIONS,
            (None, Kind::Postgres) => POSTGRES_CONNECTIONS,
        };
        let pool =
            connections(kind, reading).connect(&url).await.map_err(StoreError::Unreachable)?;
        let changes = match changing {
            0 => pool.clone(),
            most => connections(kind, most).connect_lazy(&url).map_err(StoreError::Unreachable)?,
        };
        Ok(Self { pool, changes, kind, turn: Arc::default() })
    }

    /// The versions of its tables, the oldest first; none: it is empty.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn versions(&self) -> Result<BTreeSet<i64>, StoreError> {
        let there = match self.kind {
            Kind::Sqlite => "SELECT name FROM sqlite_master WHERE name = '_sqlx_migrations'",
            Kind::Postgres => {
                "SELECT CAST(relname AS TEXT) AS name FROM pg_class \
                 WHERE oid = to_regclass('_sqlx_migrations')"
            }
        };
        if query(there).fetch_optional(&self.pool).await?.is_none() {
            return Ok(BTreeSet::new());
        }
        let rows = query("SELECT version FROM _sqlx_migrations ORDER BY version");
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| row.try_get("version")).collect::<Result<_, _>>()?)
    }

    /// Which database it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What the server's clock says, milliseconds since the Unix epoch; `None`: it has none of its
    /// own.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn server_time_ms(&self) -> Result<Option<i64>, StoreError> {
        if self.kind == Kind::Sqlite {
            return Ok(None);
        }
        let now = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now";
        Ok(Some(query(now).fetch_one(&self.pool).await?.try_get("now")?))
    }

    /// Begins a change. On SQLite it waits until no other is under way.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let (statement, turn) = match self.kind {
            Kind::Sqlite => ("BEGIN IMMEDIATE", Some(Arc::clone(&self.turn).lock_owned().await)),
            Kind::Postgres => ("BEGIN", None),
        };
        Ok(Tx { transaction: self.changes.begin_with(statement).await?, _turn: turn })
    }

    /// A change of one statement. Returns the number of rows.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn change(&self, statement: Statement<'_>) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = statement.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.changes.close().await;
        self.pool.close().await;
    }

    pub(crate) const fn pool(&self) -> &AnyPool {
        &self.pool
    }
}

/// How connections are made, and kept.
fn connections(kind: Kind, most: u32) -> AnyPoolOptions {
    let options = AnyPoolOptions::new().max_connections(most).acquire_timeout(WAIT);
    options.after_connect(move |connection, _| {
        Box::pin(async move {
            if kind == Kind::Sqlite {
                // Commits are on disk, and readers do not wait for a writer (sqlite.org/wal.html).
                let setup = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                             PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000";
                connection.execute(setup).await?;
            }
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_waits_for_no_reader() {
        let directory = tempfile::tempdir().unwrap();
        let url = Store::sqlite_url(&directory.path().join("controller.db"));
        let store = Store::open(&url).await.unwrap();
        let mut reading = Vec::new();
        for _ in 0..SQLITE_CONNECTIONS[0] {
            reading.push(store.pool().acquire().await.unwrap());
        }
        assert!(store.pool().try_acquire().is_none(), "all of them read");
        store.begin().await.unwrap().commit().await.unwrap();
        let update = query("UPDATE token SET used_ms = 1 WHERE id = $1").bind("none");
        assert_eq!(store.change(update).await.unwrap(), 0);
    }
}
