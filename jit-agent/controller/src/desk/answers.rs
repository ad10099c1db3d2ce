//! What hosts answer, and what that makes of a request.

use serde_json::json;

use super::{Desk, DeskError, end};
use crate::{
    audit::{self, Code, Record},
    model::{Answer, State, state::of_answers},
    store::{Delivery, Wanted, deliveries, requests},
};

impl Desk {
    /// Keeps a host's answer, and the request's state that follows from all answers. An answer to what
    /// is no longer wanted changes nothing.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn answered(
        &self,
        of: &Delivery,
        answer: Answer,
        word: &str,
        detail: &str,
        now_ms: i64,
    ) -> Result<(), DeskError> {
        let mut tx = self.store().begin().await?;
        let mut request = Self::lock(&mut tx, &of.request).await?;
        if !deliveries::answered(&mut tx, of, answer, word, detail, now_ms).await? {
            return Ok(());
        }
        let fields = json!({
            "grant": of.grant_id, "host": of.host, "wanted": of.wanted.word(), "answer": answer.word(),
            "word": word, "detail": detail,
        });
        let record = Record::new(Code::Answered, &of.request, &of.host, fields);
        audit::append(&mut tx, now_ms, &record).await?;
        let follows = request.state.is_on_hosts() || request.state == State::Refused;
        if of.wanted == Wanted::Grant && follows {
            let state = of_answers(&deliveries::tally(&mut tx, &of.request).await?);
            if state == State::Open || state == State::Partly {
                end::replaced(&mut tx, &request, now_ms).await?;
            }
            if state != request.state {
                request.state = state;
                requests::update(&mut tx, &request).await?;
            }
        }
        self.commit(tx).await
    }

    /// Keeps that a host did not answer, and why. The first time is in the audit.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn failed(
        &self,
        of: &Delivery,
        trouble: &str,
        now_ms: i64,
        next_ms: i64,
    ) -> Result<(), DeskError> {
        let mut tx = self.store().begin().await?;
        deliveries::failed(&mut tx, of, trouble, now_ms, next_ms).await?;
        if of.trouble.is_empty() {
            let fields = json!({
                "grant": of.grant_id, "host": of.host, "wanted": of.wanted.word(),
                "answer": "none", "detail": trouble,
            });
            let record = Record::new(Code::Answered, &of.request, &of.host, fields);
            audit::append(&mut tx, now_ms, &record).await?;
            return self.commit(tx).await;
        }
        // Nobody waits for the tenth failure.
        Ok(tx.commit().await?)
    }
}
