//! Revocations that the signer signs: for which hosts they are, and what these have answered. A host has a
//! row only when it has answered, so one for every host is one row until then.

use std::collections::BTreeMap;

use jit_proto::v1;
use prost::Message as _;
use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};

/// A minute and a day, milliseconds.
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 3_600_000;
/// Rows of one statement.
const ROWS: usize = 200;
/// A host of the closing `$1`.
const IN_SCOPE: &str = "(EXISTS (SELECT 1 FROM closing WHERE id = $1 AND every_host = 1) \
                        OR host.id IN (SELECT host FROM closing_target WHERE closing = $1))";

/// Those that the host `$1` must hear at the moment `$2`.
const OF_HOST: &str = "SELECT * FROM closing WHERE signed_ms > 0 AND keep_until_ms > $2 \
                       AND (every_host = 1 OR EXISTS (SELECT 1 FROM closing_target AS target \
                       WHERE target.closing = closing.id AND target.host = $1))";

/// Ends, at the moment `$2`, deliveries that say what the closing `$1` says.
const CLOSE_DELIVERIES: &str = "UPDATE delivery SET pending = 0, answer = 'closed', word = 'ok', \
                                detail = '', trouble = '', trouble_since_ms = 0, answered_ms = $2 \
                                WHERE wanted = 'revoke' AND pending = 1 AND grant_id IN \
                                (SELECT grant_id FROM closing_grant WHERE closing = $1)";
/// Hosts that have carried out the closing `$1`.
const DELIVERED: &str = "SELECT host FROM closing_host WHERE closing = $1 AND answer = 'delivered'";

/// A revocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Closing {
    /// Its id: a ULID.
    pub id: String,
    /// The account that made it; its person is the author of the message.
    pub account: String,
    /// What is signed.
    pub payload: Vec<u8>,
    /// The same, read.
    pub message: v1::Revocation,
    /// With the signatures; `None`: it is not signed.
    pub envelope: Option<v1::Envelope>,
    /// When it was signed, milliseconds since the Unix epoch; 0: it is not.
    pub signed_ms: i64,
    /// Why the signer refuses it, for ever; empty: it does not.
    pub trouble: String,
    /// The requests that it ends are ended here.
    pub settled: bool,
    /// When the last host had carried it out, milliseconds since the Unix epoch; 0: not yet.
    pub complete_ms: i64,
}

/// What a host has said of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// It has carried it out.
    Delivered,
    /// It refuses it, with a reason word.
    Refused,
    /// It has not answered.
    Waiting,
}

impl Heard {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Delivered, Self::Refused, Self::Waiting];

    /// Its word in the store and the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
        }
    }

    /// The one with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.word() == word)
    }
}

/// A host's answer to a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosingAnswer {
    /// Id of the revocation.
    pub closing: String,
    /// Id of the host.
    pub host: String,
    /// What it says.
    pub heard: Heard,
    /// The host's reason word.
    pub word: String,
    /// The host's sentence about it.
    pub detail: String,
    /// When, milliseconds since the Unix epoch; 0: never.
    pub answered_ms: i64,
}

/// How many revocations there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClosingLoad {
    /// Of a person, in the last minute.
    pub minute: i64,
    /// Of a person, in the last day.
    pub day: i64,
    /// Of a person, that some host has not carried out.
    pub open_of_one: i64,
    /// The same of all people.
    pub open: i64,
}

/// How many hosts have said what.
pub type ClosingCounts = BTreeMap<Heard, i64>;

