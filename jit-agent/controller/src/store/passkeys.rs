//! Passkeys of accounts, and the challenges that wait for one. No passkey is deleted: what it
//! signed stays readable.

use sqlx::{Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};

/// A passkey of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passkey {
    /// Id of the credential, base64url without padding.
    pub id: String,
    /// The account whose passkey it is.
    pub account: String,
    /// The hint in signatures, 16 hex digits: it follows from the key.
    pub key_id: String,
    /// What its owner calls it.
    pub name: String,
    /// `Ed25519` or `ECDSA P-256`.
    pub algorithm: String,
    /// SubjectPublicKeyInfo in PEM.
    pub public_key: String,
    /// The domain that it was made for.
    pub rp_id: String,
    /// How often its authenticator says that it has signed; many say 0 for ever.
    pub sign_count: i64,
    /// How browsers reach it: `internal`, `usb`, ..., with blanks between them.
    pub transports: String,
    /// When it was registered, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it was last used; 0: never.
    pub used_ms: i64,
    /// When it was removed; 0: it is not.
    pub removed_ms: i64,
}

/// A passkey, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedPasskey {
    /// The passkey.
    pub passkey: Passkey,
    /// The person or program of its account.
    pub subject: String,
    /// The account may do nothing any more.
    pub disabled: bool,
}

/// A challenge that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The challenge, base64url without padding.
    pub challenge: String,
    /// What it is for.
    pub purpose: String,
    /// Who asked for it.
    pub owner: String,
    /// When it ends, milliseconds since the Unix epoch.
    pub ends_ms: i64,
}

impl Store {
    /// The passkeys of an account that are not removed, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn passkeys(&self, account: &str) -> Result<Vec<Passkey>, StoreError> {
        let rows = "SELECT * FROM passkey WHERE account = $1 AND removed_ms = 0 \
                    ORDER BY created_ms, key_id";
        query(rows).bind(account).fetch_all(self.pool()).await?.iter().map(passkey).collect()
    }

    /// The passkey with this id of a credential, removed or not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn passkey(&self, id: &str) -> Result<Option<Passkey>, StoreError> {
        let row = query("SELECT * FROM passkey WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(passkey).transpose()
    }
}

/// The passkey with this id of its key, as this transaction sees it.
///
/// # Errors
/// Those of the database.
pub async fn of_key(tx: &mut Tx, key_id: &str) -> Result<Option<OwnedPasskey>, StoreError> {
    let row = query(
        "SELECT passkey.*, subject, disabled FROM passkey \
         JOIN account ON account.name = passkey.account WHERE key_id = $1",
    );
    let row = row.bind(key_id).fetch_optional(&mut **tx).await?;
    let owned = |row: &AnyRow| {
        Ok(OwnedPasskey {
            passkey: passkey(row)?,
            subject: row.try_get("subject")?,
            disabled: row.try_get::<i64, _>("disabled")? != 0,
        })
    };
    row.as_ref().map(owned).transpose()
}

/// Adds a passkey. Returns `false` if its credential or its key is there already, whosever it is.
///
/// # Errors
/// Those of the database.
pub async fn add(tx: &mut Tx, new: &Passkey) -> Result<bool, StoreError> {
    let statement = "INSERT INTO passkey (id, account, key_id, name, algorithm, public_key, rp_id, \
                     sign_count, transports, created_ms, used_ms, removed_ms) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING";
    let done = query(statement)
        .bind(new.id.as_str())
        .bind(new.account.as_str())
        .bind(new.key_id.as_str())
        .bind(new.name.as_str())
        .bind(new.algorithm.as_str())
        .bind(new.public_key.as_str())
        .bind(new.rp_id.as_str())
        .bind(new.sign_count)
        .bind(new.transports.as_str())
        .bind(new.created_ms)
        .bind(new.used_ms)
        .bind(new.removed_ms)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Names a passkey of an account anew; returns whether it has such a one.
///
/// # Errors
/// Those of the database.
pub async fn rename(
    tx: &mut Tx,
    account: &str,
    key_id: &str,
    name: &str,
) -> Result<bool, StoreError> {
    let update =
        query("UPDATE passkey SET name = $3 WHERE account = $1 AND key_id = $2 AND removed_ms = 0");
    let done = update.bind(account).bind(key_id).bind(name).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a passkey of an account; returns whether it had such a one.
///
/// # Errors
/// Those of the database.
pub async fn remove(
    tx: &mut Tx,
    account: &str,
    key_id: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let update = query(
        "UPDATE passkey SET removed_ms = $3 WHERE account = $1 AND key_id = $2 AND removed_ms = 0",
    );
    let done = update.bind(account).bind(key_id).bind(now_ms).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Writes down that a passkey was used, and its counter, which only rises. Returns whether it was
/// lower before, or has never counted: of two uses with the same count one is refused.
///
/// # Errors
/// Those of the database.
pub async fn used(
    tx: &mut Tx,
    key_id: &str,
    sign_count: i64,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let update = query(
        "UPDATE passkey SET sign_count = $2, used_ms = $3 WHERE key_id = $1 \
         AND (sign_count < $2 OR (sign_count = 0 AND $2 = 0))",
    );
    let done = update.bind(key_id).bind(sign_count).bind(now_ms).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps a challenge that was given, and forgets those that have ended.
///
/// # Errors
/// Those of the database.
pub async fn add_challenge(tx: &mut Tx, new: &Challenge, now_ms: i64) -> Result<(), StoreError> {
    let ended = query("DELETE FROM passkey_challenge WHERE ends_ms <= $1");
    ended.bind(now_ms).execute(&mut **tx).await?;
    let statement = "INSERT INTO passkey_challenge (challenge, purpose, owner, ends_ms) \
                     VALUES ($1, $2, $3, $4)";
    query(statement)
        .bind(new.challenge.as_str())
        .bind(new.purpose.as_str())
        .bind(new.owner.as_str())
        .bind(new.ends_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Takes a challenge: it is good once. `None`: it was never given, or taken before.
///
/// # Errors
/// Those of the database.
pub async fn take_challenge(tx: &mut Tx, challenge: &str) -> Result<Option<Challenge>, StoreError> {
    let row = query("SELECT * FROM passkey_challenge WHERE challenge = $1").bind(challenge);
    let Some(row) = row.fetch_optional(&mut **tx).await? else { return Ok(None) };
    let delete = query("DELETE FROM passkey_challenge WHERE challenge = $1").bind(challenge);
    // Somebody else may have taken it meanwhile.
    if delete.execute(&mut **tx).await?.rows_affected() != 1 {
        return Ok(None);
    }
    Ok(Some(Challenge {
        challenge: row.try_get("challenge")?,
        purpose: row.try_get("purpose")?,
        owner: row.try_get("owner")?,
        ends_ms: row.try_get("ends_ms")?,
    }))
}

fn passkey(row: &AnyRow) -> Result<Passkey, StoreError> {
    Ok(Passkey {
        id: row.try_get("id")?,
        account: row.try_get("account")?,
        key_id: row.try_get("key_id")?,
        name: row.try_get("name")?,
        algorithm: row.try_get("algorithm")?,
        public_key: row.try_get("public_key")?,
        rp_id: row.try_get("rp_id")?,
        sign_count: row.try_get("sign_count")?,
        transports: row.try_get("transports")?,
        created_ms: row.try_get("created_ms")?,
        used_ms: row.try_get("used_ms")?,
        removed_ms: row.try_get("removed_ms")?,
    })
}
