//! Forms in which records leave the controller, and the cursors of those who take them.

use sqlx::{Row as _, query};

use super::{Line, ocsf, syslog};
use crate::store::{Store, StoreError};

/// The form of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As it is stored: one line of JSON, whose hash is in the next.
    #[default]
    Jsonl,
    /// JSON with the names of OCSF.
    Ocsf,
    /// A message of syslog, with the record as it is stored.
    SyslogLines,
}

impl Format {
    /// Its word on the command line and in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Ocsf => "ocsf",
            Self::SyslogLines => "syslog-lines",
        }
    }

    /// The record in this form, without a newline.
    pub fn line(self, line: &Line) -> String {
        match self {
            Self::Jsonl => line.line.clone(),
            Self::Ocsf => jit_proto::printable::json_line(&ocsf::event(line)),
            Self::SyslogLines => syslog::message(line, &syslog::host_name(), &line.line),
        }
    }
}

impl Store {
    /// The last record that this receiver has got; 0: none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_cursor(&self, name: &str) -> Result<i64, StoreError> {
        let row = query("SELECT seq FROM audit_cursor WHERE name = $1").bind(name);
        let row = row.fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("seq")).transpose()?.unwrap_or(0))
    }

    /// All receivers, with the last record that each has got.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn audit_cursors(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = query("SELECT name, seq FROM audit_cursor ORDER BY name");
        let rows = rows.fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("seq")?))).collect()
    }

    /// Keeps the last record that this receiver has got. It never goes back.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_audit_cursor(
        &self,
        name: &str,
        seq: i64,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let statement = "INSERT INTO audit_cursor (name, seq, at_ms) VALUES ($1, $2, $3) \
                         ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms \
                         WHERE audit_cursor.seq < excluded.seq";
        self.change(query(statement).bind(name).bind(seq).bind(now_ms)).await?;
        Ok(())
    }
}