impl Store {
    /// Revocations before this id, or all, the newest first; at most `most`. `author`: only this
    /// person's; empty: of all.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closings(
        &self,
        before: &str,
        author: &str,
        most: u32,
    ) -> Result<Vec<Closing>, StoreError> {
        let rows = "SELECT * FROM closing WHERE ($1 = '' OR id < $1) AND ($2 = '' OR author = $2) \
                    ORDER BY id DESC LIMIT $3";
        let rows = query(rows).bind(before).bind(author).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(closing).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closing(&self, id: &str) -> Result<Option<Closing>, StoreError> {
        let row = query("SELECT * FROM closing WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(closing).transpose()
    }

    /// Those that the signer has not signed, and has not refused; those for every host first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unsigned_closings(&self, now_ms: i64) -> Result<Vec<Closing>, StoreError> {
        let rows = "SELECT * FROM closing WHERE signed_ms = 0 AND trouble = '' \
                    AND keep_until_ms > $1 ORDER BY every_host DESC, id LIMIT 200";
        let rows = query(rows).bind(now_ms).fetch_all(self.pool()).await?;
        rows.iter().map(closing).collect()
    }

    /// One whose requests are not ended here yet, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unsettled_closing(&self) -> Result<Option<Closing>, StoreError> {
        let row = "SELECT * FROM closing WHERE signed_ms > 0 AND settled = 0 ORDER BY id LIMIT 1";
        query(row).fetch_optional(self.pool()).await?.as_ref().map(closing).transpose()
    }

    /// Ids of those that some host must hear that is there now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn live_closings(&self, now_ms: i64) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT id FROM closing WHERE signed_ms > 0 AND keep_until_ms > $1 \
                    AND complete_ms = 0";
        let rows = query(rows).bind(now_ms).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// Ids of all that are signed and have not ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn signed_closings(&self, now_ms: i64) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT id FROM closing WHERE signed_ms > 0 AND keep_until_ms > $1";
        let rows = query(rows).bind(now_ms).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// Whether a host that comes may have to hear one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_closings(&self, now_ms: i64) -> Result<bool, StoreError> {
        let row = "SELECT id FROM closing WHERE signed_ms > 0 AND keep_until_ms > $1 LIMIT 1";
        Ok(query(row).bind(now_ms).fetch_optional(self.pool()).await?.is_some())
    }

    /// How many there are, of a person and of all.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closing_load(&self, author: &str, now_ms: i64) -> Result<ClosingLoad, StoreError> {
        let row = "SELECT \
                   (SELECT COUNT(*) FROM closing WHERE author = $1 AND made_ms > $2) AS minute, \
                   (SELECT COUNT(*) FROM closing WHERE author = $1 AND made_ms > $3) AS day, \
                   (SELECT COUNT(*) FROM closing WHERE author = $1 AND trouble = '' \
                   AND complete_ms = 0 AND keep_until_ms > $4) AS open_of_one, \
                   (SELECT COUNT(*) FROM closing WHERE trouble = '' \
                   AND complete_ms = 0 AND keep_until_ms > $4) AS open";
        let row = query(row).bind(author).bind(now_ms.saturating_sub(MINUTE_MS));
        let row = row.bind(now_ms.saturating_sub(DAY_MS)).bind(now_ms);
        let row = row.fetch_one(self.pool()).await?;
        Ok(ClosingLoad {
            minute: row.try_get("minute")?,
            day: row.try_get("day")?,
            open_of_one: row.try_get("open_of_one")?,
            open: row.try_get("open")?,
        })
    }

    /// Ids of those that this host must hear, and has not carried out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closings_due(&self, host: &str, now_ms: i64) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT id FROM closing WHERE signed_ms > 0 AND keep_until_ms > $2 \
                    AND (every_host = 1 OR EXISTS (SELECT 1 FROM closing_target AS target \
                    WHERE target.closing = closing.id AND target.host = $1)) \
                    AND NOT EXISTS (SELECT 1 FROM closing_host AS heard \
                    WHERE heard.closing = closing.id AND heard.host = $1 \
                    AND heard.answer = 'delivered') ORDER BY id";
        let rows = query(rows).bind(host).bind(now_ms).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// Those that this host must hear, or has heard.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closings_of(&self, host: &str, now_ms: i64) -> Result<Vec<Closing>, StoreError> {
        let rows = query(AssertSqlSafe(format!("{OF_HOST} ORDER BY id"))).bind(host).bind(now_ms);
        rows.fetch_all(self.pool()).await?.iter().map(closing).collect()
    }

    /// How many hosts of the inventory have said what of it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closing_counts(&self, id: &str) -> Result<ClosingCounts, StoreError> {
        let rows = AssertSqlSafe(format!(
            "SELECT COALESCE(heard.answer, 'waiting') AS answer, COUNT(*) AS count FROM host \
             LEFT JOIN closing_host AS heard ON heard.closing = $1 AND heard.host = host.id \
             WHERE {IN_SCOPE} GROUP BY COALESCE(heard.answer, 'waiting')"
        ));
        let rows = query(rows).bind(id).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((heard(row)?, row.try_get("count")?))).collect()
    }

    /// What hosts of the inventory have said of it, by host, those after `after`; at most `most`. With
    /// `only`: those that have said this.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closing_hosts(
        &self,
        id: &str,
        only: Option<Heard>,
        after: &str,
        most: u32,
    ) -> Result<Vec<ClosingAnswer>, StoreError> {
        let rows = AssertSqlSafe(format!(
            "SELECT host.id AS host, COALESCE(heard.answer, 'waiting') AS answer, \
             COALESCE(heard.word, '') AS word, \
             COALESCE(heard.detail, '') AS detail, \
             CAST(COALESCE(heard.answered_ms, 0) AS BIGINT) AS answered_ms FROM host \
             LEFT JOIN closing_host AS heard ON heard.closing = $1 AND heard.host = host.id \
             WHERE host.id > $2 AND {IN_SCOPE} \
             AND ($3 = '' OR COALESCE(heard.answer, 'waiting') = $3) ORDER BY host.id LIMIT $4"
        ));
        let only = only.map_or("", Heard::word);
        let rows = query(rows).bind(id).bind(after).bind(only).bind(i64::from(most));
        let of = |row: &AnyRow| {
            Ok(ClosingAnswer {
                closing: id.to_owned(),
                host: row.try_get("host")?,
                heard: heard(row)?,
                word: row.try_get("word")?,
                detail: row.try_get("detail")?,
                answered_ms: row.try_get("answered_ms")?,
            })
        };
        rows.fetch_all(self.pool()).await?.iter().map(of).collect()
    }

    /// Ids of the requests with a grant that it ends.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn closed_requests(&self, id: &str) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT DISTINCT request FROM closing_grant WHERE closing = $1 \
                    ORDER BY request DESC";
        let rows = query(rows).bind(id).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("request")?)).collect()
    }
}

