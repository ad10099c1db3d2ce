//! Ends of hosts' audits, as their agents reported them. With the copy here it is seen when a host's audit
//! was cut or written anew, and `jit-agent audit verify --against` proves it.

use sqlx::{Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};

/// Newest heads of a host that are kept. Of older ones the last of each day stays.
const NEWEST: i64 = 32;
/// For how long the last of each day stays.
const KEPT_MS: i64 = 400 * DAY_MS;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// The end of a host's audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the last record.
    pub seq: i64,
    /// SHA-256 of its line, as 64 hex digits.
    pub hash: String,
    /// What the host signed: one line of JSON.
    pub signed: String,
    /// When it came here, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl Store {
    /// Heads of a host below this number, the newest first; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn host_audit_heads(
        &self,
        host: &str,
        before: i64,
        most: u32,
    ) -> Result<Vec<AuditHead>, StoreError> {
        let rows = "SELECT * FROM host_audit_head WHERE host = $1 AND seq < $2 \
                    ORDER BY seq DESC LIMIT $3";
        let rows = query(rows).bind(host).bind(before).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(head).collect()
    }
}

/// The head with the highest number.
///
/// # Errors
/// Those of the database.
pub async fn newest(tx: &mut Tx, host: &str) -> Result<Option<AuditHead>, StoreError> {
    let row = "SELECT * FROM host_audit_head WHERE host = $1 ORDER BY seq DESC LIMIT 1";
    query(row).bind(host).fetch_optional(&mut **tx).await?.as_ref().map(head).transpose()
}

/// Keeps a head, and no more old ones than necessary.
///
/// # Errors
/// Those of the database.
pub async fn keep(tx: &mut Tx, host: &str, new: &AuditHead) -> Result<(), StoreError> {
    // After an audit was cut its numbers begin again below: those above are of the one before, and what
    // follows is compared with the new one.
    let cut = "DELETE FROM host_audit_head WHERE host = $1 AND seq >= $2";
    query(cut).bind(host).bind(new.seq).execute(&mut **tx).await?;
    let insert = "INSERT INTO host_audit_head (host, seq, hash, signed, at_ms) \
                  VALUES ($1, $2, $3, $4, $5)";
    query(insert)
        .bind(host)
        .bind(new.seq)
        .bind(new.hash.as_str())
        .bind(new.signed.as_str())
        .bind(new.at_ms)
        .execute(&mut **tx)
        .await?;
    let leaving =
        "SELECT * FROM host_audit_head WHERE host = $1 ORDER BY seq DESC LIMIT 2 OFFSET $2";
    let leaving = query(leaving).bind(host).bind(NEWEST).fetch_all(&mut **tx).await?;
    let leaving = leaving.iter().map(head).collect::<Result<Vec<_>, _>>()?;
    if let [later, earlier] = leaving.as_slice()
        && later.at_ms.div_euclid(DAY_MS) == earlier.at_ms.div_euclid(DAY_MS)
    {
        let delete = "DELETE FROM host_audit_head WHERE host = $1 AND seq = $2";
        query(delete).bind(host).bind(earlier.seq).execute(&mut **tx).await?;
    }
    let old = "DELETE FROM host_audit_head WHERE host = $1 AND at_ms < $2";
    query(old).bind(host).bind(new.at_ms.saturating_sub(KEPT_MS)).execute(&mut **tx).await?;
    Ok(())
}

fn head(row: &AnyRow) -> Result<AuditHead, StoreError> {
    Ok(AuditHead {
        seq: row.try_get("seq")?,
        hash: row.try_get("hash")?,
        signed: row.try_get("signed")?,
        at_ms: row.try_get("at_ms")?,
    })
}
