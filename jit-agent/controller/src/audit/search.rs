//! Records that fit a question, the newest first.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Row as _, query};

use super::{Line, line};
use crate::store::{Store, StoreError};

/// Records that one call looks at: there may be millions, and only numbers and times have an index.
const WINDOW: i64 = 20_000;
/// A clock that went back puts times out of the order of numbers; by this many records at the most.
const SLACK: i64 = 1000;

/// Which records. Empty texts ask for all.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Only of this request.
    pub request: String,
    /// Only with this code: `R002`.
    pub code: String,
    /// Only by this person or account.
    pub who: String,
    /// Only about this host.
    pub host: String,
    /// Only from this moment on, milliseconds since the Unix epoch.
    pub from_ms: Option<i64>,
    /// Only before this moment.
    pub to_ms: Option<i64>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Records, the newest first.
    pub lines: Vec<Line>,
    /// The search goes on below this number; `None`: nothing is left.
    pub below: Option<i64>,
}

/// Searches below a number, in a part of the audit; at most `most` records.
///
/// # Errors
/// Those of the database.
pub async fn search(
    store: &Store,
    wanted: &Search,
    below: Option<i64>,
    most: u32,
) -> Result<Found, StoreError> {
    let (tip, _) = store.audit_tip().await?;
    let mut top = below.unwrap_or(i64::MAX).min(tip.saturating_add(1));
    if let Some(to_ms) = wanted.to_ms {
        let last = "SELECT seq FROM audit WHERE time_ms < $1 ORDER BY time_ms DESC LIMIT 1";
        top = top.min(seq(store, last, to_ms).await?.map_or(0, |seq| seq.saturating_add(SLACK)));
    }
    let mut floor = 1;
    if let Some(from_ms) = wanted.from_ms {
        let first = "SELECT seq FROM audit WHERE time_ms >= $1 ORDER BY time_ms LIMIT 1";
        let first = seq(store, first, from_ms).await?.unwrap_or(i64::MAX);
        floor = first.saturating_sub(SLACK).max(1);
    }
    // The records of one request are few, and have an index of their own. The database takes it
    // only where the statement leaves it no other way.
    let (window, of_request) = match wanted.request.is_empty() {
        true => (WINDOW, "$3 = ''"),
        false => (i64::MAX, "request = $3"),
    };
    let bottom = top.saturating_sub(window).max(floor);
    let rows = format!(
        "SELECT * FROM audit WHERE {of_request} AND seq < $1 AND seq >= $2 \
         AND ($4 = '' OR code = $4) AND ($5 = '' OR line LIKE $5 ESCAPE '\\') \
         AND ($6 = '' OR line LIKE $6 ESCAPE '\\') AND time_ms >= $7 AND time_ms < $8 \
         ORDER BY seq DESC LIMIT $9"
    );
    // Only a text of the two above is put in.
    let rows = query(AssertSqlSafe(rows))
        .bind(top)
        .bind(bottom)
        .bind(wanted.request.as_str())
        .bind(wanted.code.as_str())
        .bind(quoted(&wanted.who))
        .bind(quoted(&wanted.host))
        .bind(wanted.from_ms.unwrap_or(i64::MIN))
        .bind(wanted.to_ms.unwrap_or(i64::MAX))
        .bind(i64::from(most));
    let rows = rows.fetch_all(store.pool()).await?;
    let mut lines = rows.iter().map(line).collect::<Result<Vec<_>, _>>()?;
    let is_full = lines.len() >= usize::try_from(most).unwrap_or(usize::MAX);
    let below = match lines.last().filter(|_| is_full) {
        Some(last) => last.seq,
        None => bottom,
    };
    lines.retain(|line| wanted.fits(line));
    Ok(Found { lines, below: Some(below).filter(|below| *below > floor) })
}

async fn seq(store: &Store, statement: &'static str, ms: i64) -> Result<Option<i64>, StoreError> {
    let row = query(statement).bind(ms).fetch_optional(store.pool()).await?;
    Ok(row.map(|row| row.try_get("seq")).transpose()?)
}

/// The pattern of LIKE for a text of JSON somewhere in a line; empty for an empty one.
fn quoted(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut pattern = String::from("%");
    for letter in jit_proto::printable::json_line(&text.into()).chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

impl Search {
    /// The database finds a text anywhere in a line: here it stands in the right field.
    fn fits(&self, line: &Line) -> bool {
        if self.who.is_empty() && self.host.is_empty() {
            return true;
        }
        let Ok(record) = serde_json::from_str::<Value>(&line.line) else { return false };
        let is = |field: &str, text: &str| {
            record.get(field).and_then(Value::as_str).is_some_and(|have| have == text)
        };
        let lists = |field: &str, text: &str| {
            let list = record.get(field).and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|one| one.as_str() == Some(text)))
        };
        (self.who.is_empty() || is("by", &self.who) || is("account", &self.who))
            && (self.host.is_empty() || is("host", &self.host) || lists("hosts", &self.host))
    }
}
