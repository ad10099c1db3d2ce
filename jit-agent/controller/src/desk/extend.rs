//! More time for a request. Extensions of one request stand in a row: each begins at the end of the last.

use super::{Ask, Desk, DeskError, Preview, approve, enabled, end::ended_already, submit};
use crate::{
    model::{Account, Outcome},
    store::{Request, chains, requests},
};

/// An extension begins so long before the end of what it extends: hosts start it by their own clocks.
const OVERLAP_MS: i64 = 5_000;
/// How often it is tried again when others extend the same request at the same time: one of them
/// succeeds each time.
const MAX_TRIES: usize = 64;

impl Desk {
    /// Asks for more time: a request of its own, which begins at the end of this one, or of the last of
    /// those that extend it and have not ended.
    ///
    /// # Errors
    /// As of [`Desk::submit`]; or it has ended.
    pub async fn extend(
        &self,
        who: &Account,
        id: &str,
        duration_ms: i64,
        reason: &str,
        key: &str,
        now_ms: i64,
    ) -> Result<Request, DeskError> {
        enabled(who)?;
        for _ in 0..MAX_TRIES {
            let old =
                self.store().request(id).await?.filter(|old| old.proposal.requester == who.subject);
            let old = old.ok_or_else(|| DeskError::NotFound(format!("request {id} of yours")))?;
            let mut ask = Ask::of(&old.proposal);
            ask.duration_ms = duration_ms.saturating_add(OVERLAP_MS);
            ask.replaces = None;
            if !reason.is_empty() {
                reason.clone_into(&mut ask.reason);
            }
            if let Some(before) = self.extended_before(who, id, &ask, key).await? {
                return Ok(before);
            }
            let has_ended = || ended_already(id, old.state, &old.replaced_by);
            if old.state.is_final() || old.ends_ms == 0 {
                return Err(has_ended());
            }
            let first = self.store().first_of(id).await?;
            let seen = last_end_ms(&self.store().chain(&first).await?, now_ms);
            let last_ms = seen.ok_or_else(has_ended)?;
            ask.start_ms = Some((last_ms - OVERLAP_MS).max(now_ms));
            let Preview { proposal, verdict, hosts, .. } = self.preview(who, ask, now_ms).await?;
            let key = if key.is_empty() { proposal.id.clone() } else { key.to_owned() };
            let mut new = submit::new_request(who, proposal, verdict, &key);

            let mut tx = self.store().begin().await?;
            // Whoever extends the same request waits here, and sees this one then.
            requests::lock(&mut tx, &first).await?;
            if last_end_ms(&chains::of(&mut tx, &first).await?, now_ms) != seen {
                continue;
            }
            match requests::insert(&mut tx, &new).await {
                Ok(()) => {}
                // The key came with another wish at the same time: it is found the next time.
                Err(error) if error.is_duplicate() => continue,
                Err(error) => return Err(error.into()),
            }
            chains::follow(&mut tx, &new.proposal.id, &first, id).await?;
            submit::submitted(&mut tx, &new, now_ms).await?;
            if new.verdict.outcome == Outcome::Automatic {
                approve::approve(&mut tx, &mut new, &hosts, &[], now_ms).await?;
            }
            self.commit(tx).await?;
            return Ok(new);
        }
        Err(DeskError::Conflict(format!("many extend {id} at this moment; try again")))
    }

    /// The extension that this key belongs to. Its beginning is not compared: others follow it meanwhile.
    async fn extended_before(
        &self,
        who: &Account,
        id: &str,
        ask: &Ask,
        key: &str,
    ) -> Result<Option<Request>, DeskError> {
        if key.is_empty() {
            return Ok(None);
        }
        let Some(before) = self.store().request_by_key(&who.subject, key).await? else {
            return Ok(None);
        };
        let extends = self.store().extended_by(&before.proposal.id).await?;
        let same = Ask { start_ms: ask.start_ms, ..Ask::of(&before.proposal) };
        if extends.as_deref() == Some(id) && same == *ask {
            return Ok(Some(before));
        }
        Err(submit::key_is_taken(key, &before))
    }
}

/// When the last of these ends that has not ended, is not denied, and is not replaced.
fn last_end_ms(chain: &[Request], now_ms: i64) -> Option<i64> {
    let live = chain.iter().filter(|one| !one.state.is_final() && one.replaced_by.is_empty());
    let end = |one: &Request| match one.ends_ms {
        // Nobody has agreed yet: it would end then.
        0 => one.proposal.start_ms.unwrap_or(now_ms).saturating_add(one.proposal.duration_ms),
        approved => approved,
    };
    live.map(end).max()
}
