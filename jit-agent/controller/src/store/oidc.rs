//! What is kept of sign-ins at a provider: which session began with which of its sessions, and what counted
//! already.

use sqlx::{Row as _, query};

use super::{Store, StoreError, Tx};

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

impl Store {
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

/// Ends all sessions that began with this session of the provider, or with any of this subject if `sid` is
/// empty. An empty `subject` is any; both empty are none. Where the provider named no session, it may have
/// been this one. Returns the accounts that had some.
///
/// # Errors
/// Those of the database.
pub async fn end_sessions(
    tx: &mut Tx,
    subject: &str,
    sid: &str,
) -> Result<Vec<String>, StoreError> {
    if subject.is_empty() && sid.is_empty() {
        return Ok(Vec::new());
    }
    let select = "SELECT DISTINCT account FROM session WHERE hash IN (SELECT session FROM oidc_session \
                  WHERE ($1 = '' OR subject = $1) AND ($2 = '' OR sid = $2 OR (sid = '' AND $1 <> ''))) ORDER BY account";
    let rows = query(select).bind(subject).bind(sid).fetch_all(&mut **tx).await?;
    let delete = "DELETE FROM session WHERE hash IN (SELECT session FROM oidc_session \
                  WHERE ($1 = '' OR subject = $1) AND ($2 = '' OR sid = $2 OR (sid = '' AND $1 <> '')))";
    query(delete).bind(subject).bind(sid).execute(&mut **tx).await?;
    rows.iter().map(|row| Ok(row.try_get("account")?)).collect()
}
