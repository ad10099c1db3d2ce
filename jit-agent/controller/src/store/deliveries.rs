//! The outbox: what hosts must still hear, and what they have answered. One row a host and grant.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};
use crate::model::{Answer, state::Tally};

/// A grant is tried for this time after its end, milliseconds: a host's clock may be late.
pub const AFTER_END_MS: i64 = 60_000;
/// Before a grant is sent again that a host has lost: this time for each attempt before, at most the other.
const LOST_AGAIN_MS: i64 = 10_000;
const LOST_MOST_MS: i64 = 300_000;
/// Hosts of one statement that keeps the answers of many.
const TOGETHER: usize = 64;
/// A grant whose end is so near is not looked for on its host.
const ENDS_SOON_MS: i64 = 2_000;

/// What a host must hear of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// It has ended: before anything that opens.
    Revoke,
    /// The grant.
    Grant,
}

impl Wanted {
    /// Its word in the store.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Revoke => "revoke",
        }
    }
}

/// One host's part of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Id of the grant.
    pub grant_id: String,
    /// Id of the host.
    pub host: String,
    /// The request.
    pub request: String,
    /// What the host must hear.
    pub wanted: Wanted,
    /// It has not answered to that yet.
    pub pending: bool,
    /// Its last answer.
    pub answer: Answer,
    /// The reason word of that answer.
    pub word: String,
    /// The host's sentence about it.
    pub detail: String,
    /// Why the host does not answer, in words; empty: it does.
    pub trouble: String,
    /// Since when, milliseconds since the Unix epoch; 0: it does.
    pub trouble_since_ms: i64,
    /// How often it was tried.
    pub attempts: i64,
    /// When it is tried next.
    pub next_ms: i64,
    /// When the host answered; 0: never.
    pub answered_ms: i64,
    /// From then on it is not tried any more.
    pub until_ms: i64,
}

/// What hosts must still hear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingDeliveries {
    /// Number of all.
    pub all: i64,
    /// Of those for hosts that do not answer.
    pub failing: i64,
    /// Since when the first of them does not, milliseconds since the Unix epoch; 0: all do.
    pub failing_since_ms: i64,
    /// Of those that should have been tried before.
    pub late: i64,
}

