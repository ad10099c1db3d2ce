//! Databases for tests: a file of SQLite, and a database of a Postgres server that the tests start.

use jit_controller::store::Store;
use tempfile::TempDir;

/// A database that goes away with the value.
pub(crate) struct Database {
    pub(crate) url: String,
    _directory: TempDir,
}

/// An empty file of SQLite.
pub(crate) fn sqlite() -> Database {
    let directory = tempfile::tempdir().unwrap();
    let url = Store::sqlite_url(&directory.path().join("controller.db"));
    Database { url, _directory: directory }
}

/// Makes a test of each function `async fn NAME(database: Database)` for each database.
macro_rules! on_each_database {
    ($($name:ident,)*) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::databases::sqlite()).await;
                }
            )*
        }
    };
}
