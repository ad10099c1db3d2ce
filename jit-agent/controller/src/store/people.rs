//! Sessions of browsers, and passwords. Neither the secret of a session nor a password is stored:
//! only what they are compared with.

use sqlx::{Row as _, query};

use super::{Store, StoreError, Tx};

/// The kind of credential that is a password.
const PASSWORD: &str = "password";

/// A sign-in of a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// SHA-256 of its secret, as 64 hex digits.
    pub hash: String,
    /// The account that signed in.
    pub account: String,
    /// When it began, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it ends, however much it is used.
    pub ends_ms: i64,
    /// When it was last used, to the minute.
    pub used_ms: i64,
}

impl Store {
    /// The session with this hash, whether it has ended or not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn session(&self, hash: &str) -> Result<Option<Session>, StoreError> {
        let row = query("SELECT * FROM session WHERE hash = $1").bind(hash);
        let row = row.fetch_optional(self.pool()).await?;
        row.map(|row| {
            Ok(Session {
                hash: row.try_get("hash")?,
                account: row.try_get("account")?,
                created_ms: row.try_get("created_ms")?,
                ends_ms: row.try_get("ends_ms")?,
                used_ms: row.try_get("used_ms")?,
            })
        })
        .transpose()
    }

    /// Records that a session was used.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn session_used(&self, hash: &str, now_ms: i64) -> Result<(), StoreError> {
        let update = query("UPDATE session SET used_ms = $2 WHERE hash = $1");
        self.change(update.bind(hash).bind(now_ms)).await?;
        Ok(())
    }

    /// The hash of an account's password, a PHC string; `None`: it has no password.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn password(&self, account: &str) -> Result<Option<String>, StoreError> {
        let row = query("SELECT secret FROM credential WHERE account = $1 AND kind = $2");
        let row = row.bind(account).bind(PASSWORD).fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("secret")).transpose()?)
    }
}

/// Adds a session.
///
/// # Errors
/// Those of the database.
pub async fn add_session(tx: &mut Tx, new: &Session) -> Result<(), StoreError> {
    let statement = "INSERT INTO session (hash, account, created_ms, ends_ms, used_ms) \
                     VALUES ($1, $2, $3, $4, $5)";
    query(statement)
        .bind(new.hash.as_str())
        .bind(new.account.as_str())
        .bind(new.created_ms)
        .bind(new.ends_ms)
        .bind(new.used_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Ends a session; returns whether there was such a one.
///
/// # Errors
/// Those of the database.
pub async fn end_session(tx: &mut Tx, hash: &str) -> Result<bool, StoreError> {
    let done = query("DELETE FROM session WHERE hash = $1").bind(hash).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Ends all sessions of an account.
///
/// # Errors
/// Those of the database.
pub async fn end_sessions(tx: &mut Tx, account: &str) -> Result<(), StoreError> {
    query("DELETE FROM session WHERE account = $1").bind(account).execute(&mut **tx).await?;
    Ok(())
}

/// Ends the sessions of an account but one.
///
/// # Errors
/// Those of the database.
pub async fn end_other_sessions(tx: &mut Tx, account: &str, kept: &str) -> Result<(), StoreError> {
    let delete = query("DELETE FROM session WHERE account = $1 AND hash <> $2");
    delete.bind(account).bind(kept).execute(&mut **tx).await?;
    Ok(())
}

/// Removes sessions that have ended by now, or were not used since `unused_since_ms`.
///
/// # Errors
/// Those of the database.
pub async fn forget_sessions(
    tx: &mut Tx,
    now_ms: i64,
    unused_since_ms: i64,
) -> Result<(), StoreError> {
    let delete = query("DELETE FROM session WHERE ends_ms <= $1 OR used_ms <= $2");
    delete.bind(now_ms).bind(unused_since_ms).execute(&mut **tx).await?;
    Ok(())
}

/// Gives an account a password, or another one. `hash` is a PHC string.
///
/// # Errors
/// Those of the database.
pub async fn set_password(
    tx: &mut Tx,
    account: &str,
    hash: &str,
    by: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO credential (account, kind, secret, set_by, set_ms) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (account, kind) DO UPDATE SET \
                     secret = excluded.secret, set_by = excluded.set_by, set_ms = excluded.set_ms";
    query(statement)
        .bind(account)
        .bind(PASSWORD)
        .bind(hash)
        .bind(by)
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
