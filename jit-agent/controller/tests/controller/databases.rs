//! Databases for tests: a file of SQLite, and a database of a Postgres server that the tests start.

mod postgres;

use jit_controller::store::Store;
pub(crate) use postgres::postgres;
use tempfile::TempDir;

/// A database that goes away with the value, or with the server.
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

/// An empty file of SQLite.
pub(crate) async fn sqlite() -> Database {
    Database::new(|directory| Store::sqlite_url(&directory.path().join("controller.db")))
}

/// Makes a test of each function `async fn NAME(database: Database)` for each database.
macro_rules! on_each_database {
    ($($name:ident,)*) => {
        on_each_database!(@one sqlite, $($name,)*);
        on_each_database!(@one postgres, $($name,)*);
    };
    (@one $kind:ident, $($name:ident,)*) => {
        mod $kind {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::databases::$kind().await).await;
                }
            )*
        }
    };
}
