//! The tables, version by version. A released file is never changed: a change is a new file.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{Kind, Store, StoreError};

/// Name and statements of each version, written for SQLite.
const VERSIONS: [(i64, &str, &str); 1] = [(1, "core", include_str!("schema/0001_core.sql"))];

/// Brings the tables up to date.
pub(super) async fn run(store: &Store) -> Result<(), StoreError> {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        let sql = match store.kind {
            Kind::Sqlite => sql.to_owned(),
            Kind::Postgres => sql.replace(" BLOB ", " BYTEA "),
        };
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql, false)
    };
    let migrator = Migrator::with_migrations(VERSIONS.into_iter().map(migration).collect());
    Ok(migrator.run(&store.pool).await?)
}
