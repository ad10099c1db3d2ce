//! What was signed for hosts and still counts, or was ended before its end: for checkpoints.

use jit_proto::{GrantId, merkle::Hash};
use sqlx::{Row as _, any::AnyRow, query};

use super::{Store, StoreError, Wanted};

/// A grant of one host, as it is in the host's mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Id of the host.
    pub host: String,
    /// Id of the grant.
    pub grant_id: GrantId,
    /// SHA-256 of its payload.
    pub digest: Hash,
    /// Its end, milliseconds since the Unix epoch.
    pub not_after_ms: i64,
    /// The controller has ended it: the host must hear that.
    pub ended: bool,
}

const ROWS: &str = "SELECT delivery.host, delivery.grant_id, delivery.wanted, grant_part.payload_hash, \
                    grant_part.not_after_ms FROM delivery \
                    JOIN grant_part ON grant_part.id = delivery.grant_id \
                    WHERE grant_part.not_after_ms > $1 AND grant_part.signed_ms > 0";

impl Store {
    /// The mail of all hosts at this moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mail(&self, now_ms: i64) -> Result<Vec<Mail>, StoreError> {
        query(ROWS).bind(now_ms).fetch_all(self.pool()).await?.iter().map(mail).collect()
    }

    /// The mail of one host at this moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mail_of(&self, host: &str, now_ms: i64) -> Result<Vec<Mail>, StoreError> {
        let rows = format!("{ROWS} AND delivery.host = $2");
        let rows = query(sqlx::AssertSqlSafe(rows)).bind(now_ms).bind(host);
        rows.fetch_all(self.pool()).await?.iter().map(mail).collect()
    }
}

fn mail(row: &AnyRow) -> Result<Mail, StoreError> {
    let (id, hash): (&str, &str) = (row.try_get("grant_id")?, row.try_get("payload_hash")?);
    let mut digest = Hash::default();
    hex::decode_to_slice(hash, &mut digest)
        .map_err(|_| StoreError::corrupt("payload_hash", hash))?;
    Ok(Mail {
        host: row.try_get("host")?,
        grant_id: id.parse().map_err(|_| StoreError::corrupt("grant_id", id))?,
        digest,
        not_after_ms: row.try_get("not_after_ms")?,
        ended: row.try_get::<&str, _>("wanted")? == Wanted::Revoke.word(),
    })
}
