//! All rows of all tables at one moment, as lines of JSON: written from either database, read into
//! either. It is what a backup is made of.
//!
//! A line `{"table": NAME, "columns": [...]}` begins a table; each line after it is a row, a list in the
//! order of the columns. Bytes are `{"base64": TEXT}`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, Write},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{
    AssertSqlSafe, Column as _, Row as _, TypeInfo as _, ValueRef as _,
    any::{AnyRow, AnyTypeInfoKind},
    query,
};

use super::{Kind, Store, StoreError, Tx, migrations};

/// Longest line that is read, bytes: an envelope has at most 256 KiB, and a line of the audit less.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Why rows were not written or read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The database holds rows already.
    #[error(
        "the database is not empty: table {0} has rows; a copy is put back into an empty database only"
    )]
    NotEmpty(&'static str),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is no row.
    #[error("line {number}: {why}")]
    Line {
        /// Its number, from 1.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for DumpError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Versions of the tables.
    pub versions: BTreeSet<i64>,
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
}

impl Written {
    /// All rows.
    pub fn total(&self) -> u64 {
        self.rows.values().sum()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    table: String,
    columns: Vec<String>,
}

impl Store {
    /// Number of all rows, for a progress bar.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn row_count(&self) -> Result<u64, StoreError> {
        let mut sum = 0;
        for table in migrations::tables(&self.versions().await?) {
            let count = format!("SELECT COUNT(*) AS count FROM {table}");
            let row = query(AssertSqlSafe(count)).fetch_one(self.pool()).await?;
            sum += row.try_get::<i64, _>("count")?;
        }
        Ok(u64::try_from(sum).unwrap_or(0))
    }
}

/// Writes all rows as they are at one moment. Others go on reading and writing meanwhile. `each` gets
/// the number of rows so far.
///
/// # Errors
/// Those of the database and of the writer.
pub async fn write(
    store: &Store,
    out: &mut impl Write,
    mut each: impl FnMut(u64),
) -> Result<Written, DumpError> {
    let versions = store.versions().await?;
    // On SQLite a transaction reads what was there at its first read (sqlite.org/isolation.html).
    let begin = match store.kind() {
        Kind::Sqlite => "BEGIN",
        Kind::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    };
    let mut tx = store.pool().begin_with(begin).await?;
    let (mut rows_of, mut all) = (BTreeMap::new(), 0);
    for table in migrations::tables(&versions) {
        let mut count = 0_u64;
        let select = format!("SELECT * FROM {table} ORDER BY 1, 2");
        let mut rows = query(AssertSqlSafe(select)).fetch(&mut *tx);
        while let Some(row) = rows.try_next().await? {
            if count == 0 {
                let columns: Vec<_> = row.columns().iter().map(|column| column.name()).collect();
                line(out, &json!({ "table": table, "columns": columns }))?;
            }
            line(out, &values(&row)?)?;
            count += 1;
            all += 1;
            each(all);
        }
        rows_of.insert(table.to_owned(), count);
    }
    tx.rollback().await?;
    Ok(Written { versions, rows: rows_of })
}

fn line(out: &mut impl Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{}", jit_proto::printable::json_line(value))
}

fn values(row: &AnyRow) -> Result<Value, StoreError> {
    let value = |at: usize| {
        let raw = row.try_get_raw(at)?;
        Ok::<_, StoreError>(match raw.type_info().kind() {
            _ if raw.is_null() => Value::Null,
            AnyTypeInfoKind::BigInt | AnyTypeInfoKind::Integer | AnyTypeInfoKind::SmallInt => {
                row.try_get::<i64, _>(at)?.into()
            }
            AnyTypeInfoKind::Text => row.try_get::<String, _>(at)?.into(),
            AnyTypeInfoKind::Blob => {
                json!({ "base64": BASE64_STANDARD.encode(row.try_get::<Vec<u8>, _>(at)?) })
            }
            _ => return Err(StoreError::corrupt("text, number or bytes", raw.type_info().name())),
        })
    };
    (0..row.len()).map(value).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// One row of a dump.
#[derive(Clone, Copy, Debug)]
pub struct Row<'r> {
    /// Its table.
    pub table: &'r str,
    /// The names of its columns.
    pub columns: &'r [String],
    /// Its values, in the order of the columns.
    pub values: &'r [Value],
}

impl Row<'_> {
    /// The value of a column.
    pub fn column(&self, name: &str) -> Option<&Value> {
        let at = self.columns.iter().position(|column| column == name)?;
        self.values.get(at)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.column(name)?.as_str().map(str::to_owned)
    }

    /// The record of the audit that it is.
    pub fn audit_line(&self) -> Option<crate::audit::Line> {
        let number = |name| self.column(name)?.as_i64();
        Some(crate::audit::Line {
            seq: number("seq")?,
            time_ms: number("time_ms")?,
            code: self.text("code")?,
            request: self.text("request")?,
            hash: self.text("hash")?,
            line: self.text("line")?,
        })
    }
}

