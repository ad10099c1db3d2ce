//! The controller's audit: what was asked, decided, signed and answered, in a chain that shows what was
//! changed or left out.
//!
//! A record is written in the transaction of what it records: one is never there without the other. Its
//! line has the SHA-256 of the line before, as in a host's audit (docs/audit.md).

pub mod access;
mod code;
pub mod export;
pub mod forward;
pub mod head;
pub mod ocsf;
pub mod sealing;
pub mod search;
pub mod syslog;
pub mod verify;

pub use code::Code;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use crate::store::{Store, StoreError, Tx};

/// What happened.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its stable code.
    pub code: Code,
    /// The request that it is about; empty: none.
    pub request: String,
    /// Who did it: a subject, or `controller`.
    pub by: String,
    /// What else belongs to it.
    pub fields: Map<String, Value>,
}

impl Record {
    /// A record of this event; `fields` is a JSON object.
    pub fn new(code: Code, request: &str, by: &str, fields: Value) -> Self {
        let fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        Self { code, request: request.to_owned(), by: by.to_owned(), fields }
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number; the first is 1.
    pub seq: i64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Its code: `C001`.
    pub code: String,
    /// The request that it is about; empty: none.
    pub request: String,
    /// SHA-256 of `line`, as 64 hex digits.
    pub hash: String,
    /// One line of JSON.
    pub line: String,
}

/// Records of one statement that adds many.
const TOGETHER: usize = 32;

/// Adds a record to the chain. Returns its number.
///
/// # Errors
/// Those of the database.
pub async fn append(tx: &mut Tx, now_ms: i64, record: &Record) -> Result<i64, StoreError> {
    append_all(tx, now_ms, std::slice::from_ref(record)).await
}

/// Adds records to the chain, in this order. Returns the number of the last one in it.
///
/// # Errors
/// Those of the database.
pub async fn append_all(tx: &mut Tx, now_ms: i64, records: &[Record]) -> Result<i64, StoreError> {
    let count = i64::try_from(records.len()).unwrap_or(i64::MAX);
    // Who comes later waits here, on Postgres too: numbers have no gaps and no doubles.
    let tip = query("UPDATE audit_tip SET seq = seq + $1 WHERE one = 1 RETURNING seq, hash");
    let tip = tip.bind(count).fetch_one(&mut **tx).await?;
    let (last, mut hash): (i64, String) = (tip.try_get("seq")?, tip.try_get("hash")?);
    let mut lines = Vec::with_capacity(records.len());
    for (seq, record) in (last.saturating_sub(count).saturating_add(1)..).zip(records) {
        let line = text(seq, now_ms, &hash, record);
        hash = hex::encode(Sha256::digest(line.as_bytes()));
        lines.push((seq, record, hash.clone(), line));
    }
    let (many, rest) = lines.as_chunks::<TOGETHER>();
    // Of two sizes only: the database keeps the plan of each statement.
    for some in many.iter().map(<[_; TOGETHER]>::as_slice).chain(rest.chunks(1)) {
        insert(tx, now_ms, some).await?;
    }
    query("UPDATE audit_tip SET hash = $1 WHERE one = 1").bind(hash).execute(&mut **tx).await?;
    Ok(last)
}

/// The line of a record.
fn text(seq: i64, now_ms: i64, prev: &str, record: &Record) -> String {
    let mut line = json!({
        "seq": seq,
        "time_ms": now_ms,
        "time": jit_proto::WallTime(now_ms).exact(),
        "prev": prev,
        "code": record.code.id(),
        "event": record.code.name(),
        "by": record.by,
    });
    if let Some(object) = line.as_object_mut() {
        if !record.request.is_empty() {
            object.insert("request".into(), record.request.as_str().into());
        }
        object.extend(record.fields.clone());
    }
    jit_proto::printable::json_line(&line)
}

async fn insert(
    tx: &mut Tx,
    now_ms: i64,
    lines: &[(i64, &Record, String, String)],
) -> Result<(), StoreError> {
    let row = |number: usize| {
        let places: Vec<_> = (1..=6).map(|place| format!("${}", number * 6 + place)).collect();
        format!("({})", places.join(", "))
    };
    let rows: Vec<_> = (0..lines.len()).map(row).collect();
    // Only numbers of places are put in.
    let statement = AssertSqlSafe(format!(
        "INSERT INTO audit (seq, time_ms, code, request, hash, line) VALUES {}",
        rows.join(", ")
    ));
    let mut statement = query(statement);
    for (seq, record, hash, line) in lines {
        statement = statement
            .bind(*seq)
            .bind(now_ms)
            .bind(record.code.id())
            .bind(record.request.as_str())
            .bind(hash.as_str())
            .bind(line.as_str());
    }
    statement.execute(&mut **tx).await?;
    Ok(())
}

impl Store {
    /// Records after this number, in order; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_after(&self, seq: i64, most: u32) -> Result<Vec<Line>, StoreError> {
        let rows = query("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2");
        let rows = rows.bind(seq).bind(i64::from(most)).fetch_all(self.pool()).await?;
        rows.iter().map(line).collect()
    }

    /// Records of this code that were written in this time, in order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_between(
        &self,
        code: Code,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<Line>, StoreError> {
        let rows = "SELECT * FROM audit WHERE time_ms >= $1 AND time_ms < $2 AND code = $3 \
                    ORDER BY seq";
        let rows = query(rows).bind(from_ms).bind(to_ms).bind(code.id());
        rows.fetch_all(self.pool()).await?.iter().map(line).collect()
    }

    /// Records of a request, in order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_of(&self, request: &str) -> Result<Vec<Line>, StoreError> {
        let rows = query("SELECT * FROM audit WHERE request = $1 ORDER BY seq").bind(request);
        rows.fetch_all(self.pool()).await?.iter().map(line).collect()
    }

    /// The end of the chain: number and hash of the last record.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_tip(&self) -> Result<(i64, String), StoreError> {
        let row =
            query("SELECT seq, hash FROM audit_tip WHERE one = 1").fetch_one(self.pool()).await?;
        Ok((row.try_get("seq")?, row.try_get("hash")?))
    }
}

fn line(row: &AnyRow) -> Result<Line, StoreError> {
    Ok(Line {
        seq: row.try_get("seq")?,
        time_ms: row.try_get("time_ms")?,
        code: row.try_get("code")?,
        request: row.try_get("request")?,
        hash: row.try_get("hash")?,
        line: row.try_get("line")?,
    })
}