impl Store {
    /// How much hosts must still hear. `late_ms`: for how long something may be due.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn waiting_deliveries(
        &self,
        now_ms: i64,
        late_ms: i64,
    ) -> Result<WaitingDeliveries, StoreError> {
        let row = "SELECT COUNT(*) AS total, \
                   CAST(COALESCE(SUM(CASE WHEN trouble <> '' THEN 1 ELSE 0 END), 0) AS BIGINT) AS failing, \
                   CAST(COALESCE(MIN(CASE WHEN trouble <> '' THEN trouble_since_ms END), 0) AS BIGINT) \
                   AS since_ms, \
                   CAST(COALESCE(SUM(CASE WHEN next_ms < $2 THEN 1 ELSE 0 END), 0) AS BIGINT) AS late \
                   FROM delivery WHERE pending = 1 AND until_ms > $1";
        let row = query(row).bind(now_ms).bind(now_ms.saturating_sub(late_ms));
        let row = row.fetch_one(self.pool()).await?;
        Ok(WaitingDeliveries {
            all: row.try_get("total")?,
            failing: row.try_get("failing")?,
            failing_since_ms: row.try_get("since_ms")?,
            late: row.try_get("late")?,
        })
    }

    /// What is due: revocations first, then the oldest; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn deliveries_due(
        &self,
        now_ms: i64,
        most: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = "SELECT * FROM delivery WHERE pending = 1 AND next_ms <= $1 AND until_ms > $1 \
                    ORDER BY wanted DESC, next_ms, grant_id LIMIT $2";
        let rows = query(rows).bind(now_ms).bind(i64::from(most)).fetch_all(self.pool()).await?;
        rows.iter().map(delivery).collect()
    }

    /// Gives what of this kind is due to `take`, row by row, at most `most` of them: what waits longest
    /// first, and of one moment all of a host together. A row that cannot be read is an error of its own.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn each_due(
        &self,
        wanted: Wanted,
        now_ms: i64,
        most: u32,
        mut take: impl FnMut(Result<Delivery, StoreError>),
    ) -> Result<(), StoreError> {
        let rows = "SELECT * FROM delivery WHERE pending = 1 AND next_ms <= $1 AND until_ms > $1 \
                    AND wanted = $2 ORDER BY next_ms, host, grant_id LIMIT $3";
        let rows = query(rows).bind(now_ms).bind(wanted.word()).bind(i64::from(most));
        let mut rows = rows.fetch(self.pool());
        while let Some(row) = rows.try_next().await? {
            take(delivery(&row));
        }
        Ok(())
    }

    /// Hosts for which something of this kind is due, those that wait longest first; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts_due(
        &self,
        wanted: Wanted,
        now_ms: i64,
        most: u32,
    ) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT host, MIN(next_ms) AS due_ms FROM delivery WHERE pending = 1 \
                    AND next_ms <= $1 AND until_ms > $1 AND wanted = $2 \
                    GROUP BY host ORDER BY due_ms, host LIMIT $3";
        let rows = query(rows).bind(now_ms).bind(wanted.word()).bind(i64::from(most));
        let rows = rows.fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("host")?)).collect()
    }

    /// What of this kind is due for a host, the oldest first; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn due_for(
        &self,
        host: &str,
        wanted: Wanted,
        now_ms: i64,
        most: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = "SELECT * FROM delivery WHERE host = $1 AND pending = 1 AND wanted = $2 \
                    AND next_ms <= $3 AND until_ms > $3 ORDER BY grant_id LIMIT $4";
        let rows = query(rows).bind(host).bind(wanted.word()).bind(now_ms).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(delivery).collect()
    }

    /// One host's part of a grant.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn delivery(
        &self,
        grant_id: &str,
        host: &str,
    ) -> Result<Option<Delivery>, StoreError> {
        let row = query("SELECT * FROM delivery WHERE grant_id = $1 AND host = $2");
        let row = row.bind(grant_id).bind(host).fetch_optional(self.pool()).await?;
        row.as_ref().map(delivery).transpose()
    }

    /// What a host has accepted and should still hold.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn deliveries_held(
        &self,
        host: &str,
        now_ms: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = "SELECT * FROM delivery WHERE host = $1 AND until_ms > $2 AND pending = 0 \
                    AND wanted = 'grant' AND answer IN ('open', 'scheduled')";
        let soon = now_ms.saturating_add(AFTER_END_MS + ENDS_SOON_MS);
        let rows = query(rows).bind(host).bind(soon).fetch_all(self.pool()).await?;
        rows.iter().map(delivery).collect()
    }

    /// What a host has or may have at this moment, the newest first; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn deliveries_at(
        &self,
        host: &str,
        now_ms: i64,
        most: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let rows = "SELECT * FROM delivery WHERE host = $1 AND until_ms > $2 AND answer <> $3 \
                    ORDER BY grant_id DESC LIMIT $4";
        let rows = query(rows).bind(host).bind(now_ms.saturating_add(AFTER_END_MS));
        let rows = rows.bind(Answer::Closed.word()).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(delivery).collect()
    }

    /// When the next one is due, milliseconds since the Unix epoch; `None`: nothing waits.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn next_delivery(&self) -> Result<Option<i64>, StoreError> {
        let row = query("SELECT next_ms FROM delivery WHERE pending = 1 ORDER BY next_ms LIMIT 1");
        let row = row.fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("next_ms")).transpose()?)
    }

    /// When the next one is due that is not yet, milliseconds since the Unix epoch; `None`: none is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn next_due(&self, now_ms: i64) -> Result<Option<i64>, StoreError> {
        let row = "SELECT next_ms FROM delivery WHERE pending = 1 AND next_ms > $1 \
                   AND until_ms > next_ms ORDER BY next_ms LIMIT 1";
        let row = query(row).bind(now_ms).fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("next_ms")).transpose()?)
    }

    /// What the hosts of a request have answered, by host.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn deliveries_of(&self, request: &str) -> Result<Vec<Delivery>, StoreError> {
        let rows = query("SELECT * FROM delivery WHERE request = $1 ORDER BY host, grant_id");
        rows.bind(request).fetch_all(self.pool()).await?.iter().map(delivery).collect()
    }

    /// Hosts that had accepted a grant for later, and whose time has begun, are asked again: they answer
    /// that it is open. Returns the number of rows.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ask_scheduled_again(&self, now_ms: i64) -> Result<u64, StoreError> {
        let update = "UPDATE delivery SET pending = 1, attempts = 0, next_ms = $1 \
                      WHERE answer = 'scheduled' AND wanted = 'grant' AND pending = 0 AND until_ms > $1 \
                      AND grant_id IN (SELECT id FROM grant_part WHERE not_before_ms <= $1 \
                      AND not_after_ms > $1)";
        self.change(query(update).bind(now_ms)).await
    }
}

