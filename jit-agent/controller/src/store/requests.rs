//! Requests and decisions.

use sqlx::{Row as _, any::AnyRow, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
};
use crate::model::{Account, Decision, Outcome, Proposal, Ruling, State, Verdict};

/// A request as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What was asked. It never changes.
    pub proposal: Proposal,
    /// Its hash.
    pub hash: String,
    /// The account that submitted it.
    pub account: String,
    /// The client's own key, unique for the requester.
    pub idempotency_key: String,
    /// Its state.
    pub state: State,
    /// What the rules said when it was submitted.
    pub verdict: Verdict,
    /// Why it is in this state, in words; empty: there is no more to say.
    pub why: String,
    /// When others are asked too, milliseconds since the Unix epoch; 0: never, or it has happened.
    pub escalate_ms: i64,
    /// When the grant ends; 0: it is not approved.
    pub ends_ms: i64,
    /// The request that replaces it; empty: none.
    pub replaced_by: String,
    /// Rises with each change.
    pub revision: i64,
}

impl Request {
    /// Whether an account is one of who asked: by its subject, or by its name if it has another
    /// subject now. Who only shortened it has asked for nothing.
    pub fn is_asked_by(&self, account: &Account) -> bool {
        account.subject == self.proposal.requester
            || (account.name == self.account && !self.is_shortened())
    }

    /// Whether no host has it yet, and one may get it.
    pub const fn is_unfinished(&self) -> bool {
        matches!(self.state, State::Pending | State::Approved | State::AwaitingSignatures)
    }

    /// Whether it only gives an earlier end to one that was approved. Its verdict names no rule.
    pub fn is_shortened(&self) -> bool {
        self.verdict.outcome == Outcome::Automatic && self.verdict.rules.is_empty()
    }
}

/// Which requests, and how many. Empty texts ask for all.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Only of this requester.
    pub requester: String,
    /// Only in this state.
    pub state: Option<State>,
    /// Only about this host.
    pub host: String,
    /// Only older than this one; empty: from the newest on.
    pub before: String,
    /// At most this number.
    pub most: u32,
}

impl Store {
    /// The request with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn request(&self, id: &str) -> Result<Option<Request>, StoreError> {
        let row = query("SELECT * FROM request WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(request).transpose()
    }

