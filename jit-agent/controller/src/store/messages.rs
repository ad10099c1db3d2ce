//! What was said last of each request, and where: so that nothing is said twice, and a message that
//! can be changed is changed. Addresses of mail.

use std::collections::BTreeMap;

use sqlx::{Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};

/// A message about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it says, in a few letters: another text is news.
    pub said: String,
    /// The channel in which it is; empty: it cannot be changed.
    pub place: String,
    /// Which message of the channel it is.
    pub stamp: String,
}

impl Store {
    /// What was said last of this request in this outbox.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn message(
        &self,
        outbox: &str,
        request: &str,
    ) -> Result<Option<Message>, StoreError> {
        let row = query("SELECT * FROM message WHERE outbox = $1 AND request = $2");
        let row = row.bind(outbox).bind(request).fetch_optional(self.pool()).await?;
        row.as_ref().map(message).transpose()
    }

    /// What in outboxes of this beginning is in this place, with its outbox and its request.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn messages_in(
        &self,
        beginning: &str,
        place: &str,
    ) -> Result<Vec<(String, String, Message)>, StoreError> {
        let rows = query("SELECT * FROM message WHERE place = $1 ORDER BY at_ms").bind(place);
        let rows = rows.fetch_all(self.pool()).await?;
        let read =
            |row: &AnyRow| Ok((row.try_get("outbox")?, row.try_get("request")?, message(row)?));
        let mut all: Vec<(String, String, Message)> =
            rows.iter().map(read).collect::<Result<_, StoreError>>()?;
        all.retain(|(outbox, _, _)| outbox.starts_with(beginning));
        Ok(all)
    }

    /// Keeps what was said of a request.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_message(
        &self,
        outbox: &str,
        request: &str,
        message: &Message,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let statement = "INSERT INTO message (outbox, request, said, place, stamp, at_ms) \
                         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (outbox, request) DO UPDATE SET \
                         said = excluded.said, place = excluded.place, stamp = excluded.stamp, \
                         at_ms = excluded.at_ms";
        let statement = query(statement)
            .bind(outbox)
            .bind(request)
            .bind(message.said.as_str())
            .bind(message.place.as_str())
            .bind(message.stamp.as_str())
            .bind(now_ms);
        self.change(statement).await?;
        Ok(())
    }

    /// Accounts that are not disabled and get mail, with their addresses.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn addresses_of_mail(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let rows = "SELECT account, mail FROM account_mail JOIN account ON name = account \
                    WHERE disabled = 0";
        let rows = query(rows).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((row.try_get("account")?, row.try_get("mail")?))).collect()
    }

    /// Where an account gets mail; empty: nowhere.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn address_of_mail(&self, account: &str) -> Result<String, StoreError> {
        let row = query("SELECT mail FROM account_mail WHERE account = $1").bind(account);
        let row = row.fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("mail")).transpose()?.unwrap_or_default())
    }
}

/// Says where an account gets mail; empty: nowhere.
///
/// # Errors
/// Those of the database.
pub async fn set_address(tx: &mut Tx, account: &str, mail: &str) -> Result<(), StoreError> {
    if mail.is_empty() {
        let statement = query("DELETE FROM account_mail WHERE account = $1").bind(account);
        statement.execute(&mut **tx).await?;
        return Ok(());
    }
    let statement = "INSERT INTO account_mail (account, mail) VALUES ($1, $2) \
                     ON CONFLICT (account) DO UPDATE SET mail = excluded.mail";
    query(statement).bind(account).bind(mail).execute(&mut **tx).await?;
    Ok(())
}

fn message(row: &AnyRow) -> Result<Message, StoreError> {
    Ok(Message {
        said: row.try_get("said")?,
        place: row.try_get("place")?,
        stamp: row.try_get("stamp")?,
    })
}
