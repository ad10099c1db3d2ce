//! Tables of every version come to the last one with their rows, and those of a later program are left
//! alone. A copy of all rows goes from either database into either.

use std::collections::{BTreeMap, BTreeSet};

use jit_controller::store::{
    Store, StoreError,
    dump::{self, DumpError},
    migrations::{tables, versions},
};

use crate::{
    databases::{Database, postgres, sqlite},
    filled::{by_hand, count, fill, fill_all, record},
};

on_each_database! {
    rows_of_every_version_survive_to_the_last,
    tables_of_a_later_version_are_refused_by_name,
    a_copy_holds_every_row,
    a_copy_is_put_into_an_empty_database_only,
    a_copy_is_of_one_moment,
}

async fn dumped(store: &Store) -> Vec<u8> {
    let mut out = Vec::new();
    dump::write(store, &mut out, |_| {}).await.unwrap();
    out
}

/// For each version: rows in all tables that it has, and then all versions after it. The last version is
/// the first one here: so who fails names the version whose successor loses rows. What a column holds is
/// not of a kind that only this program writes, so that a new version needs nothing here.
async fn rows_of_every_version_survive_to_the_last(database: Database) {
    let all = versions();
    let is_postgres = database.url.starts_with("postgres");
    for (at, first) in all.iter().enumerate().rev() {
        let database = if is_postgres { postgres().await } else { sqlite().await };
        let until: BTreeSet<i64> = all[..=at].iter().copied().collect();
        let store = Store::open_at(&database.url, &until).await.unwrap();
        assert_eq!(store.versions().await.unwrap(), until);
        let tables = tables(&until);
        fill_all(&database.url, &tables).await;
        let before = rows(&dumped(&store).await);
        store.close().await;
        for table in &tables {
            let count = before.iter().filter(|row| row.table == *table).count();
            assert!(count >= 2, "version {first}: {count} rows in {table}");
        }
        // The program itself opens them, and they go into a backup and out of it.
        let store = Store::open(&database.url).await.unwrap();
        assert!(store.versions().await.unwrap().iter().eq(&all));
        let copy = dumped(&store).await;
        let now = rows(&copy);
        for row in &before {
            let same = |one: &&Row| one.table == row.table && row.is_within(one);
            assert!(now.iter().any(|one| same(&one)), "what came after {first} lost {row:?}");
        }
        let target = sqlite().await;
        let restored = Store::open(&target.url).await.unwrap();
        dump::restore(&restored, &mut copy.as_slice(), |_| {}).await.unwrap();
        assert_eq!(dumped(&restored).await, copy);
    }
}

/// A row of a copy.
#[derive(Debug)]
struct Row {
    table: String,
    columns: BTreeMap<String, serde_json::Value>,
}

impl Row {
    /// Whether the other has all of its columns with the same values. It may have more.
    fn is_within(&self, other: &Self) -> bool {
        self.columns.iter().all(|(name, value)| other.columns.get(name) == Some(value))
    }
}

fn rows(copy: &[u8]) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut input = copy;
    dump::read(&mut input, |_, row| {
        let columns = row.columns.iter().cloned().zip(row.values.iter().cloned()).collect();
        rows.push(Row { table: row.table.to_owned(), columns });
        Ok(())
    })
    .unwrap();
    rows
}

async fn tables_of_a_later_version_are_refused_by_name(database: Database) {
    Store::open(&database.url).await.unwrap().close().await;
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
                 execution_time) SELECT 9999, description, success, checksum, execution_time \
                 FROM _sqlx_migrations WHERE version = 1";
    by_hand(&database.url, later).await;
    let error = Store::open(&database.url).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer(9999)), "{error}");
    assert!(error.to_string().contains("later jit-controller"), "{error}");
}

async fn a_copy_holds_every_row(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    fill(&store).await;
    store.set_audit_cursor("siem", 1, 7).await.unwrap();
    let copy = dumped(&store).await;
    for target in [sqlite().await, postgres().await] {
        let versions = store.versions().await.unwrap();
        let restored = Store::open_at(&target.url, &versions).await.unwrap();
        let mut most = 0;
        let rows =
            dump::restore(&restored, &mut copy.as_slice(), |rows| most = rows).await.unwrap();
        assert_eq!((rows, rows), (most, store.row_count().await.unwrap()));
        assert_eq!(dumped(&restored).await, copy);
        for table in tables(&versions) {
            assert_eq!(count(&target.url, table).await, count(&database.url, table).await);
        }
    }
}

async fn a_copy_is_put_into_an_empty_database_only(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    fill(&store).await;
    let copy = dumped(&store).await;
    let again = dump::restore(&store, &mut copy.as_slice(), |_| {}).await.unwrap_err();
    assert!(matches!(again, DumpError::NotEmpty(_)), "{again}");
    // What is cut, or names something else, changes nothing.
    let text = String::from_utf8(copy).unwrap();
    let target = sqlite().await;
    let empty = Store::open(&target.url).await.unwrap();
    for bad in [
        text[..text.len() - 5].to_owned(),
        format!("{text}{{\"table\":\"sqlite_master\",\"columns\":[\"name\"]}}\n[\"x\"]\n"),
        text.replacen("\"columns\":[\"name\"", "\"columns\":[\"name); DROP\"", 1),
        text.replacen("[\"ana\",", "[\"ana\",1,", 1),
    ] {
        let error = dump::restore(&empty, &mut bad.as_bytes(), |_| {}).await.unwrap_err();
        assert!(matches!(error, DumpError::Line { .. }), "{error}");
        assert_eq!(empty.row_count().await.unwrap(), 1, "only the end of the audit");
    }
}

async fn a_copy_is_of_one_moment(database: Database) {
    let store = Store::open(&database.url).await.unwrap();
    record(&store, 0, 200).await;
    let (copy, ()) = tokio::join!(dumped(&store), record(&store, 200, 200));
    let mut last = 0;
    let mut tip = 0;
    dump::read(&mut copy.as_slice(), |_, row| {
        match row.table {
            "audit" => last = row.audit_line().ok_or("no line")?.seq,
            "audit_tip" => tip = row.column("seq").and_then(serde_json::Value::as_i64).unwrap(),
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    assert!(last == tip && (200..=400).contains(&last), "{last} {tip}");
}