    /// The request that this requester submitted with this key.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn request_by_key(
        &self,
        requester: &str,
        key: &str,
    ) -> Result<Option<Request>, StoreError> {
        let row = query("SELECT * FROM request WHERE requester = $1 AND idempotency_key = $2");
        let row = row.bind(requester).bind(key).fetch_optional(self.pool()).await?;
        row.as_ref().map(request).transpose()
    }

    /// Requests, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn requests(&self, page: &Page) -> Result<Vec<Request>, StoreError> {
        let before = if page.before.is_empty() { "~" } else { &page.before };
        let state = page.state.map_or("", State::word);
        // A statement for each kind of list, so that each has its index.
        let rows = match (page.host.is_empty(), page.requester.is_empty(), state.is_empty()) {
            (true, true, true) => {
                let rows = "SELECT * FROM request WHERE id < $1 ORDER BY id DESC LIMIT $2";
                query(rows).bind(before).bind(i64::from(page.most))
            }
            (true, true, false) => {
                let rows = "SELECT * FROM request WHERE state = $1 AND id < $2 \
                            ORDER BY id DESC LIMIT $3";
                query(rows).bind(state).bind(before).bind(i64::from(page.most))
            }
            (true, false, _) => {
                let rows = "SELECT * FROM request WHERE requester = $1 AND id < $2 \
                            AND ($3 = '' OR state = $3) ORDER BY id DESC LIMIT $4";
                let rows = query(rows).bind(page.requester.as_str()).bind(before);
                rows.bind(state).bind(i64::from(page.most))
            }
            (false, _, _) => {
                let rows = "SELECT request.* FROM request_host JOIN request ON request.id = request \
                            WHERE request_host.host = $1 AND request_host.request < $2 \
                            AND ($3 = '' OR requester = $3) AND ($4 = '' OR state = $4) \
                            ORDER BY request_host.request DESC LIMIT $5";
                let rows = query(rows).bind(page.host.as_str()).bind(before);
                rows.bind(page.requester.as_str()).bind(state).bind(i64::from(page.most))
            }
        };
        rows.fetch_all(self.pool()).await?.iter().map(request).collect()
    }

    /// Requests that were submitted in this time, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn requests_between(
        &self,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<Request>, StoreError> {
        let rows = "SELECT * FROM request WHERE created_ms >= $1 AND created_ms < $2 ORDER BY id";
        let rows = query(rows).bind(from_ms).bind(to_ms).fetch_all(self.pool()).await?;
        rows.iter().map(request).collect()
    }

    /// Decisions on a request, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn decisions(&self, request: &str) -> Result<Vec<Decision>, StoreError> {
        let rows = query("SELECT * FROM decision WHERE request = $1 ORDER BY at_ms, subject");
        rows.bind(request).fetch_all(self.pool()).await?.iter().map(decision).collect()
    }

    /// Requests in a state whose time for people to agree ends, or whose escalation is due, by now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn requests_due(&self, now_ms: i64) -> Result<Vec<Request>, StoreError> {
        let rows = "SELECT * FROM request WHERE state = $1 AND (approve_until_ms <= $2 \
                    OR (escalate_ms > 0 AND escalate_ms <= $2)) ORDER BY id LIMIT 500";
        let rows = query(rows).bind(State::Pending.word()).bind(now_ms);
        rows.fetch_all(self.pool()).await?.iter().map(request).collect()
    }

    /// Requests with grants that are on hosts or about to be, or that hosts have ended since `made_ms`, before
    /// this id, or all, the newest first; at most `most`. Only those from `since` on: the others have ended.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn requests_to_close(
        &self,
        (since, before): (&str, &str),
        made_ms: i64,
        most: u32,
    ) -> Result<Vec<Request>, StoreError> {
        let rows = "SELECT * FROM request WHERE id >= $1 AND ($2 = '' OR id < $2) \
                    AND (state IN ('approved', 'awaiting_signatures', 'delivering', 'open', 'partly', \
                    'scheduled') OR (state = 'ended' AND replaced_by = '' AND ends_ms > $3 \
                    AND EXISTS (SELECT 1 FROM delivery WHERE delivery.request = request.id \
                    AND delivery.answered_ms >= $3))) ORDER BY id DESC LIMIT $4";
        let rows = query(rows).bind(since).bind(before).bind(made_ms).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(request).collect()
    }

    /// Requests that are on hosts and whose end has come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn requests_over(&self, now_ms: i64) -> Result<Vec<Request>, StoreError> {
        let rows = "SELECT * FROM request WHERE state IN ('approved', 'awaiting_signatures', \
                    'delivering', 'open', 'partly', 'scheduled') AND ends_ms > 0 AND ends_ms <= $1 \
                    ORDER BY id LIMIT 500";
        query(rows).bind(now_ms).fetch_all(self.pool()).await?.iter().map(request).collect()
    }
}

/// Adds a request.
///
/// # Errors
/// [`StoreError::is_duplicate`]: the requester has used the key before.
pub async fn insert(tx: &mut Tx, new: &Request) -> Result<(), StoreError> {
    let statement = "INSERT INTO request (id, requester, account, idempotency_key, proposal, hash, \
                     state, verdict_json, why, created_ms, approve_until_ms, escalate_ms, ends_ms, \
                     replaced_by, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
                     $12, $13, $14, $15)";
    query(statement)
        .bind(new.proposal.id.as_str())
        .bind(new.proposal.requester.as_str())
        .bind(new.account.as_str())
        .bind(new.idempotency_key.as_str())
        .bind(new.proposal.json())
        .bind(new.hash.as_str())
        .bind(new.state.word())
        .bind(to_json(&new.verdict))
        .bind(new.why.as_str())
        .bind(new.proposal.created_ms)
        .bind(new.proposal.approve_until_ms)
        .bind(new.escalate_ms)
        .bind(new.ends_ms)
        .bind(new.replaced_by.as_str())
        .bind(new.revision)
        .execute(&mut **tx)
        .await?;
    for host in &new.proposal.hosts {
        let statement = "INSERT INTO request_host (host, request) VALUES ($1, $2)";
        query(statement)
            .bind(host.as_str())
            .bind(new.proposal.id.as_str())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Reads a request for a change: nobody else changes it before this transaction ends.
///
/// # Errors
/// Those of the database.
pub async fn lock(tx: &mut Tx, id: &str) -> Result<Option<Request>, StoreError> {
    // The change of the row locks it on Postgres; on SQLite the transaction is alone anyway.
    let row =
        query("UPDATE request SET revision = revision + 1 WHERE id = $1 RETURNING *").bind(id);
    row.fetch_optional(&mut **tx).await?.as_ref().map(request).transpose()
}

/// What a person has asked for and no host has yet, the newest first, for a change.
///
/// # Errors
/// Those of the database.
pub async fn lock_unfinished(tx: &mut Tx, requester: &str) -> Result<Vec<Request>, StoreError> {
    let select = "SELECT id FROM request WHERE requester = $1 \
                  AND state IN ('pending', 'approved', 'awaiting_signatures') ORDER BY id DESC";
    let rows = query(select).bind(requester).fetch_all(&mut **tx).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.extend(lock(tx, row.try_get("id")?).await?);
    }
    // It may have gone on until it was locked.
    found.retain(Request::is_unfinished);
    Ok(found)
}

