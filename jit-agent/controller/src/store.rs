//! The database: SQLite in a file of its own, or Postgres. The same statements run on both.
//!
//! A change and its audit record are one transaction ([`Store::begin`]); what was committed is on disk.
//! Nothing here decides.

pub mod accounts;
pub mod deliveries;
mod error;
pub mod grants;
pub mod hosts;
mod migrations;
pub mod requests;
pub mod rules;
pub mod settings;

use std::{path::Path, time::Duration};

pub use accounts::Token;
pub use deliveries::{Delivery, Wanted};
pub use error::StoreError;
pub use grants::StoredGrant;
pub use hosts::StoredHost;
pub use requests::{Page, Request};
pub use rules::RulesVersion;
use sqlx::{
    Any, AnyPool, Executor as _, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
};

/// A transaction. Dropped without a commit, it changes nothing.
pub type Tx = Transaction<'static, Any>;

/// Longest wait for a connection of the pool or for another writer.
const WAIT: Duration = Duration::from_secs(10);
/// Connections to SQLite: one writes, the others read.
const SQLITE_CONNECTIONS: u32 = 8;
/// Connections to Postgres.
const POSTGRES_CONNECTIONS: u32 = 16;

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
    kind: Kind,
}

impl Store {
    /// The URL of a file of SQLite.
    pub fn sqlite_url(file: &Path) -> String {
        format!("sqlite://{}", file.display())
    }

    /// Opens the database, makes it if it is a file that does not exist, and brings its tables up to date.
    ///
    /// # Errors
    /// It cannot be reached or opened, or a newer version has changed its tables.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        install_default_drivers();
        let kind = if url.starts_with("sqlite:") { Kind::Sqlite } else { Kind::Postgres };
        let url = match kind {
            Kind::Sqlite if !url.contains('?') => format!("{url}?mode=rwc"),
            Kind::Sqlite | Kind::Postgres => url.to_owned(),
        };
        let most = match kind {
            Kind::Sqlite => SQLITE_CONNECTIONS,
            Kind::Postgres => POSTGRES_CONNECTIONS,
        };
        let options = AnyPoolOptions::new()
            .max_connections(most)
            .acquire_timeout(WAIT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if kind == Kind::Sqlite {
                        // Commits are on disk, and readers do not wait for a writer (sqlite.org/wal.html).
                        let setup = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                                     PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000";
                        connection.execute(setup).await?;
                    }
                    Ok(())
                })
            });
        let pool = options.connect(&url).await.map_err(StoreError::Unreachable)?;
        let store = Self { pool, kind };
        migrations::run(&store).await?;
        Ok(store)
    }

    /// Which database it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Begins a change. On SQLite it waits until no other is under way.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let statement = match self.kind {
            Kind::Sqlite => "BEGIN IMMEDIATE",
            Kind::Postgres => "BEGIN",
        };
        Ok(self.pool.begin_with(statement).await?)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) const fn pool(&self) -> &AnyPool {
        &self.pool
    }
}
