//! What is kept of sign-ins at a provider: as whom an account came, which session began with which
//! of its sessions, and what counted already.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};
use sqlx::{Any, AnyConnection, Row as _, any::AnyRow, pool::PoolConnection, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
};

/// A session that began with a sign-in at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSession {
    /// SHA-256 of the session's secret, as 64 hex digits.
    pub session: String,
    /// Who it is, as the provider names people: the claim `sub`.
    pub subject: String,
    /// The provider's name for its own session; empty: it gave none.
    pub sid: String,
    /// The ID token, encrypted; empty: there is none.
    pub hint: String,
}

/// The last sign-in of an account at the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The provider; empty: the next sign-in says it anew.
    pub issuer: String,
    /// Who it is there: the claim `sub`; empty: the next sign-in says it anew.
    pub sub: String,
    /// The groups that follow the provider: those that it could give.
    pub groups: BTreeSet<String>,
    /// Until when they count, milliseconds since the Unix epoch.
    pub until_ms: i64,
}

impl Store {
    /// The last sign-in of an account at the provider; `None`: there was none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn arrival(&self, account: &str) -> Result<Option<Arrival>, StoreError> {
        let row = query(LAST).bind(account).fetch_optional(self.pool()).await?;
        row.as_ref().map(arrival).transpose()
    }

    /// A connection, to look at something outside of a change.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn reading(&self) -> Result<PoolConnection<Any>, StoreError> {
        Ok(self.pool().acquire().await?)
    }

    /// What the provider said of a session; `None`: it began otherwise, or has ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn provider_session(
        &self,
        session: &str,
    ) -> Result<Option<ProviderSession>, StoreError> {
        let row = query("SELECT * FROM oidc_session WHERE session = $1").bind(session);
        let row = row.fetch_optional(self.pool()).await?;
        row.map(|row| {
            Ok(ProviderSession {
                session: row.try_get("session")?,
                subject: row.try_get("subject")?,
                sid: row.try_get("sid")?,
                hint: row.try_get("hint")?,
            })
        })
        .transpose()
    }
}

