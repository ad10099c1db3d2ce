//! Connections that grants have let in, as hosts said: an open port that nobody used.

use sqlx::{Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};
use crate::model::Answer;

/// One host's part of a grant that it has opened, and its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The request.
    pub request: String,
    /// The host.
    pub host: String,
    /// From when it was open at the earliest, milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// When it was closed at the latest.
    pub until_ms: i64,
    /// Connections that it let in; `None`: the host has never said.
    pub hits: Option<i64>,
    /// When the host said so; 0: never.
    pub seen_ms: i64,
}

impl Store {
    /// What hosts have opened and what was open in this time, by request and host. A host that
    /// refused is not among them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn opened_between(
        &self,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<Opened>, StoreError> {
        let rows = "SELECT delivery.request, delivery.host, delivery.answer, delivery.answered_ms, \
                    grant_part.not_before_ms, grant_part.not_after_ms, \
                    COALESCE(grant_use.hits, -1) AS hits, \
                    COALESCE(grant_use.seen_ms, 0) AS seen_ms \
                    FROM grant_part JOIN delivery ON delivery.grant_id = grant_part.id \
                    LEFT JOIN grant_use ON grant_use.grant_id = delivery.grant_id \
                    AND grant_use.host = delivery.host \
                    WHERE grant_part.signed_ms > 0 AND grant_part.not_before_ms < $2 \
                    AND grant_part.not_after_ms > $1 \
                    AND (delivery.answer = $3 OR (delivery.answer = $4 AND delivery.answered_ms > $1)) \
                    ORDER BY delivery.request, delivery.host";
        let rows = query(rows)
            .bind(from_ms)
            .bind(to_ms)
            .bind(Answer::Open.word())
            .bind(Answer::Closed.word());
        rows.fetch_all(self.pool()).await?.iter().map(opened).collect()
    }
}

/// A host says how many connections a grant has let in. The number never falls: a host that was
/// started anew begins at 0.
///
/// # Errors
/// Those of the database.
pub async fn saw(
    tx: &mut Tx,
    grant_id: &str,
    host: &str,
    hits: u64,
    now_ms: i64,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO grant_use (grant_id, host, hits, seen_ms) VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (grant_id, host) DO UPDATE SET seen_ms = excluded.seen_ms, \
                     hits = CASE WHEN excluded.hits > grant_use.hits THEN excluded.hits \
                     ELSE grant_use.hits END";
    query(statement)
        .bind(grant_id)
        .bind(host)
        .bind(i64::try_from(hits).unwrap_or(i64::MAX))
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn opened(row: &AnyRow) -> Result<Opened, StoreError> {
    let answer: &str = row.try_get("answer")?;
    let (answered_ms, not_after_ms): (i64, i64) =
        (row.try_get("answered_ms")?, row.try_get("not_after_ms")?);
    let is_closed = answer == Answer::Closed.word();
    let hits: i64 = row.try_get("hits")?;
    Ok(Opened {
        request: row.try_get("request")?,
        host: row.try_get("host")?,
        from_ms: row.try_get("not_before_ms")?,
        until_ms: if is_closed { answered_ms.min(not_after_ms) } else { not_after_ms },
        hits: (hits >= 0).then_some(hits),
        seen_ms: row.try_get("seen_ms")?,
    })
}
