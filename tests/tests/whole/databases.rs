//! A real server of Postgres for these tests.

#[path = "../../../jit-agent/controller/tests/controller/databases/postgres.rs"]
mod server;

use tempfile::TempDir;

/// A database of the server.
pub(crate) struct Database {
    pub(crate) url: String,
    _directory: TempDir,
}

impl Database {
    fn new(url: impl FnOnce(&TempDir) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { url: url(&directory), _directory: directory }
    }
}

/// An empty database of Postgres.
pub(crate) fn postgres() -> Database {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server::postgres())
}