/// Reads a dump without a database, row by row.
///
/// # Errors
/// A line that is no row, and what `each` finds.
pub fn read(
    input: &mut impl BufRead,
    mut each: impl FnMut(u64, Row<'_>) -> Result<(), String>,
) -> Result<u64, DumpError> {
    let mut lines = Lines { input, number: 0 };
    let mut table: Option<Table> = None;
    let mut rows = 0;
    while let Some(text) = lines.next()? {
        let number = lines.number;
        let wrong = |why: String| DumpError::Line { number, why };
        if text.starts_with('{') {
            let begun = serde_json::from_str(&text).map_err(|why| wrong(why.to_string()))?;
            table = Some(begun);
            continue;
        }
        let values: Vec<Value> =
            serde_json::from_str(&text).map_err(|why| wrong(why.to_string()))?;
        let Some(Table { table, columns }) = &table else {
            return Err(wrong("a row before its table".into()));
        };
        if values.len() != columns.len() {
            return Err(wrong(format!("{} values for {} columns", values.len(), columns.len())));
        }
        rows += 1;
        each(rows, Row { table, columns, values: &values }).map_err(wrong)?;
    }
    Ok(rows)
}

/// Puts the rows of a dump into an empty database whose tables have the dump's versions: all, or none.
/// Returns their number.
///
/// # Errors
/// The database is not empty, a line is no row of its tables, or the database refuses.
pub async fn restore(
    store: &Store,
    input: &mut impl BufRead,
    mut each: impl FnMut(u64),
) -> Result<u64, DumpError> {
    let tables = migrations::tables(&store.versions().await?);
    let mut tx = store.begin().await?;
    for table in tables.iter().filter(|table| **table != "audit_tip") {
        let any = query(AssertSqlSafe(format!("SELECT 1 AS one FROM {table} LIMIT 1")));
        if any.fetch_optional(&mut *tx).await?.is_some() {
            return Err(DumpError::NotEmpty(table));
        }
    }
    query("DELETE FROM audit_tip").execute(&mut *tx).await?;
    let mut lines = Lines { input, number: 0 };
    let mut table: Option<(Table, String)> = None;
    let mut rows = 0;
    while let Some(text) = lines.next()? {
        let number = lines.number;
        let wrong = |why: String| DumpError::Line { number, why };
        if text.starts_with('{') {
            let begun: Table = serde_json::from_str(&text).map_err(|why| wrong(why.to_string()))?;
            let statement = insert(&begun, &tables).map_err(wrong)?;
            table = Some((begun, statement));
            continue;
        }
        let values: Vec<Value> =
            serde_json::from_str(&text).map_err(|why| wrong(why.to_string()))?;
        let Some((Table { columns, .. }, statement)) = &table else {
            return Err(wrong("a row before its table".into()));
        };
        if values.len() != columns.len() {
            return Err(wrong(format!("{} values for {} columns", values.len(), columns.len())));
        }
        put(&mut tx, statement, values).await.map_err(|error| wrong(error.to_string()))?;
        rows += 1;
        each(rows);
    }
    tx.commit().await?;
    Ok(rows)
}

fn insert(table: &Table, tables: &[&str]) -> Result<String, String> {
    let Table { table, columns } = table;
    // Names become part of a statement.
    let plain = |name: &String| {
        !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
    };
    if !tables.contains(&table.as_str()) {
        return Err(format!("this version has no table {table:?}"));
    }
    if let Some(column) = columns.iter().find(|column| !plain(column)) {
        return Err(format!("{column:?} is no column of {table}"));
    }
    let places: Vec<_> = (1..=columns.len()).map(|number| format!("${number}")).collect();
    Ok(format!("INSERT INTO {table} ({}) VALUES ({})", columns.join(", "), places.join(", ")))
}

async fn put(tx: &mut Tx, statement: &str, values: Vec<Value>) -> Result<(), StoreError> {
    let mut row = query(AssertSqlSafe(statement.to_owned()));
    for value in values {
        row = match value {
            Value::Number(number) => row
                .bind(number.as_i64().ok_or_else(|| StoreError::corrupt("whole number", number))?),
            Value::String(text) => row.bind(text),
            Value::Object(bytes) => {
                let text = bytes.get("base64").and_then(Value::as_str).unwrap_or("?");
                let bytes = BASE64_STANDARD.decode(text);
                row.bind(bytes.map_err(|why| StoreError::corrupt("base64", why))?)
            }
            other => return Err(StoreError::corrupt("text, number or bytes", other)),
        };
    }
    row.execute(&mut **tx).await?;
    Ok(())
}

/// Lines of bounded length.
struct Lines<'i, I> {
    input: &'i mut I,
    number: u64,
}

impl<I: BufRead> Lines<'_, I> {
    fn next(&mut self) -> Result<Option<String>, DumpError> {
        let mut bytes = Vec::new();
        let read = io::Read::take(&mut *self.input, LONGEST).read_until(b'\n', &mut bytes)?;
        self.number += 1;
        let wrong = |why: &str| DumpError::Line { number: self.number, why: why.into() };
        match bytes.pop() {
            None => Ok(None),
            Some(b'\n') => {
                String::from_utf8(bytes).map(Some).map_err(|_| wrong("it is no text in UTF-8"))
            }
            Some(_) if read as u64 == LONGEST => Err(wrong("it is too long")),
            Some(_) => Err(wrong("its end is missing: the file was cut")),
        }
    }
}
