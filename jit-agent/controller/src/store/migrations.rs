//! The tables, version by version. A released file is never changed: a change is a new file.

use std::{borrow::Cow, collections::BTreeSet};

use sqlx::{
    SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{Kind, Store, StoreError};

/// Name and statements of each version, written for SQLite.
const VERSIONS: &[(i64, &str, &str)] = &[
    (1, "core", include_str!("schema/0001_core.sql")),
    (2, "rollouts", include_str!("schema/0002_rollouts.sql")),
    (3, "webhooks", include_str!("schema/0003_webhooks.sql")),
    (4, "audit", include_str!("schema/0004_audit.sql")),
    (5, "keys", include_str!("schema/0005_keys.sql")),
    (6, "held", include_str!("schema/0006_held.sql")),
    (7, "messages", include_str!("schema/0007_messages.sql")),
    (8, "people", include_str!("schema/0008_people.sql")),
    (9, "defender", include_str!("schema/0009_defender.sql")),
    (10, "oidc", include_str!("schema/0010_oidc.sql")),
    (11, "passkeys", include_str!("schema/0011_passkeys.sql")),
    (12, "enrolment", include_str!("schema/0012_enrolment.sql")),
    (13, "closings", include_str!("schema/0013_closings.sql")),
    (14, "issuing", include_str!("schema/0014_issuing.sql")),
    (15, "due", include_str!("schema/0015_due.sql")),
];

/// The versions of the tables that this program knows, the oldest first.
pub fn versions() -> Vec<i64> {
    VERSIONS.iter().map(|(version, _, _)| *version).collect()
}

/// The tables of these versions, each after those that it refers to.
pub fn tables(versions: &BTreeSet<i64>) -> Vec<&'static str> {
    let of_version = VERSIONS.iter().filter(|(version, _, _)| versions.contains(version));
    let lines = of_version.flat_map(|(_, _, sql)| sql.lines());
    lines.filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split(' ').next()).collect()
}

/// Brings the tables up to date; `only`: no further than these versions, to restore a copy of them.
pub(super) async fn run(store: &Store, only: Option<&BTreeSet<i64>>) -> Result<(), StoreError> {
    let migration = |(version, name, sql): &(i64, &'static str, &'static str)| {
        let sql = match store.kind {
            Kind::Sqlite => (*sql).to_owned(),
            Kind::Postgres => sql.replace(" BLOB ", " BYTEA "),
        };
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, sql, false)
    };
    let wanted =
        VERSIONS.iter().filter(|(version, _, _)| only.is_none_or(|only| only.contains(version)));
    let migrator = Migrator::with_migrations(wanted.map(migration).collect());
    match migrator.run(&store.pool).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => Err(StoreError::Newer(version)),
        Err(error) => Err(error.into()),
    }
}