/// Records with what a session began.
///
/// # Errors
/// Those of the database.
pub async fn add(tx: &mut Tx, new: &ProviderSession) -> Result<(), StoreError> {
    let statement =
        "INSERT INTO oidc_session (session, subject, sid, hint) VALUES ($1, $2, $3, $4)";
    query(statement)
        .bind(new.session.as_str())
        .bind(new.subject.as_str())
        .bind(new.sid.as_str())
        .bind(new.hint.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Records that something counts, until when it would; returns whether it is the first time.
///
/// # Errors
/// Those of the database.
pub async fn once(tx: &mut Tx, hash: &str, ends_ms: i64, now_ms: i64) -> Result<bool, StoreError> {
    let forget = query("DELETE FROM oidc_used WHERE ends_ms <= $1").bind(now_ms);
    forget.execute(&mut **tx).await?;
    let statement = "INSERT INTO oidc_used (hash, ends_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    let done = query(statement).bind(hash).bind(ends_ms).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Ends the sessions that the provider names: of one of its sessions, or of all of a person if
/// `sid` is empty. An empty `sub` is any; both empty are none. Where the provider named no session,
/// it may have been this one. Of an account that has no session of the provider any more all other
/// sessions end too, however they began, and so do the groups that follow the provider. Without a
/// session that holds for all accounts of the person: those that are bound to him, and those of a
/// subject of his; `subject`: what the provider's name for him is here, or empty. Returns the
/// accounts for which something has ended.
///
/// # Errors
/// Those of the database.
pub async fn end_sessions(
    tx: &mut Tx,
    (issuer, sub): (&str, &str),
    subject: &str,
    sid: &str,
) -> Result<BTreeSet<String>, StoreError> {
    if sub.is_empty() && sid.is_empty() {
        return Ok(BTreeSet::new());
    }
    let select = "SELECT DISTINCT account FROM session WHERE hash IN (SELECT session FROM oidc_session \
                  WHERE ($1 = '' OR subject = $1) AND ($2 = '' OR sid = $2 OR (sid = '' AND $1 <> '')))";
    let rows = query(select).bind(sub).bind(sid).fetch_all(&mut **tx).await?;
    let mut ended = names(&rows)?;
    let delete = "DELETE FROM session WHERE hash IN (SELECT session FROM oidc_session \
                  WHERE ($1 = '' OR subject = $1) AND ($2 = '' OR sid = $2 OR (sid = '' AND $1 <> '')))";
    query(delete).bind(sub).bind(sid).execute(&mut **tx).await?;
    let theirs = "SELECT name AS account FROM account WHERE $2 <> '' AND (name IN \
                  (SELECT account FROM oidc_account WHERE issuer = $1 AND sub = $2) \
                  OR ($3 = '' AND subject <> '' AND (subject = $4 OR subject IN (SELECT subject FROM account \
                  WHERE name IN (SELECT account FROM oidc_account WHERE issuer = $1 AND sub = $2)))))";
    let theirs = query(theirs).bind(issuer).bind(sub).bind(sid).bind(subject);
    let rows = theirs.fetch_all(&mut **tx).await?;
    for account in names(&rows)?.union(&ended.clone()) {
        let left = "SELECT COUNT(*) AS count FROM oidc_session JOIN session \
                    ON session.hash = oidc_session.session WHERE session.account = $1";
        let left = query(left).bind(account.as_str()).fetch_one(&mut **tx).await?;
        if left.try_get::<i64, _>("count")? > 0 {
            continue;
        }
        let lapse = "UPDATE oidc_account SET groups_until_ms = 0 \
                     WHERE account = $1 AND groups_until_ms <> 0";
        let lapsed = query(lapse).bind(account.as_str()).execute(&mut **tx).await?;
        let delete = "DELETE FROM session WHERE account = $1";
        let others = query(delete).bind(account.as_str()).execute(&mut **tx).await?;
        if lapsed.rows_affected() + others.rows_affected() > 0 {
            ended.insert(account.clone());
        }
    }
    Ok(ended)
}

/// Records that an account has signed in at the provider, and as whom.
///
/// # Errors
/// Those of the database.
pub async fn arrived(tx: &mut Tx, account: &str, new: &Arrival) -> Result<(), StoreError> {
    let statement = "INSERT INTO oidc_account (account, issuer, sub, groups_json, groups_until_ms) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (account) DO UPDATE SET \
                     issuer = excluded.issuer, sub = excluded.sub, \
                     groups_json = excluded.groups_json, groups_until_ms = excluded.groups_until_ms";
    query(statement)
        .bind(account)
        .bind(new.issuer.as_str())
        .bind(new.sub.as_str())
        .bind(to_json(&new.groups))
        .bind(new.until_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The last sign-in of an account at the provider, for a change.
///
/// # Errors
/// Those of the database.
pub async fn last(tx: &mut Tx, account: &str) -> Result<Option<Arrival>, StoreError> {
    let row = query(LAST).bind(account).fetch_optional(&mut **tx).await?;
    row.as_ref().map(arrival).transpose()
}

/// To whom an account is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tie {
    /// To this person.
    Bound,
    /// This person is bound to an account of another subject.
    Elsewhere {
        /// Its name.
        account: String,
        /// Its subject.
        subject: String,
    },
    /// To nobody.
    Free,
    /// To somebody else.
    Other,
}

/// To whom an account is bound, seen from a person: the claims `iss` and `sub`, and his subject
/// here. Without an account only whether he is bound elsewhere.
///
/// # Errors
/// Those of the database.
pub async fn tie(
    on: &mut AnyConnection,
    (issuer, sub): (&str, &str),
    subject: &str,
    account: Option<&str>,
) -> Result<Tie, StoreError> {
    let select = "SELECT account.name, account.subject FROM account JOIN oidc_account \
                  ON oidc_account.account = account.name WHERE oidc_account.issuer = $1 \
                  AND oidc_account.sub = $2 AND account.subject <> $3 ORDER BY account.name LIMIT 1";
    let row = query(select).bind(issuer).bind(sub).bind(subject).fetch_optional(&mut *on).await?;
    if let Some(row) = row {
        let (account, subject) = (row.try_get("name")?, row.try_get("subject")?);
        return Ok(Tie::Elsewhere { account, subject });
    }
    let Some(account) = account else { return Ok(Tie::Free) };
    let row = query(LAST).bind(account).fetch_optional(on).await?;
    let bound = row.as_ref().map(arrival).transpose()?.unwrap_or_default();
    Ok(match bound {
        Arrival { sub, .. } if sub.is_empty() => Tie::Free,
        bound if bound.issuer == issuer && bound.sub == sub => Tie::Bound,
        _ => Tie::Other,
    })
}

/// Until the end of the transaction nobody else binds an account to this person, or looks whether
/// he is bound.
/// `until_ms`: how long the row stays.
///
/// # Errors
/// Those of the database.
pub async fn lock_person(
    tx: &mut Tx,
    (issuer, sub): (&str, &str),
    until_ms: i64,
) -> Result<(), StoreError> {
    let hash = hex::encode(Sha256::digest(format!("person\0{issuer}\0{sub}")));
    let statement = "INSERT INTO oidc_used (hash, ends_ms) VALUES ($1, $2) \
                     ON CONFLICT (hash) DO UPDATE SET ends_ms = excluded.ends_ms";
    query(statement).bind(hash).bind(until_ms).execute(&mut **tx).await?;
    Ok(())
}

/// Binds an account to a person of the provider, who has not signed in there: no group of it
/// follows the provider.
///
/// # Errors
/// Those of the database.
pub async fn bind(
    tx: &mut Tx,
    account: &str,
    (issuer, sub): (&str, &str),
) -> Result<(), StoreError> {
    let statement = "INSERT INTO oidc_account (account, issuer, sub, groups_json, groups_until_ms) \
                     VALUES ($1, $2, $3, '[]', 0) ON CONFLICT (account) DO UPDATE SET \
                     issuer = excluded.issuer, sub = excluded.sub";
    query(statement).bind(account).bind(issuer).bind(sub).execute(&mut **tx).await?;
    Ok(())
}

const LAST: &str = "SELECT * FROM oidc_account WHERE account = $1";

fn arrival(row: &AnyRow) -> Result<Arrival, StoreError> {
    Ok(Arrival {
        issuer: row.try_get("issuer")?,
        sub: row.try_get("sub")?,
        groups: json("groups that follow the provider", row.try_get("groups_json")?)?,
        until_ms: row.try_get("groups_until_ms")?,
    })
}

fn names(rows: &[AnyRow]) -> Result<BTreeSet<String>, StoreError> {
    rows.iter().map(|row| Ok(row.try_get("account")?)).collect()
}