/// Tries everything for this host again now: it answers again.
///
/// # Errors
/// Those of the database.
pub async fn host_is_back(tx: &mut Tx, host: &str, now_ms: i64) -> Result<(), StoreError> {
    let update =
        "UPDATE delivery SET next_ms = $2 WHERE host = $1 AND pending = 1 AND next_ms > $2";
    query(update).bind(host).bind(now_ms).execute(&mut **tx).await?;
    Ok(())
}

/// Adds a row for each host of a grant.
///
/// # Errors
/// Those of the database.
pub async fn insert(
    tx: &mut Tx,
    request: &str,
    grant_id: &str,
    hosts: &[String],
    now_ms: i64,
    until_ms: i64,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO delivery (grant_id, host, request, wanted, pending, answer, word, \
                     detail, trouble, trouble_since_ms, attempts, next_ms, answered_ms, until_ms) \
                     VALUES ($1, $2, $3, $4, 1, $5, '', '', '', 0, 0, $6, 0, $7)";
    for host in hosts {
        query(statement)
            .bind(grant_id)
            .bind(host.as_str())
            .bind(request)
            .bind(Wanted::Grant.word())
            .bind(Answer::Waiting.word())
            .bind(now_ms)
            .bind(until_ms)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// From now on hosts must hear that the request's grants have ended.
///
/// # Errors
/// Those of the database.
pub async fn revoke(tx: &mut Tx, request: &str, now_ms: i64) -> Result<(), StoreError> {
    let update = "UPDATE delivery SET wanted = $2, pending = 1, attempts = 0, next_ms = $3 \
                  WHERE request = $1 AND wanted <> $2";
    let update = query(update).bind(request).bind(Wanted::Revoke.word()).bind(now_ms);
    update.execute(&mut **tx).await?;
    Ok(())
}

/// The host has opened what replaces this request: what it has not answered to yet must not come after that.
/// `also_open`: nor stay.
///
/// # Errors
/// Those of the database.
pub async fn stop(
    tx: &mut Tx,
    request: &str,
    host: &str,
    also_open: bool,
    now_ms: i64,
) -> Result<(), StoreError> {
    let update = "UPDATE delivery SET wanted = $3, pending = 1, attempts = 0, next_ms = $4 \
                  WHERE request = $1 AND host = $2 AND wanted <> $3 \
                  AND (pending = 1 OR ($5 = 1 AND answer IN ('open', 'scheduled')))";
    let update = query(update).bind(request).bind(host).bind(Wanted::Revoke.word()).bind(now_ms);
    update.bind(i64::from(also_open)).execute(&mut **tx).await?;
    Ok(())
}

/// What a host says to what it must hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said<'s> {
    /// In one word.
    pub answer: &'s str,
    /// Its reason word.
    pub word: &'s str,
    /// Its sentence.
    pub detail: &'s str,
}

/// Keeps a host's answer, if it is to what the host must hear now: an answer to the grant that comes
/// after a revocation was asked for changes nothing. Returns whether it was kept.
///
/// # Errors
/// Those of the database.
pub async fn answered(
    tx: &mut Tx,
    of: &Delivery,
    answer: Answer,
    word: &str,
    detail: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let said = Said { answer: answer.word(), word, detail };
    let kept = answered_alike(tx, (&of.grant_id, of.wanted), &[&of.host], said, now_ms).await?;
    Ok(!kept.is_empty())
}

/// Keeps the same answer of several hosts to the same grant, as [`answered`] does. Returns the hosts whose
/// answer was kept.
///
/// # Errors
/// Those of the database.
pub async fn answered_alike(
    tx: &mut Tx,
    (grant_id, wanted): (&str, Wanted),
    hosts: &[&str],
    said: Said<'_>,
    now_ms: i64,
) -> Result<BTreeSet<String>, StoreError> {
    let mut kept = BTreeSet::new();
    let Said { answer, word, detail } = said;
    // Of two sizes only: the database keeps the plan of each statement.
    let size = if hosts.len() == 1 { 1 } else { TOGETHER };
    let places: Vec<_> = (7..7 + size).map(|place| format!("${place}")).collect();
    let update = format!(
        "UPDATE delivery SET pending = 0, answer = $1, word = $2, detail = $3, trouble = '', \
         trouble_since_ms = 0, answered_ms = $4 WHERE grant_id = $5 AND wanted = $6 \
         AND host IN ({}) RETURNING host",
        places.join(", ")
    );
    for some in hosts.chunks(size) {
        // Only numbers of places are put in. Places that are left get the last host again.
        let rows = query(AssertSqlSafe(update.clone())).bind(answer).bind(word).bind(detail);
        let rows = rows.bind(now_ms).bind(grant_id).bind(wanted.word());
        let last = some.iter().chain(some.last().into_iter().cycle()).take(size);
        let rows = last.fold(rows, |rows, host| rows.bind(*host));
        for row in rows.fetch_all(&mut **tx).await? {
            kept.insert(row.try_get("host")?);
        }
    }
    Ok(kept)
}

/// The host no longer holds what it had accepted: it is sent again, at once the first time, and later each
/// time it is lost again: a host cannot have the controller write without end. Returns whether it is still
/// wanted.
///
/// # Errors
/// Those of the database.
pub async fn again(
    tx: &mut Tx,
    of: &Delivery,
    detail: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let pause_ms = of.attempts.saturating_mul(LOST_AGAIN_MS).clamp(0, LOST_MOST_MS);
    let update = "UPDATE delivery SET pending = 1, answer = $4, word = '', detail = $5, \
                  attempts = attempts + 1, next_ms = $6 WHERE grant_id = $1 AND host = $2 AND wanted = $3 \
                  AND pending = 0 AND answered_ms = $7";
    let done = query(update)
        .bind(of.grant_id.as_str())
        .bind(of.host.as_str())
        .bind(Wanted::Grant.word())
        .bind(Answer::Waiting.word())
        .bind(detail)
        .bind(now_ms.saturating_add(pause_ms))
        .bind(of.answered_ms)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps that a host did not answer, and when it is tried again.
///
/// # Errors
/// Those of the database.
pub async fn failed(
    tx: &mut Tx,
    of: &Delivery,
    trouble: &str,
    now_ms: i64,
    next_ms: i64,
) -> Result<(), StoreError> {
    let update = "UPDATE delivery SET attempts = attempts + 1, trouble = $4, next_ms = $6, \
                  trouble_since_ms = CASE trouble_since_ms WHEN 0 THEN $5 ELSE trouble_since_ms END \
                  WHERE grant_id = $1 AND host = $2 AND wanted = $3 AND pending = 1";
    query(update)
        .bind(of.grant_id.as_str())
        .bind(of.host.as_str())
        .bind(of.wanted.word())
        .bind(trouble)
        .bind(now_ms)
        .bind(next_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Keeps that it went to the bus, and when it goes there again if no answer comes.
///
/// # Errors
/// Those of the database.
pub async fn sent(tx: &mut Tx, of: &Delivery, next_ms: i64) -> Result<(), StoreError> {
    let update = "UPDATE delivery SET attempts = attempts + 1, next_ms = $4 \
                  WHERE grant_id = $1 AND host = $2 AND wanted = $3 AND pending = 1";
    query(update)
        .bind(of.grant_id.as_str())
        .bind(of.host.as_str())
        .bind(of.wanted.word())
        .bind(next_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// How many hosts of a request have answered what, as this transaction sees it.
///
/// # Errors
/// Those of the database.
pub async fn tally(tx: &mut Tx, request: &str) -> Result<Tally, StoreError> {
    let rows = "SELECT answer, COUNT(*) AS count FROM delivery WHERE request = $1 GROUP BY answer";
    let mut tally = Tally::default();
    for row in query(rows).bind(request).fetch_all(&mut **tx).await? {
        let word: &str = row.try_get("answer")?;
        let answer = Answer::of_word(word).ok_or_else(|| StoreError::corrupt("answer", word))?;
        let count: i64 = row.try_get("count")?;
        tally.add(answer, u64::try_from(count).unwrap_or(0));
    }
    Ok(tally)
}

fn delivery(row: &AnyRow) -> Result<Delivery, StoreError> {
    let wanted: &str = row.try_get("wanted")?;
    let answer: &str = row.try_get("answer")?;
    Ok(Delivery {
        grant_id: row.try_get("grant_id")?,
        host: row.try_get("host")?,
        request: row.try_get("request")?,
        wanted: match wanted {
            "grant" => Wanted::Grant,
            "revoke" => Wanted::Revoke,
            other => return Err(StoreError::corrupt("wanted", other)),
        },
        pending: row.try_get::<i64, _>("pending")? != 0,
        answer: Answer::of_word(answer).ok_or_else(|| StoreError::corrupt("answer", answer))?,
        word: row.try_get("word")?,
        detail: row.try_get("detail")?,
        trouble: row.try_get("trouble")?,
        trouble_since_ms: row.try_get("trouble_since_ms")?,
        attempts: row.try_get("attempts")?,
        next_ms: row.try_get("next_ms")?,
        answered_ms: row.try_get("answered_ms")?,
        until_ms: row.try_get("until_ms")?,
    })
}
