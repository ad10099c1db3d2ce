//! Public keys of accounts. None is deleted: what it signed stays readable.

use sqlx::{Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};

/// A public key of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountKey {
    /// The hint in signatures, 16 hex digits: it follows from the key.
    pub key_id: String,
    /// The account whose key it is.
    pub account: String,
    /// `Ed25519` or `ECDSA P-256`.
    pub algorithm: String,
    /// SubjectPublicKeyInfo in PEM.
    pub public_key: String,
    /// The subject who added it.
    pub added_by: String,
    /// When it was added, milliseconds since the Unix epoch.
    pub added_ms: i64,
    /// When it was revoked; 0: it is not.
    pub revoked_ms: i64,
}

/// A key, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The key.
    pub key: AccountKey,
    /// The person or program of its account.
    pub subject: String,
    /// The account may do nothing any more.
    pub disabled: bool,
}

impl Store {
    /// The keys of an account, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn account_keys(&self, account: &str) -> Result<Vec<AccountKey>, StoreError> {
        let rows = "SELECT * FROM account_key WHERE account = $1 ORDER BY added_ms, key_id";
        query(rows).bind(account).fetch_all(self.pool()).await?.iter().map(key).collect()
    }
}

/// The key with this id, as this transaction sees it.
///
/// # Errors
/// Those of the database.
pub async fn find(tx: &mut Tx, key_id: &str) -> Result<Option<Owned>, StoreError> {
    let row = query(
        "SELECT account_key.*, subject, disabled FROM account_key \
         JOIN account ON account.name = account_key.account WHERE key_id = $1",
    );
    let row = row.bind(key_id).fetch_optional(&mut **tx).await?;
    let owned = |row: &AnyRow| {
        Ok(Owned {
            key: key(row)?,
            subject: row.try_get("subject")?,
            disabled: row.try_get::<i64, _>("disabled")? != 0,
        })
    };
    row.as_ref().map(owned).transpose()
}

/// Adds a key, or lets one that was revoked count again. Returns `false` if it is of another account.
///
/// # Errors
/// Those of the database.
pub async fn put(tx: &mut Tx, new: &AccountKey) -> Result<bool, StoreError> {
    let statement = "INSERT INTO account_key (key_id, account, algorithm, public_key, added_by, \
                     added_ms, revoked_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                     ON CONFLICT (key_id) DO UPDATE SET added_by = excluded.added_by, \
                     added_ms = excluded.added_ms, revoked_ms = excluded.revoked_ms \
                     WHERE account_key.account = excluded.account";
    let done = query(statement)
        .bind(new.key_id.as_str())
        .bind(new.account.as_str())
        .bind(new.algorithm.as_str())
        .bind(new.public_key.as_str())
        .bind(new.added_by.as_str())
        .bind(new.added_ms)
        .bind(new.revoked_ms)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Revokes a key of an account; returns whether it had such a one.
///
/// # Errors
/// Those of the database.
pub async fn revoke(
    tx: &mut Tx,
    account: &str,
    key_id: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let update = query(
        "UPDATE account_key SET revoked_ms = $3 WHERE account = $1 AND key_id = $2 AND revoked_ms = 0",
    );
    let done = update.bind(account).bind(key_id).bind(now_ms).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

fn key(row: &AnyRow) -> Result<AccountKey, StoreError> {
    Ok(AccountKey {
        key_id: row.try_get("key_id")?,
        account: row.try_get("account")?,
        algorithm: row.try_get("algorithm")?,
        public_key: row.try_get("public_key")?,
        added_by: row.try_get("added_by")?,
        added_ms: row.try_get("added_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
    })
}
