//! Webhooks: an outbox of their own. Each has a cursor into the audit; what comes after it is to be said.

use std::collections::BTreeSet;

use sqlx::{Row as _, any::AnyRow, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
};
use crate::model::Form;

/// A webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Webhook {
    /// Its id: a ULID.
    pub id: String,
    /// Where the controller posts to.
    pub url: String,
    /// In which form it gets what happens.
    pub form: Form,
    /// Names of events, or codes; empty: all.
    pub events: BTreeSet<String>,
    /// It is called.
    pub enabled: bool,
    /// Why it is not, in words; empty: nobody has disabled it.
    pub why: String,
    /// Number of the last audit record that it has got.
    pub cursor: i64,
    /// What went wrong last; empty: nothing.
    pub trouble: String,
    /// Since when it fails, milliseconds since the Unix epoch; 0: it does not.
    pub since_ms: i64,
    /// How often the next record was tried.
    pub attempts: i64,
    /// When it is tried next; 0: as soon as something happens.
    pub next_ms: i64,
    /// When it was made.
    pub created_ms: i64,
}

impl Store {
    /// All webhooks, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        let rows = query("SELECT * FROM webhook ORDER BY id").fetch_all(self.pool()).await?;
        rows.iter().map(webhook).collect()
    }

    /// One webhook.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn webhook(&self, id: &str) -> Result<Option<Webhook>, StoreError> {
        let row = query("SELECT * FROM webhook WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(webhook).transpose()
    }

    /// It has got the records up to this one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn webhook_said(&self, id: &str, cursor: i64) -> Result<(), StoreError> {
        let update = "UPDATE webhook SET cursor = $2, trouble = '', since_ms = 0, attempts = 0, \
                      next_ms = 0 WHERE id = $1 AND cursor < $2";
        self.change(query(update).bind(id).bind(cursor)).await?;
        Ok(())
    }

    /// It did not answer well.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn webhook_failed(
        &self,
        id: &str,
        trouble: &str,
        now_ms: i64,
        next_ms: i64,
    ) -> Result<(), StoreError> {
        let update = "UPDATE webhook SET trouble = $2, attempts = attempts + 1, next_ms = $4, \
                      since_ms = CASE since_ms WHEN 0 THEN $3 ELSE since_ms END WHERE id = $1";
        let update = query(update).bind(id).bind(trouble).bind(now_ms).bind(next_ms);
        self.change(update).await?;
        Ok(())
    }
}

/// Makes a webhook, or changes what administrators say of it; that forgets its failures.
///
/// # Errors
/// Those of the database.
pub async fn put(tx: &mut Tx, webhook: &Webhook) -> Result<(), StoreError> {
    let statement = "INSERT INTO webhook (id, url, events_json, enabled, why, cursor, trouble, \
                     since_ms, attempts, next_ms, created_ms, form) \
                     VALUES ($1, $2, $3, $4, $5, $6, '', 0, 0, 0, $7, $8) \
                     ON CONFLICT (id) DO UPDATE SET \
                     url = excluded.url, form = excluded.form, events_json = excluded.events_json, \
                     enabled = excluded.enabled, why = excluded.why, cursor = excluded.cursor, \
                     trouble = '', since_ms = 0, attempts = 0, next_ms = 0";
    query(statement)
        .bind(webhook.id.as_str())
        .bind(webhook.url.as_str())
        .bind(to_json(&webhook.events))
        .bind(i64::from(webhook.enabled))
        .bind(webhook.why.as_str())
        .bind(webhook.cursor)
        .bind(webhook.created_ms)
        .bind(webhook.form.word())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// It is not called any more. Returns whether it was called until now.
///
/// # Errors
/// Those of the database.
pub async fn disable(tx: &mut Tx, id: &str, why: &str) -> Result<bool, StoreError> {
    let update = query("UPDATE webhook SET enabled = 0, why = $2 WHERE id = $1 AND enabled = 1");
    let done = update.bind(id).bind(why).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a webhook; returns whether there was such a one.
///
/// # Errors
/// Those of the database.
pub async fn remove(tx: &mut Tx, id: &str) -> Result<bool, StoreError> {
    let done = query("DELETE FROM webhook WHERE id = $1").bind(id).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

fn webhook(row: &AnyRow) -> Result<Webhook, StoreError> {
    let form: &str = row.try_get("form")?;
    Ok(Webhook {
        id: row.try_get("id")?,
        url: row.try_get("url")?,
        form: Form::of_word(form).ok_or_else(|| StoreError::corrupt("form", form))?,
        events: json("events of a webhook", row.try_get("events_json")?)?,
        enabled: row.try_get::<i64, _>("enabled")? != 0,
        why: row.try_get("why")?,
        cursor: row.try_get("cursor")?,
        trouble: row.try_get("trouble")?,
        since_ms: row.try_get("since_ms")?,
        attempts: row.try_get("attempts")?,
        next_ms: row.try_get("next_ms")?,
        created_ms: row.try_get("created_ms")?,
    })
}
