//! Accounts and their tokens. A token's text is never stored: only its hash.
//!
//! Groups that the provider of sign-ins gives count only for a while. Who acts is read by
//! [`Store::acting`] or [`Store::acting_of`], which leave out those that have lapsed; all others
//! read what is set.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
};
use crate::model::Account;

/// A token, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name in lists: a ULID.
    pub id: String,
    /// SHA-256 of its text, as 64 hex digits.
    pub hash: String,
    /// The account that it acts for.
    pub account: String,
    /// What it may do.
    pub scopes: BTreeSet<String>,
    /// What it is for, in words.
    pub label: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it ends.
    pub ends_ms: i64,
    /// When it was last used, to the minute; 0: never.
    pub used_ms: i64,
    /// When it was revoked; 0: it is not.
    pub revoked_ms: i64,
}

impl Store {
    /// All accounts, by name, with all groups that are set.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let rows = query(ALL).fetch_all(self.pool()).await?;
        rows.iter().map(account).collect()
    }

    /// The account with this name, with all groups that are set.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn account(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let row = query("SELECT * FROM account WHERE name = $1").bind(name);
        row.fetch_optional(self.pool()).await?.as_ref().map(account).transpose()
    }

    /// The account with this name, as it acts at a moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn acting(&self, name: &str, now_ms: i64) -> Result<Option<Account>, StoreError> {
        let select = format!("{ACTING} WHERE account.name = $1");
        let row = query(AssertSqlSafe(select)).bind(name).fetch_optional(self.pool()).await?;
        row.map(|row| acting(&row, now_ms)).transpose()
    }

    /// The accounts of a person, by name, as they act at a moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn acting_of(&self, subject: &str, now_ms: i64) -> Result<Vec<Account>, StoreError> {
        let select = format!("{ACTING} WHERE account.subject = $1 ORDER BY account.name");
        let rows = query(AssertSqlSafe(select)).bind(subject).fetch_all(self.pool()).await?;
        rows.iter().map(|row| acting(row, now_ms)).collect()
    }

    /// The token with this hash, whether it has ended or not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn token(&self, hash: &str) -> Result<Option<Token>, StoreError> {
        let row = query("SELECT * FROM token WHERE hash = $1").bind(hash);
        row.fetch_optional(self.pool()).await?.as_ref().map(token).transpose()
    }

    /// The tokens of an account, the newest first; of all accounts without a name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tokens(&self, of: Option<&str>) -> Result<Vec<Token>, StoreError> {
        let rows = query("SELECT * FROM token WHERE $1 = '' OR account = $1 ORDER BY id DESC");
        let rows = rows.bind(of.unwrap_or_default()).fetch_all(self.pool()).await?;
        rows.iter().map(token).collect()
    }

    /// Records that a token was used.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn token_used(&self, id: &str, now_ms: i64) -> Result<(), StoreError> {
        let update = query("UPDATE token SET used_ms = $2 WHERE id = $1").bind(id).bind(now_ms);
        self.change(update).await?;
        Ok(())
    }
}

/// All accounts, by name, with all groups that are set, inside of a change.
///
/// # Errors
/// Those of the database.
pub async fn all(tx: &mut Tx) -> Result<Vec<Account>, StoreError> {
    let rows = query(ALL).fetch_all(&mut **tx).await?;
    rows.iter().map(account).collect()
}