/// Writes what can change of a request that was read by [`lock`].
///
/// # Errors
/// Those of the database.
pub async fn update(tx: &mut Tx, changed: &Request) -> Result<(), StoreError> {
    let statement = "UPDATE request SET state = $2, why = $3, escalate_ms = $4, ends_ms = $5, \
                     replaced_by = $6 WHERE id = $1";
    query(statement)
        .bind(changed.proposal.id.as_str())
        .bind(changed.state.word())
        .bind(changed.why.as_str())
        .bind(changed.escalate_ms)
        .bind(changed.ends_ms)
        .bind(changed.replaced_by.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Adds a decision.
///
/// # Errors
/// [`StoreError::is_duplicate`]: this person has decided before.
pub async fn decide(tx: &mut Tx, new: &Decision) -> Result<(), StoreError> {
    let statement = "INSERT INTO decision (request, subject, account, ruling, groups_json, reason, \
                     hash, at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    query(statement)
        .bind(new.request.as_str())
        .bind(new.subject.as_str())
        .bind(new.account.as_str())
        .bind(new.ruling.word())
        .bind(to_json(&new.groups))
        .bind(new.reason.as_str())
        .bind(new.hash.as_str())
        .bind(new.at_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Decisions on a request, as this transaction sees them.
///
/// # Errors
/// Those of the database.
pub async fn decisions(tx: &mut Tx, request: &str) -> Result<Vec<Decision>, StoreError> {
    let rows = query("SELECT * FROM decision WHERE request = $1 ORDER BY at_ms, subject");
    rows.bind(request).fetch_all(&mut **tx).await?.iter().map(decision).collect()
}

pub(super) fn request(row: &AnyRow) -> Result<Request, StoreError> {
    let state: &str = row.try_get("state")?;
    Ok(Request {
        proposal: json("proposal", row.try_get("proposal")?)?,
        hash: row.try_get("hash")?,
        account: row.try_get("account")?,
        idempotency_key: row.try_get("idempotency_key")?,
        state: State::of_word(state).ok_or_else(|| StoreError::corrupt("state", state))?,
        verdict: json::<Verdict>("verdict", row.try_get("verdict_json")?)?,
        why: row.try_get("why")?,
        escalate_ms: row.try_get("escalate_ms")?,
        ends_ms: row.try_get("ends_ms")?,
        replaced_by: row.try_get("replaced_by")?,
        revision: row.try_get("revision")?,
    })
}

fn decision(row: &AnyRow) -> Result<Decision, StoreError> {
    let ruling: &str = row.try_get("ruling")?;
    Ok(Decision {
        request: row.try_get("request")?,
        subject: row.try_get("subject")?,
        account: row.try_get("account")?,
        ruling: match ruling {
            "approve" => Ruling::Approve,
            "deny" => Ruling::Deny,
            other => return Err(StoreError::corrupt("ruling", other)),
        },
        groups: json("groups of a decision", row.try_get("groups_json")?)?,
        reason: row.try_get("reason")?,
        hash: row.try_get("hash")?,
        at_ms: row.try_get("at_ms")?,
    })
}