/// Adds one, for these hosts if it is not for every host.
///
/// # Errors
/// Those of the database.
pub async fn insert(tx: &mut Tx, new: &Closing) -> Result<(), StoreError> {
    let statement = "INSERT INTO closing (id, author, account, payload, envelope, every_host, made_ms, \
                     keep_until_ms, signed_ms, trouble, settled, complete_ms) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let envelope = new.envelope.as_ref().map(v1::Envelope::encode_to_vec).unwrap_or_default();
    query(statement)
        .bind(new.id.as_str())
        .bind(new.message.author.as_str())
        .bind(new.account.as_str())
        .bind(new.payload.clone())
        .bind(envelope)
        .bind(i64::from(new.message.every_host))
        .bind(new.message.issued_before_ms)
        .bind(new.message.keep_until_ms)
        .bind(new.signed_ms)
        .bind(new.trouble.as_str())
        .bind(i64::from(new.settled))
        .bind(new.complete_ms)
        .execute(&mut **tx)
        .await?;
    for some in new.message.hosts.chunks(ROWS) {
        let rows = places(some.len(), 2);
        let statement =
            AssertSqlSafe(format!("INSERT INTO closing_target (closing, host) VALUES {rows}"));
        let bound = some
            .iter()
            .fold(query(statement), |bound, host| bound.bind(new.id.as_str()).bind(host.as_str()));
        bound.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Keeps the signatures, or why there are none for ever.
///
/// # Errors
/// Those of the database.
pub async fn set_signed(
    tx: &mut Tx,
    id: &str,
    signed: Result<&v1::Envelope, &str>,
    now_ms: i64,
) -> Result<(), StoreError> {
    let (envelope, signed_ms, trouble) = match signed {
        Ok(envelope) => (envelope.encode_to_vec(), now_ms, ""),
        Err(trouble) => (Vec::new(), 0, trouble),
    };
    let update = "UPDATE closing SET envelope = $2, signed_ms = $3, trouble = $4 WHERE id = $1";
    let update = query(update).bind(id).bind(envelope).bind(signed_ms).bind(trouble);
    update.execute(&mut **tx).await?;
    Ok(())
}

/// Says that the requests that it ends are ended here.
///
/// # Errors
/// Those of the database.
pub async fn set_settled(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    let update = query("UPDATE closing SET settled = 1 WHERE id = $1").bind(id);
    update.execute(&mut **tx).await?;
    Ok(())
}

/// The reason word with which a host has refused it; `None`: it has not.
///
/// # Errors
/// Those of the database.
pub async fn refusal(tx: &mut Tx, id: &str, host: &str) -> Result<Option<String>, StoreError> {
    let row =
        "SELECT word FROM closing_host WHERE closing = $1 AND host = $2 AND answer = 'refused'";
    let row = query(row).bind(id).bind(host).fetch_optional(&mut **tx).await?;
    Ok(row.map(|row| row.try_get("word")).transpose()?)
}

/// Keeps answers, of which no two are of the same host to the same revocation. What was carried out stays
/// so.
///
/// # Errors
/// Those of the database.
pub async fn answered(tx: &mut Tx, answers: &[&ClosingAnswer]) -> Result<(), StoreError> {
    for some in answers.chunks(ROWS) {
        let rows = places(some.len(), 6);
        let statement = AssertSqlSafe(format!(
            "INSERT INTO closing_host (closing, host, answer, word, detail, answered_ms) \
             VALUES {rows} ON CONFLICT (closing, host) DO UPDATE SET answer = excluded.answer, \
             word = excluded.word, detail = excluded.detail, answered_ms = excluded.answered_ms \
             WHERE closing_host.answer <> 'delivered'"
        ));
        let bound = some.iter().fold(query(statement), |bound, one| {
            bound
                .bind(one.closing.as_str())
                .bind(one.host.as_str())
                .bind(one.heard.word())
                .bind(one.word.as_str())
                .bind(one.detail.as_str())
                .bind(one.answered_ms)
        });
        bound.execute(&mut **tx).await?;
    }
    Ok(())
}

/// Records that it ends this grant.
///
/// # Errors
/// Those of the database.
pub async fn ends(tx: &mut Tx, id: &str, grant: &str, request: &str) -> Result<(), StoreError> {
    let statement = "INSERT INTO closing_grant (closing, grant_id, request) VALUES ($1, $2, $3) \
                     ON CONFLICT DO NOTHING";
    query(statement).bind(id).bind(grant).bind(request).execute(&mut **tx).await?;
    Ok(())
}

/// Hosts of a grant that are its hosts, too, must hear that the grant has ended: from `next_ms` on, if
/// they have not carried it out by then.
///
/// # Errors
/// Those of the database.
pub async fn revoke_grant(
    tx: &mut Tx,
    id: &str,
    grant: &str,
    next_ms: i64,
) -> Result<(), StoreError> {
    let update = "UPDATE delivery SET wanted = 'revoke', pending = 1, attempts = 0, next_ms = $3 \
                  WHERE grant_id = $2 AND wanted <> 'revoke' \
                  AND (EXISTS (SELECT 1 FROM closing WHERE id = $1 AND every_host = 1) \
                  OR host IN (SELECT host FROM closing_target WHERE closing = $1))";
    query(update).bind(id).bind(grant).bind(next_ms).execute(&mut **tx).await?;
    Ok(())
}

/// Hosts that have carried it out need not hear of its grants one by one.
///
/// # Errors
/// Those of the database.
pub async fn close_deliveries(tx: &mut Tx, id: &str, now_ms: i64) -> Result<(), StoreError> {
    let update = AssertSqlSafe(format!("{CLOSE_DELIVERIES} AND host IN ({DELIVERED})"));
    query(update).bind(id).bind(now_ms).execute(&mut **tx).await?;
    Ok(())
}

/// The same for these hosts, of those that have carried it out: of thousands, some answer at a time.
///
/// # Errors
/// Those of the database.
pub async fn close_deliveries_of(
    tx: &mut Tx,
    id: &str,
    hosts: &[&str],
    now_ms: i64,
) -> Result<(), StoreError> {
    for some in hosts.chunks(ROWS) {
        let places: Vec<_> = (3..some.len() + 3).map(|place| format!("${place}")).collect();
        let update = AssertSqlSafe(format!(
            "{CLOSE_DELIVERIES} AND host IN ({}) AND host IN ({DELIVERED})",
            places.join(", ")
        ));
        let update = query(update).bind(id).bind(now_ms);
        some.iter().fold(update, |update, host| update.bind(*host)).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Says that every host of the inventory has carried it out, if that is so and was not said before.
/// Returns whether it was said now.
///
/// # Errors
/// Those of the database.
pub async fn complete(tx: &mut Tx, id: &str, now_ms: i64) -> Result<bool, StoreError> {
    let update = AssertSqlSafe(format!(
        "UPDATE closing SET complete_ms = $2 WHERE id = $1 AND complete_ms = 0 \
         AND NOT EXISTS (SELECT 1 FROM host WHERE {IN_SCOPE} AND host.id NOT IN \
         (SELECT host FROM closing_host WHERE closing = $1 AND answer = 'delivered'))"
    ));
    let done = query(update).bind(id).bind(now_ms).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// `($1, $2), ($3, $4)`: only numbers of places are put in.
fn places(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let places = (1..=columns).map(|column| format!("${}", row * columns + column));
        format!("({})", places.collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

fn heard(row: &AnyRow) -> Result<Heard, StoreError> {
    let word: &str = row.try_get("answer")?;
    Heard::of_word(word).ok_or_else(|| StoreError::corrupt("answer to a revocation", word))
}

fn closing(row: &AnyRow) -> Result<Closing, StoreError> {
    let payload: Vec<u8> = row.try_get("payload")?;
    let envelope: Vec<u8> = row.try_get("envelope")?;
    let corrupt = |why| StoreError::corrupt("a revocation", why);
    Ok(Closing {
        id: row.try_get("id")?,
        account: row.try_get("account")?,
        message: v1::Revocation::decode(payload.as_slice()).map_err(corrupt)?,
        payload,
        envelope: match envelope.is_empty() {
            true => None,
            false => Some(v1::Envelope::decode(envelope.as_slice()).map_err(corrupt)?),
        },
        signed_ms: row.try_get("signed_ms")?,
        trouble: row.try_get("trouble")?,
        settled: row.try_get::<i64, _>("settled")? != 0,
        complete_ms: row.try_get("complete_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn each_value_has_its_own_place() {
        assert_eq!(places(2, 3), "($1, $2, $3), ($4, $5, $6)");
        assert_eq!(places(1, 1), "($1)");
    }
}