/// The accounts of a person, by name, with all groups that are set. Nobody else changes them until
/// the end of the transaction.
///
/// # Errors
/// Those of the database.
pub async fn of_person(tx: &mut Tx, subject: &str) -> Result<Vec<Account>, StoreError> {
    // The change of the rows locks them on Postgres; on SQLite the transaction is alone anyway.
    let update = "UPDATE account SET created_ms = created_ms WHERE subject = $1 RETURNING *";
    let rows = query(update).bind(subject).fetch_all(&mut **tx).await?;
    let mut all = rows.iter().map(account).collect::<Result<Vec<_>, _>>()?;
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The account with this name, with all groups that are set. Nobody else changes it until the end
/// of the transaction.
///
/// # Errors
/// Those of the database.
pub async fn lock(tx: &mut Tx, name: &str) -> Result<Option<Account>, StoreError> {
    let update = query("UPDATE account SET created_ms = created_ms WHERE name = $1 RETURNING *");
    update.bind(name).fetch_optional(&mut **tx).await?.as_ref().map(account).transpose()
}

/// Makes an account, or changes what it says. One that is enabled again, or is another person's, is
/// bound to the provider anew.
///
/// # Errors
/// Those of the database.
pub async fn put(tx: &mut Tx, account: &Account) -> Result<(), StoreError> {
    if !account.disabled {
        let unbind = "UPDATE oidc_account SET issuer = '', sub = '' WHERE account IN \
                      (SELECT name FROM account WHERE name = $1 AND (subject <> $2 OR disabled <> 0))";
        let unbind = query(unbind).bind(account.name.as_str()).bind(account.subject.as_str());
        unbind.execute(&mut **tx).await?;
    }
    let statement = "INSERT INTO account (name, subject, groups_json, disabled, created_ms) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO UPDATE SET \
                     subject = excluded.subject, groups_json = excluded.groups_json, \
                     disabled = excluded.disabled";
    query(statement)
        .bind(account.name.as_str())
        .bind(account.subject.as_str())
        .bind(to_json(&account.groups))
        .bind(i64::from(account.disabled))
        .bind(account.created_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Makes an account; returns whether its name was free.
///
/// # Errors
/// Those of the database.
pub async fn add(tx: &mut Tx, account: &Account) -> Result<bool, StoreError> {
    let statement = "INSERT INTO account (name, subject, groups_json, disabled, created_ms) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING";
    let done = query(statement)
        .bind(account.name.as_str())
        .bind(account.subject.as_str())
        .bind(to_json(&account.groups))
        .bind(i64::from(account.disabled))
        .bind(account.created_ms)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Changes the groups of an account, and nothing else; returns whether it is there and not
/// disabled.
///
/// # Errors
/// Those of the database.
pub async fn set_groups(
    tx: &mut Tx,
    name: &str,
    groups: &BTreeSet<String>,
) -> Result<bool, StoreError> {
    let update = query("UPDATE account SET groups_json = $2 WHERE name = $1 AND disabled = 0");
    let done = update.bind(name).bind(to_json(groups)).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Adds a token.
///
/// # Errors
/// Those of the database.
pub async fn add_token(tx: &mut Tx, token: &Token) -> Result<(), StoreError> {
    let statement = "INSERT INTO token (id, hash, account, scopes_json, label, created_ms, ends_ms, \
                     used_ms, revoked_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    query(statement)
        .bind(token.id.as_str())
        .bind(token.hash.as_str())
        .bind(token.account.as_str())
        .bind(to_json(&token.scopes))
        .bind(token.label.as_str())
        .bind(token.created_ms)
        .bind(token.ends_ms)
        .bind(token.used_ms)
        .bind(token.revoked_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Ends a token; returns whether there was such a one.
///
/// # Errors
/// Those of the database.
pub async fn revoke_token(tx: &mut Tx, id: &str, now_ms: i64) -> Result<bool, StoreError> {
    let update = query("UPDATE token SET revoked_ms = $2 WHERE id = $1 AND revoked_ms = 0");
    let done = update.bind(id).bind(now_ms).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

const ALL: &str = "SELECT * FROM account ORDER BY name";

/// What [`acting`] reads.
const ACTING: &str = "SELECT account.*, COALESCE(oidc_account.groups_json, '[]') AS follow_json, \
                      COALESCE(oidc_account.groups_until_ms, 0) AS until_ms FROM account \
                      LEFT JOIN oidc_account ON oidc_account.account = account.name";

/// An account without groups of the provider that have lapsed.
fn acting(row: &AnyRow, now_ms: i64) -> Result<Account, StoreError> {
    let mut account = account(row)?;
    if row.try_get::<i64, _>("until_ms")? <= now_ms {
        let follow: BTreeSet<String> =
            json("groups that follow the provider", row.try_get("follow_json")?)?;
        account.groups.retain(|group| !follow.contains(group));
    }
    Ok(account)
}

fn account(row: &AnyRow) -> Result<Account, StoreError> {
    Ok(Account {
        name: row.try_get("name")?,
        subject: row.try_get("subject")?,
        groups: json("groups of an account", row.try_get("groups_json")?)?,
        disabled: row.try_get::<i64, _>("disabled")? != 0,
        created_ms: row.try_get("created_ms")?,
    })
}

fn token(row: &AnyRow) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.try_get("id")?,
        hash: row.try_get("hash")?,
        account: row.try_get("account")?,
        scopes: json("scopes of a token", row.try_get("scopes_json")?)?,
        label: row.try_get("label")?,
        created_ms: row.try_get("created_ms")?,
        ends_ms: row.try_get("ends_ms")?,
        used_ms: row.try_get("used_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
    })
}
